"""DTU's distances on planes and spheres, whose distances are known."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from utils.errors import UserError
from utils.results.dtu_protocol import (
    ObservedSpace,
    dtu_distances,
    num_points_on,
    points_on_triangles,
    thinned,
)

SQUARE = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0]], np.float64)
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def space_of(low, high, plane=(0.0, 0, 1, 100)) -> ObservedSpace:
    """All cells of side 1 between two corners were observed; the table is far below."""
    corners = np.array([low, high], np.float64)
    shape = tuple((corners[1] - corners[0]).astype(int) + 1)
    return ObservedSpace(np.ones(shape, bool), corners, 1.0, np.array(plane))


def grid(z: float, step: float = 0.1, side: float = 4.0) -> np.ndarray:
    """Points of a square at a height."""
    ticks = np.arange(0, side + 1e-9, step)
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], -1)


def test_points_of_triangles_lie_on_them_and_leave_no_gap():
    found = points_on_triangles(SQUARE, FACES, 0.25)
    assert len(found) == num_points_on(SQUARE, FACES, 0.25) > 16 / 0.25 ** 2
    assert found[:, 2].max() == 0 and found[:, :2].min() > 0 and found[:, :2].max() < 4
    distances, _ = KDTree(found).query(grid(0, 0.01))
    assert distances.max() < 0.25
    inner, _ = KDTree(found).query(found, k=2)
    assert inner[:, 1].min() > 0.25 / 4                    # of triangles as even as these
    assert len(points_on_triangles(SQUARE, FACES[:0], 0.25)) == 0


@pytest.mark.parametrize("count", [0, 1, 400])
def test_thinning_is_that_of_one_point_after_the_other(count):
    points = np.random.default_rng(0).random((count, 3))
    order = np.random.default_rng(7).permutation(count)
    kept: list[np.ndarray] = []
    for point in points[order]:
        if all(np.linalg.norm(point - other) > 0.2 for other in kept):
            kept.append(point)
    found = thinned(points, 0.2, np.random.default_rng(7))
    np.testing.assert_array_equal(found, np.array(kept).reshape(-1, 3))


def test_points_that_are_all_within_the_distance_are_refused():
    """30,000 points in 0.02 mm, as of a mesh in metres: 4.5e8 pairs, of which none is stored."""
    with pytest.raises(UserError, match="millimetres"):
        thinned(np.random.default_rng(0).random((30_000, 3)) / 50, 0.2, np.random.default_rng(0))


def test_planes_half_a_millimetre_apart():
    """Sampled every 0.1 and 0.2: the nearest point lies off the foot by 0.1 at most."""
    found = dtu_distances(SQUARE, FACES, grid(0.5), space_of((-5, -5, -5), (9, 9, 9)))
    assert found.accuracy == pytest.approx(0.5, abs=0.01)
    assert found.completeness == pytest.approx(0.52, abs=0.02)
    assert found.overall == (found.accuracy + found.completeness) / 2
    assert found.num_observed == found.num_mesh and found.num_scan == len(grid(0.5))


def test_what_was_not_observed_does_not_count_against_the_mesh():
    """A second square 8 mm away lies outside the mask; the mask rounds to whole millimetres."""
    two = np.concatenate([SQUARE, SQUARE + [0, 0, 8]])
    faces = np.concatenate([FACES, FACES + 4])
    near = space_of((-1, -1, -1), (5, 5, 5))
    assert dtu_distances(two, faces, grid(0.0), near).accuracy < 0.1
    all_of_it = space_of((-1, -1, -1), (5, 5, 9))
    assert dtu_distances(two, faces, grid(0.0), all_of_it).accuracy == pytest.approx(4, abs=0.1)


def test_the_scan_below_the_table_and_distances_of_20_mm_are_left_out():
    scan = np.concatenate([grid(0.0), grid(-3.0), grid(30.0)])
    space = space_of((-1, -1, -1), (5, 5, 5), plane=(0.0, 0, 1, 1))
    found = dtu_distances(SQUARE, FACES, scan, space)
    assert found.num_scan == 2 * len(grid(0.0)) and found.completeness < 0.15
    only_far = dtu_distances(SQUARE, FACES, grid(30.0), space)
    assert only_far.accuracy is None and only_far.overall is None


def test_cells_are_round_their_centres():
    space = space_of((0, 0, 0), (2, 2, 2))
    points = np.array([[-0.4, 0, 0], [-0.6, 0, 0], [2.4, 2, 2], [2.6, 2, 2]])
    assert space.holds(points).tolist() == [True, False, True, False]
