"""Losses and gradients that are not finite: errors on a CPU, without effect on a GPU."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def check_finite(total: Tensor, losses: dict[str, Tensor]) -> None:
    """Raise FloatingPointError if the total is not finite; it names the losses at fault."""
    if not torch.isfinite(total):
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        raise FloatingPointError(f"loss not finite: {', '.join(bad) or 'their sum'}")


@contextmanager
def keeping_statistics(statistics: list[Tensor]) -> Iterator[None]:
    """Restore running statistics if the block raises FloatingPointError.

    By then a forward pass that was not finite has already written them. On a GPU they stay: there
    the run returns to a checkpoint (`utils.runs.recovery`).
    """
    before = [value.clone() for value in statistics if value.device.type == "cpu"]
    try:
        yield
    except FloatingPointError:
        for value, kept in zip(statistics, before, strict=False):
            value.copy_(kept)
        raise


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch normalisation, not copied."""
    return [value for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)
            for value in (layer.running_mean, layer.running_var) if value is not None]


class FiniteGuard:
    """Keeps steps that are not finite away from the weights.

    On a CPU it raises before the update. On a GPU a look at the values would make the host wait:
    there a flag on the device remembers whether all was finite so far. Once something was not, all
    gradients are zero and the total is NaN, until `forget`; so the failure shows when the losses
    are next read.
    """

    def __init__(self) -> None:
        self.is_finite: Tensor | None = None       # scalar bool on the device

    def forget(self) -> None:
        """Forget earlier failures, after a return to a state in which all was finite."""
        self.is_finite = None

    def check_losses(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        """Check losses before the backward pass; FloatingPointError on a CPU, nothing on a GPU."""
        if total.device.type == "cpu":
            check_finite(total, losses)

    def check_gradients(self, total: Tensor, norm: Tensor,
                        parameters: Iterable[nn.Parameter]) -> Tensor:
        """Check gradients after the backward pass and before the update.

        Args:
            total: scalar loss.
            norm: scalar, norm of all gradients.
            parameters: whose gradients are zeroed on a GPU.
        Returns:
            The total; NaN if something was not finite in this or an earlier call.
        Raises:
            FloatingPointError: on a CPU.
        """
        if total.device.type == "cpu":
            if not torch.isfinite(norm):
                raise FloatingPointError("the gradient is not finite, the losses are")
            return total
        return self.mask(total, norm, parameters)

    def mask(self, total: Tensor, norm: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Do what `check_gradients` does on a GPU: the host does not look at the values."""
        is_finite = torch.isfinite(total.detach()) & torch.isfinite(norm)
        if self.is_finite is not None:
            is_finite = self.is_finite & is_finite
        self.is_finite = is_finite
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~is_finite, 0.0)
        return total.detach().masked_fill(~is_finite, torch.nan)
