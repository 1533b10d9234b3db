"""Rays marched through a SIREN to the end without leaving the chip: one Triton kernel.

A block of rays keeps its state in registers. Each step its points go through the network by one
matrix product a hidden layer, with the weights staged through shared memory, and the rays are moved
as `masked_march.advance` does; the block ends when its last ray has converged. Nothing is
written but the results.

Products are `tf32x3`: each factor is split into two TF32 numbers and three products are summed,
which leaves errors near those of float32, some 1e-6 in the SDF. A single TF32 product keeps 10 bits
of the mantissa: errors of 5e-4 a factor, and each layer multiplies by 30 before the sine; the
SDF is then wrong by more than the threshold of 5e-5, and rays stop off the surface.

Imports triton, which is optional: import this module only where `has_triton` of
`utils.fast.tracing.gpu_tracer` says so.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from utils.fast.tracing.masked_march import MIN_STEP, NARROW, March
from utils.geometry.rays import Rays
from utils.geometry.sdf import SDF_THRESHOLD

BIG_BLOCK, SMALL_BLOCK = (128, 8), (32, 8)     # rays of a program, its warps; see `block_of`
MAX_STEPS = 256                   # rays along a flat face need most: 230 past a thin plate's
WIDTHS = (16, 32, 64, 128)        # a layer's weights must fit in shared memory: 64 KiB at 128


@dataclass(frozen=True)
class PackedSiren:
    """Weights of a chain of sine layers as the kernel reads them, the factor 30 folded in.

    Attributes:
        first: (4, W) weights of x, y, z and the bias.
        hidden, hidden_bias: (L, W, W) input row, output column; (L, W).
        last: (W + 1,) weights and bias.
    """

    first: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    last: Tensor


def pack(sdf: nn.Module) -> PackedSiren:
    """Read the weights of a `modules_sdf.SirenSDF` that `can_march` accepts."""
    with torch.no_grad():
        first, *hidden = sdf.layers[:-1]
        last, omega = sdf.layers[-1], first.omega
        width = len(first.bias)
        start = omega * torch.cat([first.weight.T, first.bias[None]])
        weights = [(layer.omega * layer.weight).T for layer in hidden]
        biases = [layer.omega * layer.bias for layer in hidden]
        stacked = torch.stack(weights) if hidden else start.new_zeros(0, width, width)
        stacked_bias = torch.stack(biases) if hidden else start.new_zeros(0, width)
        return PackedSiren(start.contiguous(), stacked.contiguous(), stacked_bias,
                           torch.cat([last.weight[0], last.bias[:1]]))


def can_march(sdf: object, device: torch.device) -> bool:
    """True for float32 chains of sine layers of one of WIDTHS, on a GPU that multiplies TF32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return False
    layers = list(getattr(sdf, "layers", []))
    return (getattr(sdf, "is_chain", False) and len(layers) >= 2
            and all(hasattr(layer, "omega") for layer in layers[:-1])
            and layers[0].out_features in WIDTHS and layers[0].weight.dtype == torch.float32)


def march_fused(net: PackedSiren, rays: Rays, state: March, *, precision: str = "tf32x3",
                block: tuple[int, int] | None = None) -> tuple[March, Tensor]:
    """March until all rays have converged, or MAX_STEPS.

    Args:
        net: of the device of the rays.
        rays: R rays, float32.
        state: from `begin_march`; of its fields t, low, value_low and going_mask are read.
        precision: of the matrix products, see the module's text.
        block: rays of a program and its warps; None: those of `block_of`.
    Returns:
        The state after the march, of whose bracket only value_high is kept; the number of SDF
        evaluations of rays that were going, a scalar on the device.
    """
    count, width = len(rays), net.first.shape[1]
    num_rays, num_warps = block_of(state.t.device, len(net.hidden)) if block is None else block
    num_blocks = triton.cdiv(count, num_rays)
    t, least, t_least, value_high = (torch.empty_like(state.t) for _ in range(4))
    going, hit = (torch.empty_like(t, dtype=torch.int8) for _ in range(2))
    spent = torch.zeros(num_blocks, dtype=torch.int32, device=t.device)
    if count:
        _march_kernel[(num_blocks,)](  # pyright: ignore[reportIndexIssue] triton's way to launch
            rays.origins_obj.contiguous(), rays.dirs_obj.contiguous(), rays.t_far.contiguous(),
            state.t.contiguous(), state.low.contiguous(), state.value_low.contiguous(),
            state.going_mask.to(torch.int8),
            net.first, net.hidden, net.hidden_bias, net.last,
            t, least, t_least, value_high, going, hit, spent, count,
            WIDTH=width, NUM_HIDDEN=len(net.hidden), BLOCK_RAYS=num_rays, STEPS=MAX_STEPS,
            ON=SDF_THRESHOLD, SHORTEST=MIN_STEP, NARROWEST=NARROW, PRECISION=precision,
            num_warps=num_warps, num_stages=1)
    zero = torch.zeros_like(t)
    ended = March(t, zero, zero, zero, value_high, zero, least, t_least, going.bool(), hit.bool())
    return ended, spent.sum()


def block_of(device: torch.device, num_hidden: int) -> tuple[int, int]:
    """Rays and warps of a program on a device, for a network of some hidden layers.

    Compiled for width 128, the big block takes 128 KiB of shared memory and writes some 0.6 KiB a
    thread from registers to memory on compute capability 9, 0.2 on 10. Others have less of both, or
    no matrix units that read shared memory: there the small block takes 64 KiB and writes 0.4 KiB
    (with four warps 1.3, as has a block of 64 rays with four warps on 9; the big one 8).
    A network with one hidden layer takes the small block everywhere: Triton 3.6 does not compile
    the big one for it and capability 10.
    """
    is_big = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)
    return BIG_BLOCK if is_big and num_hidden != 1 else SMALL_BLOCK


