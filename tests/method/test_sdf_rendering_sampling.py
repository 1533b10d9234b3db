"""From surface points to samples of source views: projection, occlusion, sampling, weights."""
from __future__ import annotations

import math

import pytest
import torch
from support.tracing_cases import cameras_at, unit

from data_processing.synthetic import analytic_sdf as solids
from sdf_rendering import (
    agreeing_in_sources,
    correlation_weights,
    lumigraph_weights,
    project_to_sources,
    sample_maps,
    trace_reference,
    visible_in_sources,
)
from utils.fast.image_networks.sparse_blending import sample_points
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface, camera_rays

DOUBLE = torch.float64
SIZE = (24, 20)


def as_maps(points: list | torch.Tensor) -> torch.Tensor:
    """(1, 3, 1, N) surface map of N points (N, 3)."""
    return torch.as_tensor(points, dtype=DOUBLE).T[None, :, None]


def traced(sdf, cameras: Cameras) -> Surface:
    """What cameras see of an analytic solid."""
    found = trace_reference(sdf, rays := camera_rays(cameras))
    width, height = cameras.resolution
    shape = (len(cameras), height, width, -1)
    return Surface(rays.points(found.t).reshape(shape).permute(0, 3, 1, 2),
                   found.hit_mask.reshape(shape).permute(0, 3, 1, 2))


def seen_by(points: list | torch.Tensor, sources: Cameras, surface: Surface, *,
            threshold: float = 1e-3, masks: torch.Tensor | None = None) -> torch.Tensor:
    """(K, N) bool: which sources count for points of the surface."""
    maps = as_maps(points)
    uv_grid, inside_mask = project_to_sources(maps, sources)
    if masks is None:
        masks = torch.ones_like(surface.hit_mask)
    targets = Surface(maps, torch.ones_like(maps[:, :1], dtype=torch.bool))
    counts = visible_in_sources(targets, surface, masks, uv_grid, inside_mask=inside_mask,
                                occ_threshold=threshold)
    return counts[:, 0, 0]


def test_projections_are_grid_coordinates_of_each_source():
    """A source's own hit at a pixel comes back at that pixel's place between the outer centres;
    float32 pixel centres, hence 1e-6."""
    sources = cameras_at([(0.0, 0.5, 3.0), (2.0, 0.0, 2.0)], SIZE)
    surface = traced(solids.sphere(0.6), sources)
    uv_grid, inside_mask = project_to_sources(surface.points_obj, sources)
    assert uv_grid.shape == (2, 2, SIZE[1], SIZE[0], 2)
    column = 2 * torch.arange(SIZE[0]) / (SIZE[0] - 1) - 1
    row = 2 * torch.arange(SIZE[1]) / (SIZE[1] - 1) - 1
    expected = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1).double()
    for view in range(2):
        hits = surface.hit_mask[view, 0]
        torch.testing.assert_close(uv_grid[view, view][hits], expected[hits], atol=1e-6, rtol=0)
        assert inside_mask[view, view][hits].all()


def test_inside_means_in_front_and_within_the_image():
    """One camera at (0, 0, 3) looking down -z; the image reaches NDC 1, half a pixel past the last
    centre. A point behind the camera projects into the image too, and must not count."""
    sources = cameras_at([(0.0, 0.0, 3.0)], SIZE)
    origins, dirs = sources.rays_through(torch.tensor(
        [[0.0, 0.0], [0.99, -0.99], [1.01, 0.0], [0.0, -1.01], [0.0, 0.0], [0.5, 0.5]]).double())
    distances = torch.tensor([2.0, 2, 2, 2, -2, -0.5], dtype=DOUBLE)
    _, inside_mask = project_to_sources(as_maps((origins + distances[:, None] * dirs)[0]), sources)
    assert inside_mask[0, 0, 0].tolist() == [True, True, False, False, False, False]
    xy_ndc, depth = sources.project((origins + distances[:, None] * dirs)[0])
    assert (xy_ndc[0, 4:].abs() < 1).all() and (depth[0, 4:] < 0).all()


