"""Reptile and first-order MAML against closed forms on quadratics, and against plain loops."""
from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from meta_modules import (
    OuterAdam,
    adapt,
    all_finite,
    copy_weights,
    fomaml_update,
    group_rate,
    mean_update,
    move_slow,
    put_weights,
    reptile_update,
)

LR, STEPS = 0.1, 5
#: Sums of a handful of float32 numbers near 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Point(nn.Module):
    """Weights alone: a task is to come near its own centre."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(start.clone())

    def loss(self, centre: Tensor, curvature: Tensor) -> Tensor:
        """Half the squared distance, each axis with its own curvature."""
        return 0.5 * (curvature * (self.place - centre).square()).sum()


class Small(nn.Module):
    """Two groups of weights, one with batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quadratics(count=3):
    """Centres and curvatures of tasks."""
    return [(draws(4, seed=i), draws(4, seed=100 + i).abs() + 0.5) for i in range(count)]


def sgd(module, loss, lr=LR):
    """A step function of plain gradient descent with an optimiser of its own."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)

    def step(number):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return step


def test_reptile_on_quadratics_is_the_closed_form():
    """k descent steps shrink the distance to each centre by (1 - lr a)^k."""
    module = Point(draws(4, seed=9))
    slow, beta = copy_weights(module), 0.3
    start = slow["place"].clone()
    updates, expected = [], torch.zeros(4)
    for centre, curvature in quadratics():
        adapt(module, slow, sgd(module, partial(module.loss, centre, curvature)), num_steps=STEPS)
        updates.append(reptile_update(module, slow))
        expected += (1 - (1 - LR * curvature) ** STEPS) * (centre - start) / 3
    assert torch.equal(slow["place"], start)
    move_slow(slow, mean_update(updates), {"place": beta})
    torch.testing.assert_close(slow["place"], start + beta * expected, **CLOSE)


def test_rate_one_with_one_step_is_gradient_descent():
    module, twin = Point(draws(4, seed=9)), Point(draws(4, seed=9))
    (centre, curvature), = quadratics(1)
    slow = copy_weights(module)
    adapt(module, slow, sgd(module, lambda: module.loss(centre, curvature)), num_steps=1)
    move_slow(slow, reptile_update(module, slow), {"": 1.0})
    sgd(twin, lambda: twin.loss(centre, curvature))(0)
    torch.testing.assert_close(slow["place"], twin.place.detach(), **CLOSE)


def test_fomaml_is_the_gradient_at_the_adapted_weights():
    """For a quadratic: curvature times what k steps leave of the distance to another centre."""
    module = Point(draws(4, seed=9))
    slow, other = copy_weights(module), draws(4, seed=50)
    (centre, curvature), = quadratics(1)
    adapt(module, slow, sgd(module, partial(module.loss, centre, curvature)), num_steps=STEPS)
    fast = centre + (1 - LR * curvature) ** STEPS * (slow["place"] - centre)
    update = fomaml_update(module, slow, lambda: module.loss(other, curvature))
    torch.testing.assert_close(update["place"], -curvature * (fast - other), **CLOSE)
    assert module.place.grad is None


def test_fomaml_of_a_network_is_its_functional_gradient():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    inputs, truth = draws(8, 3), draws(8, 1, seed=1)
    slow = copy_weights(module)
    adapt(module, slow, sgd(module, lambda: module(inputs).square().mean()), num_steps=2)
    expected = grad(lambda weights: (functional_call(module, weights, (inputs,)) - truth)
                    .square().mean())(copy_weights(module))
    update = fomaml_update(module, slow, lambda: (module(inputs) - truth).square().mean())
    for name, value in expected.items():
        torch.testing.assert_close(update[name], -value, **CLOSE)


def test_batches_and_groups_equal_plain_loops():
    """Every entry by hand: two tasks, one of them with statistics of another spread."""
    torch.manual_seed(0)
    module = Small()
    slow = copy_weights(module)
    rates = {"body": 0.2, "head": 0.7}
    tasks = [(draws(8, 3, seed=i) * (1 + i), draws(8, 1, seed=10 + i)) for i in range(2)]

    def loss(inputs, truth):
        return (module(inputs) - truth).square().mean()

    updates, fasts = [], []
    for inputs, truth in tasks:
        step = sgd(module, lambda inputs=inputs, truth=truth: loss(inputs, truth))
        adapt(module, slow, step, num_steps=3)
        updates.append(reptile_update(module, slow))
        module.load_state_dict(slow, strict=False)
        for number in range(3):
            step(number)
        fasts.append({name: value.clone() for name, value in module.state_dict().items()})
    expected = {name: value + rates[name.split(".")[0]]
                * ((fasts[0][name] - value) + (fasts[1][name] - value)) / 2
                for name, value in slow.items()}
    move_slow(slow, mean_update(updates), rates)
    assert slow.keys() == expected.keys() and "body.1.running_var" in slow
    for name, value in slow.items():
        torch.testing.assert_close(value, expected[name], **CLOSE)


def test_statistics_do_not_leak_from_task_to_task():
    torch.manual_seed(0)
    module, inputs = Small(), draws(8, 3)
    slow = copy_weights(module)

    def task(scale):
        adapt(module, slow, sgd(module, lambda: module(inputs * scale).square().mean()),
              num_steps=3)
        return reptile_update(module, slow)

    first = task(1.0)
    task(50.0)
    again = task(1.0)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_outer_adam_is_adam_with_the_rates_of_the_groups():
    torch.manual_seed(0)
    module = Small()
    slow = copy_weights(module)
    before = {name: value.clone() for name, value in slow.items()}
    names = [name for name, _ in module.named_parameters()]
    outer = OuterAdam(slow, names)
    update = {name: draws(*value.shape, seed=i) for i, (name, value) in enumerate(slow.items())}
    outer.move(update, {"body": 0.5, "head": 0.1}, {"body": 0.02, "head": 0.04})
    for name, value in slow.items():
        rate = 0.5 if name.startswith("body") else 0.1
        # the first step of Adam goes by the rate along the sign of each entry
        move = rate * (0.02 if name.startswith("body") else 0.04) * update[name].sign() \
            if name in names else rate * update[name]
        torch.testing.assert_close(value, before[name] + move, rtol=1e-4, atol=1e-6)


def test_an_update_of_a_finite_loss_may_not_be_finite():
    """The root has no slope at 0: the loss is 0, its gradient 0 times infinity."""
    module, one = nn.Linear(1, 1), torch.ones(1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    slow = copy_weights(module)
    assert all_finite(fomaml_update(module, slow, lambda: module(one).square().sum()))
    assert module(one).abs().sqrt().item() == 0
    assert not all_finite(fomaml_update(module, slow, lambda: module(one).abs().sqrt().sum()))


def test_what_does_not_fit_is_refused():
    module = Point(draws(4))
    with pytest.raises(ValueError, match="elsewhere"):
        put_weights(module, {"elsewhere": torch.ones(1)})
    with pytest.raises(ValueError, match="no rate for place"):
        group_rate("place", {"head": 1.0})
    with pytest.raises(ValueError, match="no updates"):
        mean_update([])


def test_counters_stay_as_they_are():
    module = Small()
    slow = copy_weights(module)
    assert "body.1.num_batches_tracked" not in slow
    adapt(module, slow, lambda number: module(draws(8, 3)), num_steps=2)
    assert int(module.body[1].num_batches_tracked) == 2