@triton.jit
def _sdf(x, y, z, first, hidden, hidden_bias, last,
         WIDTH: tl.constexpr, NUM_HIDDEN: tl.constexpr, PRECISION: tl.constexpr):
    """SDF (BLOCK,) at points (x, y, z), each (BLOCK,)."""
    rows = tl.arange(0, WIDTH)
    columns = tl.arange(0, WIDTH)
    # the first layer has three inputs: too few for the matrix units, and in exact float32
    phase = (x[:, None] * tl.load(first + columns)[None, :]
             + y[:, None] * tl.load(first + WIDTH + columns)[None, :]
             + z[:, None] * tl.load(first + 2 * WIDTH + columns)[None, :]
             + tl.load(first + 3 * WIDTH + columns)[None, :])
    for layer in range(NUM_HIDDEN):
        place = layer * WIDTH * WIDTH
        weight = tl.load(hidden + place + rows[:, None] * WIDTH + columns[None, :])
        bias = tl.load(hidden_bias + layer * WIDTH + columns)
        phase = tl.dot(tl.sin(phase), weight, input_precision=PRECISION) + bias[None, :]
    weight = tl.load(last + columns)
    return tl.sum(tl.sin(phase) * weight[None, :], 1) + tl.load(last + WIDTH)


@triton.jit
def _march_kernel(origins, dirs, ends, starts, lows, low_values, open_flags,
                  first, hidden, hidden_bias, last,
                  out_t, out_least, out_t_least, out_high, out_going, out_hit, out_spent, count,
                  WIDTH: tl.constexpr, NUM_HIDDEN: tl.constexpr, BLOCK_RAYS: tl.constexpr,
                  STEPS: tl.constexpr, ON: tl.constexpr, SHORTEST: tl.constexpr,
                  NARROWEST: tl.constexpr, PRECISION: tl.constexpr):
    """BLOCK_RAYS rays; the lines of a step are those of `surface_march.advance`.

    Its many parameters are the pointers that a kernel takes one by one.
    """
    index = tl.program_id(0) * BLOCK_RAYS + tl.arange(0, BLOCK_RAYS)
    real = index < count
    ox = tl.load(origins + 3 * index, mask=real, other=0.0)
    oy = tl.load(origins + 3 * index + 1, mask=real, other=0.0)
    oz = tl.load(origins + 3 * index + 2, mask=real, other=0.0)
    dx = tl.load(dirs + 3 * index, mask=real, other=0.0)
    dy = tl.load(dirs + 3 * index + 1, mask=real, other=0.0)
    dz = tl.load(dirs + 3 * index + 2, mask=real, other=0.0)
    t_far = tl.load(ends + index, mask=real, other=0.0)
    t = tl.load(starts + index, mask=real, other=0.0)
    low = tl.load(lows + index, mask=real, other=0.0)
    value_low = tl.load(low_values + index, mask=real, other=0.0)
    going = tl.load(open_flags + index, mask=real, other=0) != 0
    high = tl.zeros_like(t)
    value_high = tl.zeros_like(t)
    side = tl.zeros_like(t)
    least = tl.zeros_like(t) + float("inf")
    t_least = t
    hit = index < 0                                       # none
    spent = 0
    step = 0
    num_open = tl.sum(going.to(tl.int32), 0)
    while (step < STEPS) & (num_open > 0):
        spent += num_open
        value = _sdf(ox + t * dx, oy + t * dy, oz + t * dz, first, hidden, hidden_bias, last,
                     WIDTH, NUM_HIDDEN, PRECISION)
        lower = going & (value < least)
        t_least = tl.where(lower, t, t_least)
        least = tl.where(lower, value, least)
        outside = value > 0
        begins_inside = (value < -ON) & (value_low == 0)
        new_high = tl.where(outside, tl.where(side > 0, 0.5, 1.0) * value_high, value)
        new_low = tl.where(outside, value, tl.where(side < 0, 0.5, 1.0) * value_low)
        t_low = tl.where(outside, t, low)
        t_high = tl.where(outside, high, t)
        has_bracket = new_high < 0
        narrow = has_bracket & (t_high - t_low <= NARROWEST)
        found = going & ((tl.abs(value) <= ON) | begins_inside | narrow)
        forward = tl.minimum(t + tl.maximum(value, SHORTEST), t_far)
        share = new_low / tl.maximum(new_low - new_high, 1e-12)
        next_t = tl.where(has_bracket, t_low + (t_high - t_low) * share, forward)
        left = going & (found == 0) & (has_bracket | (t < t_far))
        t = tl.where(left, next_t, t)
        low = tl.where(left, t_low, low)
        value_low = tl.where(left, new_low, value_low)
        high = tl.where(left, t_high, high)
        value_high = tl.where(left, new_high, value_high)
        side = tl.where(left, tl.where(outside, 1.0, -1.0), side)
        hit = hit | found
        going = left
        num_open = tl.sum(going.to(tl.int32), 0)
        step += 1
    tl.store(out_t + index, t, mask=real)
    tl.store(out_least + index, least, mask=real)
    tl.store(out_t_least + index, t_least, mask=real)
    tl.store(out_high + index, value_high, mask=real)
    tl.store(out_going + index, going.to(tl.int8), mask=real)
    tl.store(out_hit + index, hit.to(tl.int8), mask=real)
    tl.store(out_spent + tl.program_id(0), spent)