def test_occlusion_of_two_spheres():
    """Source 0 looks along -z with the small sphere in front of the large one, source 1 from the
    side, where both lie free. Points of the front of the large sphere near the axis are hidden from
    source 0 alone, those beside the small sphere's outline are seen."""
    front, back = solids.sphere(0.2, (0.0, 0.0, 0.6)), solids.sphere(0.4, (0.0, 0.0, -0.4))
    sources = cameras_at([(0.0, 0.0, 3.0), (3.0, 0.0, 0.0)], (96, 80))
    surface = traced(solids.union(front, back), sources)

    def on_back(x: float, y: float) -> list[float]:
        return [x, y, -0.4 + math.sqrt(0.16 - x * x - y * y)]

    hidden = [on_back(0.05, 0.0), on_back(0.1, 0.05), on_back(0.12, -0.1)]
    beside = [on_back(0.33, 0.0), on_back(0.3, 0.12), on_back(0.3, -0.1)]
    tip = [[0.1, 0.0, 0.6 + math.sqrt(0.03)]]
    far_side = [[0.0, 0.0, -0.8]]
    counts = seen_by(hidden + beside + tip + far_side, sources, surface)
    assert counts[0].tolist() == [False] * 3 + [True] * 3 + [True] + [False]
    assert counts[1, :6].tolist() == [True] * 6
    # the shadow of the small sphere ends where the line from the source touches it
    reach = 0.2 / math.sqrt(2.4 ** 2 - 0.2 ** 2)
    for x, expected in ((0.22, False), (0.3, True)):                   # 2 pixels to either side
        x_at, _, z_at = on_back(x, 0.0)
        assert (x_at / (3 - z_at) > reach) == expected
        assert seen_by([on_back(x, 0.0)], sources, surface)[0].tolist() == [expected]


def test_the_threshold_is_a_squared_distance_in_object_units():
    """A plane z = 0 seen from above; a point at height h over it is h from what the source sees
    (and as far along the ray as the ray is steep: straight below the camera here)."""
    sources = cameras_at([(0.0, 0.0, 3.0)], (25, 25))
    surface = traced(solids.box((0.9, 0.9, 0.05)), sources)
    for height, threshold, expected in [(0.03, 1e-3, True), (0.033, 1e-3, False),
                                        (0.009, 1e-4, True), (0.011, 1e-4, False)]:
        counts = seen_by([[0.0, 0.0, 0.05 + height]], sources, surface, threshold=threshold)
        assert counts.tolist() == [[expected]]


def test_masks_of_sources_and_misses_of_targets_do_not_count():
    sources = cameras_at([(0.0, 0.3, 3.0), (0.3, 0.0, 3.0)], SIZE)
    surface = traced(solids.sphere(0.5), sources)
    masks = torch.ones_like(surface.hit_mask)
    masks[1] = False
    point = [[0.05, 0.05, math.sqrt(0.245)]]
    assert seen_by(point, sources, surface).tolist() == [[True], [True]]
    assert seen_by(point, sources, surface, masks=masks).tolist() == [[True], [False]]
    uv_grid, inside_mask = project_to_sources(surface.points_obj, sources)
    counts = visible_in_sources(surface, surface, torch.ones_like(masks), uv_grid,
                                inside_mask=inside_mask, occ_threshold=1e-5)
    assert not (counts & ~surface.hit_mask[:, 0]).any()
    # each source sees all of what it sees itself
    own = counts[torch.arange(2), torch.arange(2)]
    assert torch.equal(own, surface.hit_mask[:, 0])


def by_hand(image: torch.Tensor, u: float, v: float) -> torch.Tensor:
    """(C,) bilinear sample of (C, H, W); -1 and 1 are the outer centres, outside is repeated."""
    _, height, width = image.shape
    x = min(max((u + 1) / 2 * (width - 1), 0.0), width - 1.0)
    y = min(max((v + 1) / 2 * (height - 1), 0.0), height - 1.0)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    right_share, down_share = x - left, y - top
    return ((1 - right_share) * (1 - down_share) * image[:, top, left]
            + right_share * (1 - down_share) * image[:, top, left + 1]
            + (1 - right_share) * down_share * image[:, top + 1, left]
            + right_share * down_share * image[:, top + 1, left + 1])


