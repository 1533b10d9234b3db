"""A moving average of weights, with which views are rendered."""
from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of some networks of a model.

    At the method's learning rates a single step moves held-out PSNR up or down by a decibel; the
    average of about the last ten steps does not jump like that. Training itself is not affected.
    In the first steps the average is shorter: after n updates its weight is at most
    (1 + n) / (10 + n).

    Args:
        model: it owns the networks.
        names: attributes of the model whose weights are averaged.
        decay: weight of the average in an update; 0: the average is that of the last step alone.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], decay: float) -> None:
        self.model, self.names, self.decay, self.num_updates = model, tuple(names), decay, 0
        self.weights = [weight.detach().clone() for weight in self._live()]

    def _live(self) -> list[nn.Parameter]:
        return [weight for name in self.names for weight in getattr(self.model, name).parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Include the present weights in the average."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.weights, self._live(), 1 - decay)
        self.num_updates += 1

    def averaged_model(self) -> nn.Module:
        """Return the model with copies of its networks that have the averaged weights.

        All other modules are those of the model itself.
        """
        twin = copy.copy(self.model)
        twin._modules = dict(self.model._modules)
        for name in self.names:
            twin._modules[name] = copy.deepcopy(getattr(self.model, name))
        twins = [weight for name in self.names for weight in getattr(twin, name).parameters()]
        with torch.no_grad():
            torch._foreach_copy_(twins, self.weights)
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates, for checkpoints."""
        return {"weights": [weight.clone() for weight in self.weights],
                "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore an average; without a state, as in old checkpoints, it begins anew."""
        source = self._live() if state is None else state["weights"]
        if [w.shape for w in source] != [w.shape for w in self.weights]:
            raise ValueError("the averaged weights are of another architecture")
        count = 0 if state is None else state["num_updates"]
        if type(count) is not int or count < 0:
            raise ValueError("the number of updates of the averaged weights is no count")
        self.num_updates = count
        with torch.no_grad():
            for weight, value in zip(self.weights, source, strict=True):
                weight.copy_(value)
