"""The fused kernel against its plain twin, on triton's CPU interpreter and on a GPU.

The interpreter must be asked for before triton is imported, so one test starts this file again with
TRITON_INTERPRET=1. What the interpreter cannot show is how TF32 rounds: that is emulated.
"""
from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.sine_networks import sine_network
from support.tracing_cases import rays_inwards
from torch import Tensor

from modules import SdfArchitecture
from modules_sdf import SirenSDF, build_sdf
from sdf_rendering import trace_reference
from utils.fast.tracing.gpu_tracer import GridNodes, march_masked, skip_empty_space
from utils.fast.tracing.masked_march import (
    March,
    begin_march,
    march_plain,
)
from utils.geometry.rays import Rays
from utils.geometry.sdf import SDF_THRESHOLD

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is an extra (pip install triton)")
interpreted = pytest.mark.skipif(not (HAS_TRITON and IS_INTERPRETED),
                                 reason="runs where triton is interpreted")
needs_gpu = pytest.mark.skipif(not HAS_TRITON or not torch.cuda.is_available() or IS_INTERPRETED,
                               reason="needs a CUDA device, and triton compiled")


@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED,
                    reason="triton is an extra (pip install triton)")
def test_on_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-m", "pytest", "-k", "kernel", "-p",
                           "no:cacheprovider", __file__], env=environment, text=True,
                          cwd=Path(__file__).resolve().parents[4], capture_output=True,
                          timeout=300, check=False)
    assert told.returncode == 0, told.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", told.stdout).group(1)) >= 6


def march_both(net, rays: Rays, state: March) -> tuple[March, March, int, int]:
    """The kernel's state and its twin's, and the evaluations of going rays that each counted."""
    from utils.fast.tracing.triton_kernel import MAX_STEPS, march_fused, pack
    with torch.no_grad():
        fused, spent = march_fused(pack(net), rays, state)
        plain, count = state, 0
        for _ in range(MAX_STEPS):
            count += int(plain.going_mask.sum())
            plain = march_plain(net, rays, plain, 1)
    return fused, plain, int(spent), count


def cold(rays: Rays) -> March:
    """Rays that begin where they enter the sphere."""
    zero = torch.zeros_like(rays.t_near)
    return begin_march(rays.t_near, zero, zero, rays.sphere_mask)


def warm(net, rays: Rays) -> March:
    """Rays that begin where the grid lets go of them."""
    with torch.no_grad():
        return skip_empty_space(GridNodes(rays.t_near).sample(net), rays)


def assert_same(found: tuple[March, March, int, int], *, atol: float) -> None:
    """The same steps: sums of floats in another order, so single rays may settle a step apart."""
    fused, plain, spent, count = found
    assert (fused.hit_mask != plain.hit_mask).sum() <= 1
    assert (fused.going_mask != plain.going_mask).sum() <= 1
    assert abs(spent - count) <= 0.01 * count + 1
    both = fused.hit_mask & plain.hit_mask
    assert (fused.t - plain.t)[both].abs().median() <= atol
    met = fused.least.isfinite()
    assert torch.equal(met, plain.least.isfinite()) and met.any()
    assert (fused.least - plain.least)[met].abs().median() <= atol


@interpreted
@pytest.mark.parametrize("noise, seed", [(0.0, 1), (0.05, 2)])
def test_the_kernel_takes_the_steps_of_its_twin(noise, seed):
    """Seven rays are left over from whole blocks, some miss the sphere or the surface."""
    net, rays = sine_network(noise, seed), rays_inwards(71, seed=3, spread=0.5)
    state = warm(net, rays)
    assert_same(march_both(net, rays, state), atol=1e-6)


def sine_waves(waves: list[tuple[float, float, float]], phase: float, level: float) -> SirenSDF:
    """A SIREN without hidden layers: (level - sum of sin(w x + phase)) / (sum of |w|)."""
    net = build_sdf(SdfArchitecture(hidden_layers=0, hidden_dims=16))
    first, last = net.layers
    slope = sum(math.hypot(*wave) for wave in waves)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        first.weight[:len(waves)] = torch.tensor(waves) / first.omega
        first.bias[:len(waves)] = phase / first.omega
        last.weight[0, :len(waves)] = -1 / slope
        last.bias[0] = level / slope
    return net


