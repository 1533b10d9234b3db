"""A SIREN evaluated in chunks that stay in the cache; the same numbers as its module to rounding.

A batch of 100,000 points writes 50 MB of activations a layer and is bound by memory; chunks of a
thousand points with reused buffers are bound by the matrix product, and the sine.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from utils.fast.kernels.loading import loops_for
from utils.fast.threads import shares_of

CHUNK = 1024              # points; 1024 x 128 floats are half a MiB, half the cache of one core


def sine_layer(hidden: Tensor, weight: Tensor, bias: Tensor, *, out: Tensor) -> Tensor:
    """sin(hidden weight + bias) into `out` (N, M), without gradient."""
    loops = loops_for(out, "sines")
    if loops is None:
        phase = torch.addmm(bias, hidden, weight, out=out)
        return _by_numpy(np.sin, torch.sin, phase, out=phase)
    torch.mm(hidden, weight, out=out)
    loops.add_and_sine(out.numpy(), bias.numpy())
    return out


def sine_and_cosine_layer(hidden: Tensor, weight: Tensor, bias: Tensor, *, sines: Tensor,
                          cosines: Tensor) -> Tensor:
    """As `sine_layer`, into `sines`, and the cosines too; `hidden` may be `sines`."""
    loops = loops_for(sines, "sines")
    if loops is None:
        phase = torch.addmm(bias, hidden, weight, out=cosines)
        sines = _by_numpy(np.sin, torch.sin, phase, out=sines)
        _by_numpy(np.cos, torch.cos, phase, out=phase)
        return sines
    phase = torch.mm(hidden, weight, out=cosines)
    loops.add_and_sine_and_cosine(phase.numpy(), bias.numpy(), sines.numpy())
    return sines


def _by_numpy(ours: Callable, others: Callable, phase: Tensor, *, out: Tensor) -> Tensor:
    """numpy's float32 sine takes half the time of torch's, and is right to 7e-8 like it."""
    if phase.device.type != "cpu" or phase.dtype != torch.float32:
        return others(phase, out=out)
    with np.errstate(invalid="ignore"):                 # infinite phases become nan, as in torch
        ours(phase.numpy(), out=out.numpy())
    return out


class ChunkedSiren:
    """No-gradient evaluator of a chain of sine layers.

    Args:
        sdf: a `modules_sdf.SirenSDF` that is a chain (`is_chain`). Its weights are read when made;
            make a new one after a training step.

    Attributes:
        weights, biases: of the L sine layers, (in, out) and (out,), omega folded in.
        last_weight, last_bias: (width,) and scalar, of the signed distance alone.
    """

    def __init__(self, sdf: nn.Module) -> None:
        with torch.no_grad():
            *hidden, last = sdf.layers
            self.weights = [(layer.omega * layer.weight).T.contiguous() for layer in hidden]
            self.biases = [layer.omega * layer.bias for layer in hidden]
            self.last_weight, self.last_bias = last.weight[0].clone(), last.bias[0].clone()
        self.width = self.weights[0].shape[1]

    def __call__(self, points: Tensor) -> Tensor:
        """SDF (N,) at points (N, 3); no gradient."""
        points = points.detach()
        out = points.new_empty(len(points))

        def _work(share: list[slice]) -> None:
            buffers = self.buffers(points, share, 2)
            for part in share:
                hidden = points[part]
                for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                    buffer = buffers[layer % 2][:len(hidden)]
                    hidden = sine_layer(hidden, weight, bias, out=buffer)
                torch.mv(hidden, self.last_weight, out=out[part])

        shares_of(points, _work, CHUNK)
        return out.add_(self.last_bias)

    def value_and_derivative(self, points: Tensor, dirs: Tensor) -> tuple[Tensor, Tensor]:
        """SDF (N,) and its derivative (N,) along dirs (N, 3), forward mode: d' = cos(z) * (d W)."""
        points, dirs = points.detach(), dirs.detach()
        value, slope = points.new_empty(len(points)), points.new_empty(len(points))

        def _work(share: list[slice]) -> None:
            buffers = self.buffers(points, share, 4)
            for part in share:
                hidden, tangent = points[part], dirs[part]
                sines, cosines, *pair = (buffer[:len(hidden)] for buffer in buffers)
                for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                    moved = torch.mm(tangent, weight, out=pair[layer % 2])
                    hidden = sine_and_cosine_layer(hidden, weight, bias, sines=sines,
                                                   cosines=cosines)
                    tangent = moved.mul_(cosines)
                torch.mv(hidden, self.last_weight, out=value[part])
                torch.mv(tangent, self.last_weight, out=slope[part])

        shares_of(points, _work, CHUNK)
        return value.add_(self.last_bias), slope

    def buffers(self, points: Tensor, share: list[slice], count: int) -> list[Tensor]:
        """(rows, width) tensors like the points, for the longest slice of a share."""
        rows = max((part.stop - part.start for part in share), default=0)
        return [points.new_empty(rows, self.width) for _ in range(count)]


class ChunkedSdf:
    """No-gradient evaluator of any SDF, in chunks that bound its memory."""

    def __init__(self, sdf: Callable[[Tensor], Tensor], chunk: int = 1 << 14) -> None:
        self.sdf, self.chunk = sdf, chunk

    def __call__(self, points: Tensor) -> Tensor:
        """SDF (N,) at points (N, 3); no gradient."""
        with torch.no_grad():
            return torch.cat([self.sdf(part) for part in points.split(self.chunk)]) \
                if len(points) else points.new_zeros(0)


def is_siren_chain(sdf: Callable[[Tensor], Tensor]) -> bool:
    """Whether an SDF is a chain of sine layers, no skips and no encoding in it."""
    layers = getattr(sdf, "layers", [])
    return getattr(sdf, "is_chain", False) and all(hasattr(x, "omega") for x in layers[:-1])


def fast_evaluator(sdf: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The fastest evaluator without gradient of what `sdf` is now."""
    return ChunkedSiren(sdf) if is_siren_chain(sdf) else ChunkedSdf(sdf)
