"""The grid of an SDF against the SDF."""
from __future__ import annotations

import pytest
import torch
from support.sine_networks import sine_network
from support.tracing_cases import unit

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.scene_kinds import axis_rotation
from utils.fast.siren.evaluator import ChunkedSiren
from utils.fast.tracing import sdf_grid
from utils.fast.tracing.sdf_grid import BAND, SdfGrid, build_grid, second_differences


def tilt() -> torch.Tensor:
    """Some rotation."""
    return axis_rotation(unit(torch.tensor([0.3, -0.8, 0.5])), 0.8)


def test_grid_is_exact_at_nodes_near_the_surfaces_error():
    """Linear interpolation of |x| - r between nodes h apart errs by h^2 / 8 times the sum of second
    derivatives, 2 / r; the cells of the surface reach in to r = 0.5. The error, doubled for
    safety, covers all points of the surface."""
    sdf = solids.sphere(0.6)
    grid = build_grid(sdf, torch.zeros(0, dtype=torch.float64))
    axis = torch.linspace(-1, 1, grid.values.shape[-1], dtype=torch.float64)
    nodes = torch.cartesian_prod(axis, axis, axis)[::7]
    near = nodes[sdf(nodes).abs() < 0.9 * BAND]
    torch.testing.assert_close(grid(near), sdf(near), atol=1e-9, rtol=0)
    points = unit(torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)).double()) * 0.6
    worst = float((grid(points) - sdf(points)).abs().max())
    assert 0 < worst <= grid.error <= 2 * grid.spacing ** 2 / 8 * 2 / 0.5


def test_a_plate_thinner_than_the_grid_makes_its_error_large():
    """Nodes stand 1/32 apart, 0.02 of plate fits between: only what the plain tracer is asked
    about can be right, so the error must exceed the plate's depth of 0.01."""
    plate = solids.moved(solids.box((0.5, 0.4, 0.01)), tilt(), (0.05, -0.08, 0.02))
    assert build_grid(plate, torch.zeros(0)).error > 0.01


def test_compiled_interpolation_is_the_plain_one(monkeypatch):
    """Values of order one between all nodes, points outside the cube and on its faces too; float32
    rounds a point's place between nodes to 4e-6 of the way."""
    pytest.importorskip("numba", reason="compiled loops need numba")
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(1, 1, 65, 65, 65, generator=generator)
    grid = SdfGrid(values, second_differences(values))
    points = torch.rand(20_000, 3, generator=generator) * 2.4 - 1.2
    points[::7] = points[::7].round()
    compiled = grid(points)
    monkeypatch.setattr(sdf_grid, "loops_for", lambda *_: None)
    torch.testing.assert_close(compiled, grid(points), atol=2e-5, rtol=0)


def test_points_that_are_no_numbers_read_no_other_memory():
    """They are as if at the border, compiled or not."""
    values = torch.rand(1, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    grid = SdfGrid(values, second_differences(values))
    found = grid(torch.tensor([[torch.nan], [torch.inf], [-torch.inf]]).repeat(1, 3))
    assert ((found >= 0) & (found <= 1)).all()
    assert grid(torch.zeros(0, 3)).shape == (0,)


def test_a_refined_grid_is_exact_for_polynomials_of_second_order():
    """In float64, anywhere but in the outermost cells, whose ends have no second differences."""
    generator = torch.Generator().manual_seed(1)
    square = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    linear = torch.randn(3, generator=generator, dtype=torch.float64)

    def polynomial(points):
        return ((points @ square) * points).sum(-1) + points @ linear + 0.3

    axis = torch.linspace(-1, 1, 17, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    values = polynomial(torch.stack([x, y, z], -1).reshape(-1, 3)).reshape(1, 1, 17, 17, 17)
    grid = SdfGrid(values, second_differences(values))
    points = (torch.rand(500, 3, generator=generator, dtype=torch.float64) * 2 - 1) * (1 - 2 / 16)
    torch.testing.assert_close(grid.refined(points), polynomial(points), atol=1e-12, rtol=0)
    assert (grid(points) - polynomial(points)).abs().max() > 1e-3


@pytest.mark.parametrize("noise, seed", [(0.0, 0), (0.03, 1), (0.05, 2)])
def test_a_refined_grid_leaves_0_4_of_the_error_near_the_surface(noise, seed):
    """Of sine networks, root mean square."""
    sdf = ChunkedSiren(sine_network(noise, seed))
    grid = build_grid(sdf, torch.zeros(0))
    points = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1
    points = points[(points.norm(dim=-1) < 1) & (grid(points).abs() < 0.5 * grid.spacing)]
    assert len(points) > 500
    value = sdf(points)
    plain, refined = ((found(points) - value).abs() for found in (grid, grid.refined))
    assert refined.square().mean() < 0.4 ** 2 * plain.square().mean()
    assert refined.max() < 0.8 * plain.max() and plain.max() <= grid.error
