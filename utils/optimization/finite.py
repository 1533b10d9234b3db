"""Losses and gradients that are not finite: said at once on a CPU, kept harmless on a GPU."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def check_finite(total: Tensor, losses: dict[str, Tensor]) -> None:
    """Raise FloatingPointError that names the losses which are not finite."""
    if not torch.isfinite(total):
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        raise FloatingPointError(f"loss not finite: {', '.join(bad) or 'their sum'}")


@contextmanager
def keeping_statistics(statistics: list[Tensor]) -> Iterator[None]:
    """Running statistics are as before where the block raises FloatingPointError.

    The forward pass that was not finite has already written them. On a GPU they stay: there a run
    goes back to a checkpoint (`utils.runs.recovery`).
    """
    before = [value.clone() for value in statistics if value.device.type == "cpu"]
    try:
        yield
    except FloatingPointError:
        for value, kept in zip(statistics, before, strict=False):
            value.copy_(kept)
        raise


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Means and variances that batch normalisation keeps, as the module holds them."""
    return [value for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)
            for value in (layer.running_mean, layer.running_var) if value is not None]


class FiniteGuard:
    """Keeps steps that are not finite away from the weights.

    On a CPU it raises before the update. On a GPU asking would make the host wait: there a flag on
    the device remembers whether all was finite so far. Once it was not, gradients are zeroed and
    the total is NaN from then on, which whoever reads the losses next will see.
    """

    def __init__(self) -> None:
        self.is_finite: Tensor | None = None       # scalar bool on the device

    def forget(self) -> None:
        """The run went back to where all was finite."""
        self.is_finite = None

    def check_losses(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        """Before the backward pass; FloatingPointError on a CPU."""
        if total.device.type == "cpu":
            check_finite(total, losses)

    def check_gradients(self, total: Tensor, norm: Tensor,
                        parameters: Iterable[nn.Parameter]) -> Tensor:
        """After the backward pass, before the update.

        Args:
            total: scalar loss.
            norm: scalar, of all gradients.
            parameters: whose gradients are zeroed on a GPU.
        Returns:
            The total, NaN where this or an earlier call found something not finite.
        Raises:
            FloatingPointError: on a CPU.
        """
        if total.device.type == "cpu":
            if not torch.isfinite(norm):
                raise FloatingPointError("the gradient is not finite, the losses are")
            return total
        return self.mask(total, norm, parameters)

    def mask(self, total: Tensor, norm: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """`check_gradients` without a look at the values."""
        is_finite = torch.isfinite(total.detach()) & torch.isfinite(norm)
        self.is_finite = is_finite if self.is_finite is None else self.is_finite & is_finite
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~self.is_finite, 0.0)
        return total.detach().masked_fill(~self.is_finite, torch.nan)
