"""A SIREN evaluated in chunks that stay in the cache; the same numbers as its module to rounding.

A batch of 100,000 points writes 50 MB of activations a layer and is bound by memory; chunks of a
few thousand points with reused buffers are bound by the matrix product.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CHUNK = 2048              # points; 2048 x 128 floats are 1 MiB, the cache of one core


class ChunkedSiren:
    """No-gradient evaluator of a chain of sine layers.

    Args:
        sdf: a `modules.SirenSDF` that is a chain (`is_chain`). Its weights are read when made;
            make a new one after a training step.
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
        with torch.no_grad():
            out = points.new_empty(len(points))
            size = CHUNK if points.device.type == "cpu" else len(points)
            buffers = [points.new_empty(min(size, len(points)), self.width) for _ in range(2)]
            for start in range(0, len(points), max(size, 1)):
                part = points[start:start + size]
                hidden = part
                for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                    target = buffers[layer % 2][:len(part)]
                    torch.addmm(bias, hidden, weight, out=target).sin_()
                    hidden = target
                torch.mv(hidden, self.last_weight, out=out[start:start + size])
            return out.add_(self.last_bias)

    def value_and_slope(self, points: Tensor, dirs: Tensor) -> tuple[Tensor, Tensor]:
        """SDF (N,) and its derivative (N,) along dirs (N, 3), forward mode: d' = cos(z) * (d W)."""
        with torch.no_grad():
            value, slope = points.new_empty(len(points)), points.new_empty(len(points))
            size = CHUNK if points.device.type == "cpu" else len(points)
            for start in range(0, len(points), max(size, 1)):
                part = slice(start, start + size)
                hidden, tangent = points[part], dirs[part]
                for weight, bias in zip(self.weights, self.biases, strict=True):
                    phase = torch.addmm(bias, hidden, weight)
                    tangent = (tangent @ weight).mul_(phase.cos())
                    hidden = phase.sin_()
                torch.mv(hidden, self.last_weight, out=value[part])
                torch.mv(tangent, self.last_weight, out=slope[part])
            return value.add_(self.last_bias), slope


class ChunkedSdf:
    """No-gradient evaluator of any SDF, in chunks that bound its memory."""

    def __init__(self, sdf: Callable[[Tensor], Tensor], chunk: int = 1 << 14) -> None:
        self.sdf, self.chunk = sdf, chunk

    def __call__(self, points: Tensor) -> Tensor:
        """SDF (N,) at points (N, 3); no gradient."""
        with torch.no_grad():
            return torch.cat([self.sdf(part) for part in points.split(self.chunk)]) \
                if len(points) else points.new_zeros(0)


def fast_evaluator(sdf: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The fastest evaluator without gradient of what `sdf` is now."""
    layers = getattr(sdf, "layers", [])
    if getattr(sdf, "is_chain", False) and all(hasattr(layer, "omega") for layer in layers[:-1]):
        return ChunkedSiren(sdf)
    return ChunkedSdf(sdf)