#: Hard for a march: a rod of radius 0.01 along z, where cos 6x + cos 6y is near 2, that is flat
#: beside it; and a plane 0.5 from the centre, which rays meet at the far end of the sphere.
HARD = {"rod": ([(6.0, 0.0, 0.0), (0.0, 6.0, 0.0)], math.pi / 2, 2 - 0.01 ** 2 * 6 ** 2 / 2),
        "far": ([(-0.6, 0.0, 0.8)], -0.5, 0.0)}


@interpreted
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("start", ["edge", "grid"])
def test_the_kernel_on_what_is_hard_to_meet(name, start):
    """It takes the steps of its twin, and rays hit. Sums of floats differ by their order, and
    beside the rod a slope of 0.04 turns 1e-7 of the SDF into 2e-6 of distance."""
    net, rays = sine_waves(*HARD[name]), rays_inwards(60, seed=7, spread=0.02)
    found = march_both(net, rays, (cold if start == "edge" else lambda r: warm(net, r))(rays))
    assert_same(found, atol=1e-5)
    assert found[1].hit_mask.sum() >= 5


@interpreted
def test_the_kernel_from_the_spheres_edge():
    net, rays = sine_network(0.03, 1), rays_inwards(20, seed=4, spread=0.4)
    assert_same(march_both(net, rays, cold(rays)), atol=1e-6)


@interpreted
def test_the_kernel_finds_the_plain_tracers_hits():
    net, rays = sine_network(0.0), rays_inwards(90, seed=5, spread=0.4)
    from utils.fast.tracing.triton_kernel import march_fused, pack
    with torch.no_grad():
        found = march_fused(pack(net), rays, warm(net, rays))[0].ended()
        plain = trace_reference(net, rays)
        assert torch.equal(found.hit_mask, plain.hit_mask)
        assert (net(rays.points(found.t))[found.hit_mask].abs() <= SDF_THRESHOLD + 1e-5).all()


@interpreted
@pytest.mark.parametrize("layers, width", [(0, 16), (1, 32), (2, 16)])
def test_the_kernel_on_other_depths_and_widths(layers, width):
    torch.manual_seed(layers)
    net = build_sdf(SdfArchitecture(hidden_layers=layers, hidden_dims=width))
    rays = rays_inwards(33, seed=6, spread=0.3)
    with torch.no_grad():                  # so that about half of the rays begin outside
        net.layers[-1].bias -= net(rays.points(rays.t_near)).median()
    assert_same(march_both(net, rays, cold(rays)), atol=1e-6)


@interpreted
def test_the_kernel_with_no_rays_and_none_going():
    from utils.fast.tracing.triton_kernel import march_fused, pack
    net, rays = sine_network(0.0), rays_inwards(5, seed=6)
    none = rays[torch.tensor([], dtype=torch.long)]
    state, spent = march_fused(pack(net), none, cold(none))
    assert len(state.t) == 0 and int(spent) == 0
    rest = begin_march(rays.t_near, rays.t_near, rays.t_near, torch.zeros(5, dtype=torch.bool))
    state, spent = march_fused(pack(net), rays, rest)
    assert int(spent) == 0 and torch.equal(state.t, rays.t_near) and not state.hit_mask.any()


@needs_triton
def test_which_networks_the_kernel_marches():
    from utils.fast.tracing.triton_kernel import can_march
    fits, here = SdfArchitecture(hidden_dims=64, hidden_layers=2), torch.device("cpu")
    assert can_march(build_sdf(fits), here)
    assert not can_march(build_sdf(fits).double(), here)
    assert not can_march(lambda points: points[:, 0], here)
    for other in ({"hidden_dims": 256}, {"hidden_dims": 100}, {"skips": ((0, 2),)},
                  {"activation": "softplus"}):
        assert not can_march(build_sdf(SdfArchitecture(**other)), here)


