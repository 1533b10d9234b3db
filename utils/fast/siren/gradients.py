"""Analytic gradients of losses on a SIREN in its weights, chunk by chunk, without a graph.

The network: z_l = h_{l-1} W_l + b_l, h_l = sin z_l, h_0 = x, Phi = <h_L, w> + b, omega in the
weights. Its gradient in x: s_L = w, s_{l-1} = (s_l * cos z_l) W_l^T, grad Phi = s_0. Losses on
either are differentiated once, by hand; the same numbers as by a graph to rounding.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.fast.siren.evaluator import ChunkedSiren, sine_and_cosine_layer
from utils.fast.threads import shares_of
from utils.geometry.sdf import Terms

GRADIENT_CHUNK = 1024     # points; sines, cosines and slopes of all layers are kept for so many
def total_of_values(sdf: nn.Module, siren: ChunkedSiren, terms: Terms, points: Tensor,
                    inputs: Sequence[Tensor]) -> Tensor:
    """Sum of terms(Phi(points), *inputs) over the points.

    Args:
        sdf: a chain of sine layers.
        siren: it, as it is now.
        terms: values (n,) and rows of the inputs to terms (n,), each of its own point alone.
        points: (N, 3), no gradient.
        inputs: tensors (N, ...), no gradient.
    Returns:
        Scalar, differentiable in the weights of `sdf`; no second derivatives.
    """

    def _work(share: list[slice]) -> tuple[Tensor, WeightSums]:
        passes, total = _Passes(siren, points, share), points.new_zeros(())
        for part in share:
            values = passes.forward(points[part])
            term, upstream = _sum_and_gradient(terms, values, [x[part] for x in inputs])
            passes.backward(points[part], upstream)
            total += term
        return total, passes.sums

    return _Total.apply(sdf, points, _work, *sdf.parameters())


def total_of_gradients(sdf: nn.Module, siren: ChunkedSiren, terms: Terms,
                       points: Tensor) -> Tensor:
    """Sum of terms(grad Phi(points)), gradients (n, 3) to terms (n,); see `total_of_values`."""

    def _work(share: list[slice]) -> tuple[Tensor, WeightSums]:
        passes, total = _Passes(siren, points, share), points.new_zeros(())
        for part in share:
            passes.forward(points[part])
            term, upstream = _sum_and_gradient(terms, passes.gradients(), [])
            passes.backward_of_gradients(points[part], upstream)
            total += term
        return total, passes.sums

    return _Total.apply(sdf, points, _work, *sdf.parameters())


def known_values(sdf: nn.Module, siren: ChunkedSiren, points: Tensor, known: Tensor) -> Tensor:
    """`known` (N,), the values of Phi at points (N, 3), differentiable in points and weights.

    The backward pass computes them anew; no second derivatives.
    """
    return _Known.apply(sdf, siren, points, known, *sdf.parameters())


class WeightSums:
    """Gradients of the folded weights, summed over points."""

    def __init__(self, siren: ChunkedSiren) -> None:
        self.weights = [torch.zeros_like(weight) for weight in siren.weights]
        self.biases = [torch.zeros_like(bias) for bias in siren.biases]
        self.last_weight = torch.zeros_like(siren.last_weight)
        self.last_bias = torch.zeros_like(siren.last_bias)

    def add(self, other: WeightSums) -> WeightSums:
        """The sum of both, here."""
        for own, more in zip(self._all(), other._all(), strict=True):
            own += more
        return self

    def _all(self) -> list[Tensor]:
        return [*self.weights, *self.biases, self.last_weight, self.last_bias]

    def of_parameters(self, sdf: nn.Module) -> list[Tensor]:
        """As gradients of `sdf.parameters()`, in their order."""
        *hidden, last = sdf.layers
        found: dict[int, Tensor] = {}
        for layer, weight, bias in zip(hidden, self.weights, self.biases, strict=True):
            found[id(layer.weight)] = layer.omega * weight.T
            found[id(layer.bias)] = layer.omega * bias
        found[id(last.weight)] = torch.zeros_like(last.weight)        # of features beside Phi: 0
        found[id(last.bias)] = torch.zeros_like(last.bias)
        found[id(last.weight)][0], found[id(last.bias)][0] = self.last_weight, self.last_bias
        return [found[id(parameter)] for parameter in sdf.parameters()]


class _Passes:
    """Forward and backward skips chunks of points, in buffers that are used again.

    Attributes:
        sums: gradients of the weights so far.
    """

    def __init__(self, siren: ChunkedSiren, points: Tensor, share: list[slice]) -> None:
        self.siren, self.sums = siren, WeightSums(siren)
        count = len(siren.weights)
        self._rows = [siren.buffers(points, share, count) for _ in range(4)]
        self._spare = siren.buffers(points, share, 2)

    def forward(self, points: Tensor) -> Tensor:
        """Phi (n,) at points (n, 3); keeps what the backward passes need of them."""
        siren = self.siren
        self.sines, self.cosines, self.scaled, self.slopes = (
            [buffer[:len(points)] for buffer in buffers] for buffers in self._rows)
        self.spare = [buffer[:len(points)] for buffer in self._spare]
        hidden = points
        for layer, (weight, bias) in enumerate(zip(siren.weights, siren.biases, strict=True)):
            hidden = sine_and_cosine_layer(hidden, weight, bias, sines=self.sines[layer],
                                           cosines=self.cosines[layer])
        return torch.mv(hidden, siren.last_weight) + siren.last_bias

    def gradients(self) -> Tensor:
        """grad Phi (n, 3) at the points of the last forward pass; slopes[l] is s_l, then used."""
        siren, count = self.siren, len(self.siren.weights)
        slope = self.slopes[count - 1].copy_(siren.last_weight)
        for layer in range(count - 1, -1, -1):
            scaled = torch.mul(slope, self.cosines[layer], out=self.scaled[layer])
            weight = siren.weights[layer].T
            slope = torch.mm(scaled, weight, out=self.slopes[layer - 1]) if layer else \
                scaled @ weight
        return slope

    def backward(self, points: Tensor, upstream: Tensor, *,
                 needs_points: bool = False) -> Tensor | None:
        """Add the gradient of sum(upstream * Phi), upstream (n,); that in the points, if asked."""
        self.sums.last_weight.addmv_(self.sines[-1].T, upstream)
        self.sums.last_bias += upstream.sum()
        phase = torch.mul(upstream[:, None], self.siren.last_weight, out=self.spare[0])
        return self._through_layers(points, phase.mul_(self.cosines[-1]), None, needs_points)

    def backward_of_gradients(self, points: Tensor, upstream: Tensor) -> None:
        """Add the gradient of sum(upstream * grad Phi), upstream (n, 3); after `gradients`."""
        moved, phases = upstream, []
        for layer, weight in enumerate(self.siren.weights):
            scaled = self.scaled[layer]
            self.sums.weights[layer].addmm_(moved.T, scaled)
            passed = torch.mm(moved, weight, out=self.spare[0])          # of s_l * cos z_l
            # d cos z = -sin z dz; the product s_l * cos z_l is not needed any more
            phase = torch.mul(passed, self.slopes[layer], out=scaled).mul_(self.sines[layer])
            phases.append(phase.neg_())
            moved = torch.mul(passed, self.cosines[layer], out=self.spare[1])
        self.sums.last_weight += moved.sum(0)
        self._through_layers(points, phases[-1], phases, False)

    def _through_layers(self, points: Tensor, phase: Tensor, more: list[Tensor] | None,
                        needs_points: bool) -> Tensor | None:
        """From the gradient in the last phase down; `more` is added in each phase below."""
        for layer in range(len(self.siren.weights) - 1, -1, -1):
            inputs = self.sines[layer - 1] if layer else points
            self.sums.weights[layer].addmm_(inputs.T, phase)
            self.sums.biases[layer] += phase.sum(0)
            weight = self.siren.weights[layer].T
            if not layer:
                return phase @ weight if needs_points else None
            into = self.spare[0] if phase is not self.spare[0] else self.spare[1]
            hidden = torch.mm(phase, weight, out=into)
            phase = hidden.mul_(self.cosines[layer - 1])
            if more is not None:
                phase.add_(more[layer - 1])
        return None


def _sum_and_gradient(terms: Terms, found: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of terms(found, *inputs), and its gradient in `found`."""
    with torch.enable_grad():
        leaf = found.detach().requires_grad_(True)
        total = terms(leaf, *inputs).sum()
    (upstream,) = torch.autograd.grad(total, leaf)
    return total.detach(), upstream