def test_sampling_against_a_loop_over_everything():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, generator=generator).double()
    uv_grid = torch.rand(2, 2, 3, 4, 2, generator=generator).double() * 2.6 - 1.3
    found = sample_maps(maps, uv_grid)
    assert found.shape == (2, 2, 3, 3, 4)
    for k, t, row, column in torch.cartesian_prod(*map(torch.arange, (2, 2, 3, 4))).tolist():
        expected = by_hand(maps[k], *uv_grid[k, t, row, column].tolist())
        torch.testing.assert_close(found[k, t, :, row, column], expected, atol=1e-12, rtol=0)


def test_single_samples_are_those_of_whole_maps():
    """Values and gradients in maps and coordinates, inside, at borders and beyond, in float64 to
    rounding; a map of one row or column has nothing to blend."""
    generator = torch.Generator().manual_seed(3)
    for height, width in ((5, 7), (1, 6), (4, 1)):
        maps = torch.randn(3, 2, height, width, generator=generator).double().requires_grad_()
        uv = (torch.rand(3, 40, 2, generator=generator).double() * 2.6 - 1.3)
        uv[0, 0], uv[0, 1] = 1.0, -1.0
        uv.requires_grad_()
        whole = sample_maps(maps, uv[:, None, None])[:, 0, :, 0].transpose(1, 2)       # (3, 40, 2)
        source = torch.arange(3).repeat_interleave(40)
        single = sample_points(maps, source, uv.reshape(-1, 2)).reshape(3, 40, 2)
        torch.testing.assert_close(single, whole, atol=1e-12, rtol=0)
        weight = torch.randn(whole.shape, generator=generator).double()
        expected = torch.autograd.grad((whole * weight).sum(), (maps, uv))
        found = torch.autograd.grad((single * weight).sum(), (maps, uv))
        inside = (uv.detach().abs() < 1).all(-1, keepdim=True)         # on a border there are two
        torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=0)
        if min(height, width) > 1:
            torch.testing.assert_close(found[1] * inside, expected[1] * inside, atol=1e-12, rtol=0)


def test_sampling_a_source_at_its_own_pixels_is_the_identity():
    sources = cameras_at([(0.0, 0.4, 3.0)], SIZE)
    surface = traced(solids.sphere(0.9), sources)
    image = torch.rand(1, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(1)).double()
    uv_grid, _ = project_to_sources(surface.points_obj, sources)
    hits = surface.hit_mask.expand(1, 3, -1, -1)
    # 1e-6 of a pixel, from float32 pixel centres, times the image's contrast and size
    torch.testing.assert_close(sample_maps(image, uv_grid)[:, 0][hits], image[hits], atol=3e-5,
                               rtol=0)


def test_agreement_leaves_out_the_sample_that_disagrees():
    """Three sources see (1, 0), one sees (-1, 0.1): its cosine with the mean (0.5, ..) is negative.
    A fifth, outside the view, counts neither in the mean nor in the result."""
    features = torch.tensor([[1.0, 0], [1, 0], [1, 0], [-1, 0.1], [50, 50]]).double()
    features = features[:, None, :, None, None]                        # (K, T, C, H, W)
    in_view = torch.tensor([True, True, True, True, False])[:, None, None, None]
    counts = agreeing_in_sources(features, in_view)
    assert counts.flatten().tolist() == [True, True, True, False, False]
    # cosine of (1, 0) and (0, 1) with their mean is 0.707
    pair = torch.eye(2).double()[:, None, :, None, None]
    both = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    assert agreeing_in_sources(pair, both, 0.70).all()
    assert not agreeing_in_sources(pair, both, 0.71).any()


def test_correlation_with_the_targets_photograph():
    """Products with the target's (2, 0) over C = 2: 4 / 2, 1, -3 and 0.5 / 2; the negative one
    counts as 0, and the others share C with the target's own 2."""
    features = torch.tensor([[2.0, 0], [1, 5], [-3, 1], [0.25, -1]]).double()
    features = features[:, None, :, None, None]                        # (K, T, C, H, W)
    own = torch.tensor([True, False, False, False])[:, None]
    found = correlation_weights(features, ~own[:, :, None, None], own)
    expected = 2 * torch.tensor([2.0, 1.0, 0.0, 0.25]).double() / 3.25
    torch.testing.assert_close(found.flatten(), expected, atol=1e-12, rtol=0)