def tf32(values: Tensor) -> Tensor:
    """Float32 rounded to the 10 bits of mantissa that a TF32 product reads."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def product(left: Tensor, right: Tensor, precision: str) -> Tensor:
    """left @ right as the matrix units compute it: exact products of TF32, sums in float32."""
    if precision == "tf32":
        return tf32(left) @ tf32(right)
    left_rest, right_rest = tf32(left - tf32(left)), tf32(right - tf32(right))
    return (left_rest @ tf32(right) + tf32(left) @ right_rest) + tf32(left) @ tf32(right)


@pytest.mark.parametrize("precision, low, high", [("tf32x3", 0.0, 5e-6), ("tf32", 2e-5, 1e-2)])
def test_three_products_keep_the_threshold_and_one_does_not(precision, low, high):
    """Errors of the SDF near the surface against float64: a tenth of the threshold or less with
    three products, near it or above with one."""
    net = sine_network(0.03, 1)
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=-1) * 0.5
    with torch.no_grad():
        first, *hidden = net.layers[:-1]
        phase = first.phase(points)
        for layer in hidden:
            weight = (layer.omega * layer.weight).T
            phase = product(phase.sin(), weight, precision) + layer.omega * layer.bias
        value = phase.sin() @ net.layers[-1].weight[0] + net.layers[-1].bias[0]
        exact = net.double()(points.double())
    worst = float((value - exact).abs().max())
    assert low <= worst <= high


@needs_gpu
@pytest.mark.parametrize("noise, seed", [(0.0, 1), (0.05, 2)])
def test_on_a_gpu(noise, seed):
    """tf32x3 errs by 5e-6 at most, so single rays settle a step apart and stop elsewhere within the
    threshold; the surface they stop on is the same."""
    net = sine_network(noise, seed).to("cuda")
    rays = Rays(*(x.to("cuda") for x in vars(rays_inwards(20_001, seed=3, spread=0.5)).values()))
    state = warm(net, rays)
    fused, plain, spent, count = march_both(net, rays, state)
    assert (fused.hit_mask != plain.hit_mask).float().mean() <= 1e-3
    assert abs(spent - count) <= 0.02 * count
    with torch.no_grad():
        value = net(rays.points(fused.t))[fused.hit_mask]
        masked = march_masked(net, rays, state)[0].ended()
    assert (value.abs() <= SDF_THRESHOLD + 1e-5).float().mean() >= 0.999
    both = fused.hit_mask & masked.hit_mask
    assert ((fused.t - masked.t)[both].abs() > 1e-3).float().mean() <= 2e-3


@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="needs triton, not interpreted")
@pytest.mark.parametrize("capability, block, shared_kib, spilled, units", [
    (80, "SMALL_BLOCK", 99, 500, "mma.sync"), (89, "SMALL_BLOCK", 99, 500, "mma.sync"),
    (90, "BIG_BLOCK", 227, 700, "wgmma"), (100, "BIG_BLOCK", 227, 300, "tcgen05")])
def test_it_compiles_without_a_gpu(tmp_path, monkeypatch, capability, block, shared_kib, spilled,
                                   units):
    """With the blocks that `block_of` gives, by triton 3.6: 300, 404, 580 and 188 bytes of a thread
    are written from registers to memory. Kin of 8.0 have 99 KiB of shared memory, 9.0 and 10.0 have
    227. An approximate sine would err by 1e-6 times its argument, which is up to some 50: more than
    the threshold."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from support.compiled_kernels import compiled

    from utils.fast.tracing import triton_kernel
    found = compiled(capability, getattr(triton_kernel, block), tmp_path)
    assert found.shared <= shared_kib * 1024 and found.registers <= 255
    assert found.spilled <= spilled
    assert units in found.ptx and "sin.approx" not in found.ptx


@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="needs triton, not interpreted")
@pytest.mark.parametrize("width, num_hidden", [(32, 1), (16, 0)])
def test_other_networks_compile_for_the_newest(tmp_path, monkeypatch, width, num_hidden):
    """Triton 3.6 does not compile the big block for a single hidden layer there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from support.compiled_kernels import compiled

    from utils.fast.tracing.triton_kernel import block_of
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    block = block_of(torch.device("cuda"), num_hidden)
    assert compiled(100, block, tmp_path, width=width, num_hidden=num_hidden).spilled == 0
