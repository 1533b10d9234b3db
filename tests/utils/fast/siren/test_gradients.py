"""Sums over many points and their gradients: the same bits for any number of threads.

That they are right is shown against the plain tracer in tracing/test_cpu_tracer.py.
"""
from __future__ import annotations

import pytest
import torch
from support.sine_networks import sine_network

from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.siren.gradients import total_of_gradients, total_of_values


@pytest.mark.parametrize("total", [
    lambda sdf, siren, points: total_of_values(sdf, siren, torch.abs, points, []),
    lambda sdf, siren, points: total_of_gradients(
        sdf, siren, lambda found: (found.norm(dim=-1) - 1).square(), points)],
    ids=["values", "gradients"])
def test_sums_have_the_same_bits_for_any_number_of_threads(total):
    sdf = sine_network(0.01)
    siren = fast_evaluator(sdf)
    points = torch.randn(6001, 3, generator=torch.Generator().manual_seed(0)) / 2
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        sdf.zero_grad()
        value = total(sdf, siren, points)
        value.backward()
        found.append([value.detach(), *(parameter.grad.clone() for parameter in sdf.parameters())])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))
