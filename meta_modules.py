"""Meta-learning of initial weights for any `nn.Module`: Reptile and first-order MAML.

The slow weights are what is learned. A task starts from a copy of them and takes k steps with an
optimiser of its own, which end at the fast weights. From these follows its update of the slow ones
(docs/method.md, section 7):

    Reptile: slow += beta * mean over tasks of (fast - slow)
    first-order MAML: slow moves along -mean over tasks of (gradient at the fast weights, on data
        that the k steps have not seen)

Weights are all floating point entries of a module's state. Running statistics of batch
normalisation are among them: a task begins with those of the slow model, and changes these only
through the mean update, at the same rate as the weights beside them. So nothing else leaks from
task to task. Counters stay as they are.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def copy_weights(module: nn.Module) -> Weights:
    """Return detached copies of a module's floating point state, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()
            if value.is_floating_point()}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write weights into a module, in place.

    Raises:
        ValueError: the module has no entry of some name.
    """
    state = module.state_dict()
    foreign = sorted(set(weights) - set(state))
    if foreign:
        raise ValueError(f"weights for {', '.join(foreign[:5])}, which the module does not have")
    for name, value in weights.items():
        state[name].copy_(value)


def adapt(module: nn.Module, slow: Mapping[str, Tensor], step: Callable[[int], object], *,
          num_steps: int) -> None:
    """Take k steps on one task from the slow weights, after which the module has the fast ones.

    Args:
        module: changed in place.
        slow: where the task starts; not changed.
        step: takes the number of a step (from 0) and updates the module, with an optimiser made
            for this task: moments of another task would leak into it.
        num_steps: k.
    """
    put_weights(module, slow)
    for number in range(num_steps):
        step(number)


@torch.no_grad()
def reptile_update(module: nn.Module, slow: Mapping[str, Tensor]) -> Weights:
    """Return the update of one task by Reptile: fast - slow, by name."""
    state = module.state_dict()
    return {name: state[name] - value for name, value in slow.items()}


def fomaml_update(module: nn.Module, slow: Mapping[str, Tensor],
                  query_loss: Callable[[], Tensor]) -> Weights:
    """Return the update of one task by first-order MAML: the negative gradient at the fast weights.

    First-order means that the derivative of the fast weights by the slow ones is replaced by the
    identity. Running statistics have no gradient; their update is fast - slow, as in Reptile.

    Args:
        module: with the fast weights.
        slow: where the task started.
        query_loss: gives the scalar loss of the module on data that the steps have not seen.
    Returns:
        Updates by name; 0 for weights that the loss does not depend on.
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
    """Return whether every entry of an update is finite, as a scalar bool tensor on its device."""
    return torch.stack([value.isfinite().all() for value in update.values()]).all()


@torch.no_grad()
def mean_update(updates: Sequence[Mapping[str, Tensor]]) -> Weights:
    """Return the mean of the updates of several tasks, added in their order."""
    if not updates:
        raise ValueError("there are no updates, need those of at least one task")
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
        update: updates by name; weights whose names are missing stay as they are.
        rates: outer learning rate beta of each group. The group of a weight is the first part of
            its name ("encoder" of "encoder.up.0.weight"); "" stands for all groups that are not
            listed.
    """
    for name, value in update.items():
        slow[name] += group_rate(name, rates) * value


def group_rate(name: str, rates: Mapping[str, float]) -> float:
    """Return the rate of a weight's group, see `move_slow`; ValueError if there is none."""
    group = name.partition(".")[0]
    if group not in rates and "" not in rates:
        raise ValueError(f"no rate for {name}; rates are given for {', '.join(sorted(rates))}")
    return rates.get(group, rates.get("", 0.0))


class OuterAdam:
    """Adam on the slow weights, for updates that are negative gradients (`fomaml_update`).

    Args:
        slow: weights by name, changed in place.
        names: of the weights that have gradients; all others are moved as in Reptile.
    """

    def __init__(self, slow: Weights, names: Sequence[str]) -> None:
        self.slow, self.names = slow, tuple(names)
        self.optimizer = torch.optim.Adam([{"params": [slow[name]]} for name in self.names])

    def move(self, update: Mapping[str, Tensor], rates: Mapping[str, float],
             step_lengths: Mapping[str, float]) -> None:
        """Move the slow weights along an update.

        Args:
            update: negative gradients, and differences for weights that have none.
            rates: outer learning rate beta of each group, see `move_slow`.
            step_lengths: how far k inner steps can move a weight, for each group. An outer step
                moves it at most by beta times that, as with Reptile.
        """
        for name, group in zip(self.names, self.optimizer.param_groups, strict=True):
            group["lr"] = group_rate(name, rates) * group_rate(name, step_lengths)
            self.slow[name].grad = -update[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        move_slow(self.slow, {name: value for name, value in update.items()
                              if name not in set(self.names)}, rates)
