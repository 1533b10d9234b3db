"""Tests of utils/geometry/sdf.py."""
import pytest
import torch

from utils.geometry.sdf import gradient


def sphere(points):
    """Distance to the sphere of radius 0.5."""
    return points.norm(dim=-1) - 0.5


@pytest.fixture
def points():
    """(20, 3) points away from the origin, float64."""
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3


def test_sphere_has_the_radial_direction_as_gradient(points):
    values, slopes = gradient(sphere, points)
    # Both formulas are evaluated in float64; 1e-12 leaves room for their rounding alone.
    torch.testing.assert_close(values, points.norm(dim=-1) - 0.5, rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes, points / points.norm(dim=-1, keepdim=True), rtol=0,
                               atol=1e-12)
    assert not values.requires_grad and not slopes.requires_grad
    assert not points.requires_grad


def test_leading_dimensions_are_kept(points):
    values, slopes = gradient(sphere, points.reshape(4, 5, 3))
    assert values.shape == (4, 5) and slopes.shape == (4, 5, 3)


def test_works_where_gradients_are_switched_off(points):
    with torch.no_grad():
        slopes = gradient(sphere, points)[1]
    torch.testing.assert_close(slopes.norm(dim=-1), torch.ones(20, dtype=torch.float64))


def test_graph_reaches_the_weights_and_the_points(points):
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    points = points.requires_grad_(True)
    slopes = gradient(lambda x: scale * x.square().sum(-1), points, create_graph=True)[1]
    by_scale, by_points = torch.autograd.grad(slopes.sum(), (scale, points))
    # The gradient is 2 s x: its sum has the derivatives 2 sum(x) and 2 s.
    torch.testing.assert_close(by_scale, 2 * points.detach().sum())
    torch.testing.assert_close(by_points, torch.full_like(points, 4.0))


def test_other_than_three_coordinates_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        gradient(sphere, torch.zeros(5, 2))