def test_correlation_without_a_photograph_is_with_the_mean_in_view():
    """(1, 0) and (0, 1) in view have the mean (0.5, 0.5), hence products 0.25 each; (4, 0), out of
    view, has 1: 2 x 0.25 / 1.5 and 2 x 1 / 1.5. Where all products are negative, all is 0."""
    features = torch.tensor([[1.0, 0], [0, 1], [4, 0]]).double()[:, None, :, None, None]
    in_view = torch.tensor([True, True, False])[:, None, None, None]
    none = torch.zeros(3, 1, dtype=torch.bool)
    found = correlation_weights(features, in_view, none)
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 1.0, 4.0]).double() / 3,
                               atol=1e-12, rtol=0)
    opposite = torch.tensor([[1.0, 0], [-1, 0]]).double()[:, None, :, None, None]
    weights = correlation_weights(opposite, torch.ones(2, 1, 1, 1, dtype=torch.bool), none[:2])
    assert not weights.any()


def lumigraph(points: torch.Tensor, target_center: torch.Tensor, sources: Cameras,
              counts: list[bool], epipolar: bool) -> list[float]:
    """Weights of K sources at one point."""
    maps = as_maps(points)
    dirs = as_maps(unit(points - target_center))
    mask = torch.tensor(counts)[:, None, None, None]
    return lumigraph_weights(maps, dirs, sources, mask, epipolar=epipolar).flatten().tolist()


def on_arc(degrees: float) -> tuple[float, float, float]:
    """A place 3 away from the origin in the xz plane, 0 degrees on z."""
    return (3 * math.sin(math.radians(degrees)), 0.0, 3 * math.cos(math.radians(degrees)))


POINT = torch.zeros(1, 3, dtype=DOUBLE)
TARGET = torch.tensor([[0.0, 0.0, 3.0]], dtype=DOUBLE)


def test_cosine_weights_by_hand():
    """Angles 10, 60 and 120 degrees; a cosine below zero is none; 1e-6 is kept from the poles."""
    sources = cameras_at([on_arc(10), on_arc(-60), on_arc(120)], SIZE)
    found = lumigraph(POINT, TARGET, sources, [True] * 3, epipolar=False)
    assert found == pytest.approx([math.cos(math.radians(10)), 0.5, 0.0], abs=1e-9)
    found = lumigraph(POINT, TARGET, sources, [False, True, True], epipolar=False)
    assert found == pytest.approx([0.0, 0.5, 0.0], abs=1e-9)


def test_epipolar_weights_by_hand():
    """w = (1 / a) (1 - a / max a): 10, 20, 40 degrees. The greatest angle's is 0 by the formula and
    kept at 1e-3 / a, so that a pixel which one source sees has a weight at all."""
    sources = cameras_at([on_arc(10), on_arc(-20), on_arc(40)], SIZE)
    angles = [math.radians(angle) for angle in (10, 20, 40)]
    found = lumigraph(POINT, TARGET, sources, [True] * 3, epipolar=True)
    expected = [(1 - a / angles[2]) / a for a in angles[:2]] + [1e-3 / angles[2]]
    assert found == pytest.approx(expected, rel=1e-9)
    # the greatest angle is that of the sources that count
    found = lumigraph(POINT, TARGET, sources, [True, True, False], epipolar=True)
    assert found == pytest.approx([(1 - 0.5) / angles[0], 1e-3 / angles[1], 0.0], rel=1e-9)
    found = lumigraph(POINT, TARGET, sources, [False, True, False], epipolar=True)
    assert found == pytest.approx([0.0, 1e-3 / angles[1], 0.0], rel=1e-9)


@pytest.mark.parametrize("epipolar", [False, True])
def test_weights_of_the_same_direction_are_finite_and_greatest(epipolar):
    sources = cameras_at([on_arc(0), on_arc(15), on_arc(30)], SIZE)
    found = lumigraph(POINT, TARGET, sources, [True] * 3, epipolar=epipolar)
    assert all(map(math.isfinite, found))
    assert found[0] > found[1] > found[2] > 0
