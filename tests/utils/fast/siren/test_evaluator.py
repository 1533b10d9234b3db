"""Chunked evaluation of sine networks and other SDFs against the modules themselves."""
from __future__ import annotations

import pytest
import torch
from support.tracing_cases import SOLIDS

from modules import PointEncoding, SdfArchitecture
from modules_sdf import build_sdf
from utils.fast.siren.evaluator import CHUNK, ChunkedSdf, ChunkedSiren, fast_evaluator


def points(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Uniform in [-1, 1]^3."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, 3, generator=generator) * 2 - 1).to(dtype)


@pytest.fixture
def network():
    """Three sine layers of 16, float64."""
    torch.manual_seed(0)
    return build_sdf(SdfArchitecture(hidden_layers=2, hidden_dims=16)).double()


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 5])
def test_chunks_of_any_number_of_points(network, count):
    """The factor 30 goes into the weights first: phases up to 30 round otherwise, by 1e-14."""
    found = ChunkedSiren(network)(points(count))
    assert found.shape == (count,) and not found.requires_grad
    torch.testing.assert_close(found, network(points(count)).detach(), atol=1e-12, rtol=0)


def test_float32_agrees_to_its_rounding(network):
    """Phases of order 30 carry 4e-6, ten times that after more layers, on values near 1: 1e-4."""
    network.float()
    found = ChunkedSiren(network)(points(500, torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(found, network(points(500, torch.float32)), atol=1e-4, rtol=0)


def test_results_and_inputs_are_left_alone(network):
    """Buffers are used again: earlier results and the points must not change with them."""
    evaluate, at = ChunkedSiren(network), points(300)
    first = evaluate(at)
    kept = first.clone()
    evaluate(-at)
    assert torch.equal(first, kept) and torch.equal(at, points(300))


def test_weights_are_those_of_its_making(network):
    at = points(50)
    before, evaluate = network(at).detach(), fast_evaluator(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1.1
    torch.testing.assert_close(evaluate(at), before, atol=1e-12, rtol=0)
    renewed = fast_evaluator(network)(at)
    torch.testing.assert_close(renewed, network(at).detach(), atol=1e-12, rtol=0)
    assert not torch.allclose(renewed, before)


@pytest.mark.parametrize("architecture, kind", [
    (SdfArchitecture(hidden_dims=8), ChunkedSiren),
    (SdfArchitecture(hidden_dims=8, hidden_layers=0), ChunkedSiren),
    (SdfArchitecture(hidden_dims=8, feature_vector=4), ChunkedSiren),
    (SdfArchitecture(hidden_dims=8, skips=((0, 2),)), ChunkedSdf),
    (SdfArchitecture(hidden_dims=8, encoding=PointEncoding("nerf", 2)), ChunkedSdf),
    (SdfArchitecture(hidden_dims=8, activation="softplus"), ChunkedSdf)])
def test_every_network_has_its_evaluator(architecture, kind):
    torch.manual_seed(1)
    network = build_sdf(architecture).double()
    evaluate = fast_evaluator(network)
    assert type(evaluate) is kind
    torch.testing.assert_close(evaluate(points(100)), network(points(100)).detach(), atol=1e-11,
                               rtol=1e-11)


@pytest.mark.parametrize("count", [0, 5, 7, 15])
def test_any_function_in_chunks(count):
    sizes = []

    def sdf(part):
        sizes.append(len(part))
        return SOLIDS["torus"](part)

    found = ChunkedSdf(sdf, chunk=7)(points(count))
    assert torch.equal(found, SOLIDS["torus"](points(count)))
    assert max(sizes, default=0) <= 7 and sum(sizes) == count
    assert type(fast_evaluator(sdf)) is ChunkedSdf