def _summed(sums: list[WeightSums], sdf: nn.Module) -> list[Tensor]:
    """Gradients of the parameters over all shares, added in their order."""
    if not sums:
        return [torch.zeros_like(parameter) for parameter in sdf.parameters()]
    first, *others = sums
    for other in others:
        first.add(other)
    return first.of_parameters(sdf)


class _Total(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, sdf: nn.Module, points: Tensor, work: Callable,
                *parameters: Tensor) -> Tensor:
        """The sum, and with it its gradient."""
        found = shares_of(points, work, GRADIENT_CHUNK)
        ctx.save_for_backward(*_summed([sums for _, sums in found], sdf))
        return sum((total for total, _ in found), points.new_zeros(()))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        """The stored gradient times that of the sum."""
        return (None, None, None, *(upstream * grad for grad in ctx.saved_tensors))


class _Known(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, sdf: nn.Module, siren: ChunkedSiren, points: Tensor, known: Tensor,
                *parameters: Tensor) -> Tensor:
        """Return the known values; nothing is evaluated here."""
        ctx.sdf, ctx.siren = sdf, siren
        ctx.save_for_backward(points)
        return known.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        """Sums over chunks that are computed anew."""
        (points,), siren, needs_points = ctx.saved_tensors, ctx.siren, ctx.needs_input_grad[2]
        point_grads = torch.zeros_like(points) if needs_points else None

        def _work(share: list[slice]) -> WeightSums:
            passes = _Passes(siren, points, share)
            for part in share:
                passes.forward(points[part])
                grads = passes.backward(points[part], upstream[part], needs_points=needs_points)
                if point_grads is not None:
                    point_grads[part] = grads
            return passes.sums

        sums = shares_of(points, _work, GRADIENT_CHUNK)
        return (None, None, point_grads, None, *_summed(sums, ctx.sdf))
