"""Work in chunks with its gradients, against the same in one batch.

Only the order of additions differs: float64 sums of 5,000 terms of order one, TIGHT is a thousand
times their rounding.
"""
from __future__ import annotations

import pytest
import torch

from utils.fast.chunked_autograd import CHUNK, chunk_size, map_in_chunks, total_in_chunks

TIGHT = {"atol": 1e-9, "rtol": 1e-10}


@pytest.fixture
def network():
    """A small smooth network in float64."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(),
                               torch.nn.Linear(8, 1), torch.nn.Flatten(0)).double()


def random(*shape: int) -> torch.Tensor:
    """Uniform in [0, 1], the same each time."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).double()


def test_chunks_of_a_cpu_are_small():
    assert chunk_size(random(3, 3)) == CHUNK


@pytest.mark.parametrize("count", [0, 1, CHUNK, 2 * CHUNK + 904])
def test_totals(network, count):
    points, weights = random(count, 3), random(count)

    def weighted(part, weight):
        assert len(part) <= CHUNK
        return (network(part).square() * weight).sum()

    parameters = list(network.parameters())
    found = total_in_chunks(weighted, (points, weights), parameters)
    expected = (network(points).square() * weights).sum()
    torch.testing.assert_close(found, expected, **TIGHT)
    for ours, true in zip(torch.autograd.grad(3 * found, parameters),
                          torch.autograd.grad(3 * expected, parameters), strict=True):
        torch.testing.assert_close(ours, true, **TIGHT)


def test_totals_with_frozen_and_unused_parameters(network):
    frozen, unused = network[0].weight.requires_grad_(False), torch.nn.Parameter(torch.ones(2))
    parameters = [*network.parameters(), unused]
    total_in_chunks(lambda part: network(part).sum(), (random(10, 3),), parameters).backward()
    assert frozen.grad is None and network[2].weight.grad.abs().sum() > 0
    assert not unused.grad.any()
    for parameter in parameters:
        parameter.requires_grad_(False)
    assert not total_in_chunks(lambda part: network(part).sum(), (random(10, 3),),
                               parameters).requires_grad


@pytest.mark.parametrize("needs_points", [False, True])
@pytest.mark.parametrize("count", [0, 5, CHUNK + 904])
def test_maps(network, count, needs_points):
    parameters, weights = list(network.parameters()), random(count)
    grads = []
    for chunked in (True, False):
        points = random(count, 3).requires_grad_(needs_points)
        values = map_in_chunks(network, lambda part: network(part).detach(), points, parameters) \
            if chunked else network(points)
        wanted = [*parameters, points] if needs_points else parameters
        grads.append([values, *torch.autograd.grad((values * weights).sum(), wanted)])
    for ours, true in zip(*grads, strict=True):
        torch.testing.assert_close(ours, true, **TIGHT)


def test_values_come_from_the_evaluator_alone(network):
    """Forward, the function is not called at all: what it would have kept is not in memory."""
    def refused(part):
        raise AssertionError("called")

    found = map_in_chunks(refused, lambda part: part[:, 0] * 2, random(6, 3),
                          list(network.parameters()))
    assert torch.equal(found, random(6, 3)[:, 0] * 2) and found.requires_grad
