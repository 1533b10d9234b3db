"""Counted points against numbers that are known."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.tracing_cases import rays_inwards

from modules import SdfArchitecture
from modules_sdf import build_sdf
from sdf_rendering import ReferenceTracer, make_tracer
from utils.benchmarking.point_counts import CountedPoints
from utils.config.sections import TracingConfig


def counted(tracer):
    """A small network with a tracer of it, counting."""
    torch.manual_seed(0)
    part = SimpleNamespace(sdf=build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)))
    trainer = SimpleNamespace(model=part, tracer=tracer)
    return CountedPoints(trainer, has_analytic_sums=True), part.sdf, tracer


@pytest.mark.parametrize("name", ["reference", "fast"])
def test_every_way_of_evaluating_counts(name):
    counter, sdf, tracer = counted(make_tracer(TracingConfig(tracer=name)))
    points = torch.rand(70, 3)
    for work, expected in (
            (lambda: sdf(points), 70),
            (lambda: tracer.sum_of_values(sdf, torch.square, points), 70),
            (lambda: tracer.sum_of_gradients(sdf, lambda grad: grad.sum(-1), points), 70)):
        before = counter.total
        work()
        assert counter.total - before == expected


@pytest.mark.parametrize("tracer", [ReferenceTracer(), make_tracer(TracingConfig(tracer="fast"))],
                         ids=["reference", "fast"])
def test_a_trace_counts_what_it_says(tracer):
    counter, sdf, tracer = counted(tracer)
    with torch.no_grad():
        sdf.layers[-1].bias += 0.1
    found = tracer.trace(sdf, rays_inwards(300, seed=3))
    assert counter.total == found.num_evaluations > 0


def test_a_network_without_a_pass_forward_is_traced_and_counted_too():
    architecture = SdfArchitecture(hidden_dims=16, hidden_layers=2, skips=((0, 2),))
    part = SimpleNamespace(sdf=build_sdf(architecture))
    tracer = make_tracer(TracingConfig(tracer="fast"))
    counter = CountedPoints(SimpleNamespace(model=part, tracer=tracer), has_analytic_sums=False)
    with torch.no_grad():
        part.sdf.layers[-1].bias += 0.1
    found = tracer.trace(part.sdf, rays_inwards(300, seed=3))
    assert counter.total >= found.num_evaluations > 0
