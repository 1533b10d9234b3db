"""Meta-learning of first weights for any `nn.Module`: Reptile and first-order MAML.

The slow weights are what is learned. A task starts from a copy of them, takes k steps of its own
optimiser to the fast weights, and says in which direction the slow ones should go:

    Reptile: slow += beta * mean over tasks of (fast - slow)
    first-order MAML: slow moves along -mean over tasks of (gradient at the fast weights, on data
        that the k steps have not seen)

Weights are all floating point entries of a module's state, running statistics of batch
normalisation among them: those of a task begin as the slow model's and reach the slow model only
through the same mean and rate as the weights beside them, so nothing else leaks from task to task.
Scale and shift of batch normalisation are weights like all others. Counters stay as they are.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def copy_weights(module: nn.Module) -> Weights:
    """The slow weights: detached copies of a module's floating point state, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()
            if value.is_floating_point()}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write weights into a module, in place.

    Raises:
        ValueError: a name that the module has not.
    """
    state = module.state_dict()
    foreign = sorted(set(weights) - set(state))
    if foreign:
        raise ValueError(f"weights for {', '.join(foreign[:5])}, which the module has not")
    for name, value in weights.items():
        state[name].copy_(value)


def adapt(module: nn.Module, slow: Mapping[str, Tensor], step: Callable[[int], object],
          num_steps: int) -> None:
    """Take k steps on one task from the slow weights; the module ends with the fast ones.

    Args:
        module: changed in place.
        slow: where the task starts; not changed.
        step: number of the step (from 0) to one update of the module, with an optimiser that was
            made for this task: moments of another task would leak into it.
        num_steps: k.
    """
    put_weights(module, slow)
    for number in range(num_steps):
        step(number)


@torch.no_grad()
def reptile_update(module: nn.Module, slow: Mapping[str, Tensor]) -> Weights:
    """What one task asks for: fast - slow, by name."""
    state = module.state_dict()
    return {name: state[name] - value for name, value in slow.items()}


def fomaml_update(module: nn.Module, slow: Mapping[str, Tensor],
                  query_loss: Callable[[], Tensor]) -> Weights:
    """What one task asks for by first-order MAML: the descent direction at the fast weights.

    The second derivatives, of the fast weights by the slow ones, are left out (the identity stands
    for them). Running statistics have no gradient; for them it is fast - slow, as in Reptile.

    Args:
        module: with the fast weights.
        slow: where they started.
        query_loss: the loss of the module on data that the steps have not seen; scalar.
    Returns:
        Minus the gradient by name; 0 for weights that the loss does not depend on.
    """
    module.zero_grad(set_to_none=True)
    query_loss().backward()
    update = reptile_update(module, slow)
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        update[name] = torch.zeros_like(update[name]) if gradient is None else -gradient.detach()
    module.zero_grad(set_to_none=True)
    return update


def all_finite(update: Mapping[str, Tensor]) -> Tensor:
    """Whether every entry of an update is finite; scalar bool on its device, so nothing waits."""
    return torch.stack([value.isfinite().all() for value in update.values()]).all()


@torch.no_grad()
def mean_update(updates: Sequence[Mapping[str, Tensor]]) -> Weights:
    """The mean of several tasks' updates, added in their order."""
    if not updates:
        raise ValueError("there are no updates, need those of one task or more")
    total = {name: value.clone() for name, value in updates[0].items()}
    for update in updates[1:]:
        for name, value in update.items():
            total[name] += value
    return {name: value / len(updates) for name, value in total.items()}


@torch.no_grad()
def move_slow(slow: Weights, update: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
    """Move the slow weights along an update, each group by its own rate; in place.

    Args:
        slow: weights by name.
        update: by name; the names that it lacks stay as they are.
        rates: beta of each group. A weight's group is the first part of its name ("encoder" of
            "encoder.up.0.weight"), or "" for all groups that have no rate of their own.
    """
    for name, value in update.items():
        slow[name] += group_rate(name, rates) * value


def group_rate(name: str, rates: Mapping[str, float]) -> float:
    """The rate of a weight's group, see `move_slow`; ValueError where there is none."""
    group = name.partition(".")[0]
    if group not in rates and "" not in rates:
        raise ValueError(f"no rate for {name}; rates are given for {', '.join(sorted(rates))}")
    return rates.get(group, rates.get("", 0.0))


class OuterAdam:
    """Adam on the slow weights, for updates that are gradients (`fomaml_update`).

    Args:
        slow: weights by name, changed in place.
        names: of those that have gradients; others are moved as in Reptile.
    """

    def __init__(self, slow: Weights, names: Sequence[str]) -> None:
        self.slow, self.names = slow, tuple(names)
        self.optimizer = torch.optim.Adam([{"params": [slow[name]]} for name in self.names])

    def move(self, update: Mapping[str, Tensor], rates: Mapping[str, float],
             step_lengths: Mapping[str, float]) -> None:
        """Move along an update.

        Args:
            update: minus the gradients, and differences for what has none.
            rates: beta of each group, see `move_slow`.
            step_lengths: of each group: how far the k inner steps can take a weight. The outer
                step is at most beta of it, as Reptile's.
        """
        for name, group in zip(self.names, self.optimizer.param_groups, strict=True):
            group["lr"] = group_rate(name, rates) * group_rate(name, step_lengths)
            self.slow[name].grad = -update[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        move_slow(self.slow, {name: value for name, value in update.items()
                              if name not in set(self.names)}, rates)
