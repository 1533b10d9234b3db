"""Differentiable work on many points, a chunk at a time: less memory, and all of it in the cache.

Gradients are those of the whole batch to rounding; only the order of the additions differs.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 2048              # points on a CPU: activations stay in the cache
GPU_CHUNK = 1 << 18       # points elsewhere: bounds the memory of the graph


def chunk_size(points: Tensor) -> int:
    """Points of a chunk on this device."""
    return CHUNK if points.device.type == "cpu" else GPU_CHUNK


def total_in_chunks(function: Callable[..., Tensor], inputs: Sequence[Tensor],
                    parameters: Sequence[Tensor]) -> Tensor:
    """Sum of `function` over chunks of its inputs, differentiable in the parameters.

    Each chunk's gradient is taken at once and its graph dropped, so one chunk is in memory.

    Args:
        function: chunks of the inputs to a scalar, a sum over their rows.
        inputs: tensors (N, ...) that need no gradient.
        parameters: what the result is differentiated by; those without gradient are skipped.
    Returns:
        Scalar; no second derivatives.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return _Total.apply(function, [tensor.detach() for tensor in inputs], *wanted)


class _Total(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function, inputs, *parameters):
        """The sum, and with it its gradient."""
        total = inputs[0].new_zeros(())
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for chunk in _chunks(inputs):
            with torch.enable_grad():
                value = function(*chunk)
            if parameters:
                grads = torch.autograd.grad(value, parameters, allow_unused=True)
                for total_grad, grad in zip(sums, grads, strict=True):
                    if grad is not None:
                        total_grad += grad
            total += value.detach()
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    def backward(ctx, upstream):
        """The stored gradient times that of the sum."""
        return (None, None, *(upstream * grad for grad in ctx.saved_tensors))


def map_in_chunks(function: Callable[[Tensor], Tensor], evaluate: Callable[[Tensor], Tensor],
                  points: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """function(points), differentiable in points and parameters, recomputed chunk by chunk.

    Args:
        function: points (N, 3) to (N,), differentiable.
        evaluate: the same without gradient, as fast as it goes.
        points: (N, 3).
        parameters: of the function; those without gradient are skipped.
    Returns:
        (N,); no second derivatives.
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    return _Map.apply(function, evaluate, points, *wanted)


class _Map(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function, evaluate, points, *parameters):
        """Return the values; the backward pass computes them anew."""
        ctx.function = function
        ctx.save_for_backward(points, *parameters)
        return evaluate(points.detach())

    @staticmethod
    def backward(ctx, upstream):
        """Values with their graph, a chunk at a time."""
        points, *parameters = ctx.saved_tensors
        needs_points = ctx.needs_input_grad[2]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        point_grads = []
        for part, weight in _chunks([points, upstream]):
            part = part.detach().requires_grad_(needs_points)
            with torch.enable_grad():
                value = ctx.function(part)
            inputs = [part, *parameters] if needs_points else parameters
            grads = list(torch.autograd.grad(value, inputs, weight))
            if needs_points:
                point_grads.append(grads.pop(0))
            for total, grad in zip(sums, grads, strict=True):
                total += grad
        return (None, None, torch.cat(point_grads) if point_grads else None, *sums)


def _chunks(inputs: Sequence[Tensor]):
    size = chunk_size(inputs[0])
    return zip(*(tensor.split(size) for tensor in inputs), strict=True)
