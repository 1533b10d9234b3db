"""Fusion of exact depths, distances of grids, and what masks give back."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.ball_scene import ball_scene
from support.grids import grid_of

from data_processing.stereo.blending import trace_grid
from data_processing.stereo.consistency import DepthMaps, num_agreeing, seen_depth
from data_processing.stereo.distances import redistanced
from data_processing.stereo.fusion import FusionSettings, ball, blurred, fuse
from data_processing.stereo.plane_sweep import depth_in
from data_processing.stereo.silhouettes import cover_masks

RADIUS, CENTER = 0.45, (0.1, 0.0, -0.05)


def ball_distance(points, radius=RADIUS):
    return (points - torch.tensor(CENTER)).norm(dim=-1) - radius


@pytest.fixture(scope="module")
def exact():
    """Twelve views of a ball, their exact depths, and a hull that is a larger ball."""
    scene = ball_scene(RADIUS, resolution=(80, 64), num_views=12, center=CENTER)
    origins, dirs = scene.cameras.pixel_rays()
    offset = origins - torch.tensor(CENTER)
    along = (offset * dirs).sum(-1)
    inside = along.square() - offset.square().sum(-1) + RADIUS ** 2
    points = origins + dirs * (-along - inside.clamp(min=0).sqrt())[..., None]
    depth = torch.stack([depth_in(scene.cameras[v], points[v])[1][0] for v in range(12)])
    mask = inside > 0
    maps = DepthMaps(torch.where(mask, depth, 1.0), mask.float(), mask)
    return scene, maps, grid_of(lambda p: ball_distance(p, RADIUS + 0.15))


def test_exact_depths_confirm_each_other(exact):
    """Every point of a ball is seen by others of twelve views, but for the rim of a silhouette."""
    scene, maps, _ = exact
    count = num_agreeing(maps, scene.cameras, 0.02)
    assert (count[~maps.mask] == 0).all()
    assert (count[maps.mask] >= 2).float().mean() > 0.95
    wrong = replace(maps, depth=torch.cat([maps.depth[:1] + 0.2, maps.depth[1:]]))
    assert (num_agreeing(wrong, scene.cameras, 0.02)[0][maps.mask[0]] == 0).float().mean() > 0.9


def test_seen_depth_tells_before_from_behind(exact):
    scene, maps, _ = exact
    eye = scene.cameras.centers_obj[0]
    way = torch.nn.functional.normalize(torch.tensor(CENTER) - eye, dim=0)
    touch = torch.tensor(CENTER) - RADIUS * way
    points = torch.stack([touch - 0.1 * way, touch + 0.1 * way, eye - way])
    seen = seen_depth(maps, 0, scene.cameras[0], points)
    assert seen.before[:2].tolist() == pytest.approx([0.1, -0.1], abs=5e-3)   # a pixel is 0.03
    assert seen.known_mask.tolist() == [True, True, False]


def test_fused_exact_depths_are_the_ball(exact):
    """Within a third of a cell in the mean: depths are interpolated over pixels of 0.03."""
    scene, maps, hull = exact
    settings = FusionSettings(truncation=0.1, hull_weight=0.0, spread=0.0)
    fused = redistanced(fuse(hull, maps, scene.cameras, settings))
    points = torch.nn.functional.normalize(torch.randn(2000, 3), dim=-1) * RADIUS
    error = fused.sdf(points + torch.tensor(CENTER))
    assert error.abs().mean() < hull.cell / 3
    assert (fused.distance >= hull.distance - 2 * hull.cell).all()


def test_without_confidence_the_hull_stays(exact):
    scene, maps, hull = exact
    nothing = replace(maps, confidence=torch.zeros_like(maps.confidence))
    torch.testing.assert_close(fuse(hull, nothing, scene.cameras).distance, hull.distance)


def test_blurring_keeps_constants_and_spreads_a_point():
    grid = torch.zeros(15, 15, 15)
    grid[7, 7, 7] = 1.0
    out = blurred(grid, 1.0)
    assert out.sum() == pytest.approx(1.0, abs=1e-5)
    assert out[7, 7, 8] == pytest.approx(float(out[8, 7, 7]))
    assert out[7, 7, 8] / out[7, 7, 7] == pytest.approx(0.6065, abs=1e-3)     # exp(-1/2)


def test_distances_come_back_from_a_distorted_field():
    """Within 0.3 cells: the surface is found to first order, and lies between its points."""
    truth = grid_of(ball_distance)
    bent = replace(truth, distance=truth.distance * (1 + 3 * truth.distance.abs()) * 0.4)
    found = redistanced(bent)
    assert (found.distance - truth.distance).abs().max() < 0.3 * truth.cell
    assert ((found.distance <= 0) == (truth.distance <= 0)).all()
    nothing = replace(truth, distance=truth.distance.abs() + 1)
    assert redistanced(nothing) is nothing


def test_masks_give_back_what_was_carved():
    scene = ball_scene(RADIUS, resolution=(60, 48), num_views=6, center=CENTER)
    hull = grid_of(lambda p: ball_distance(p, RADIUS + 0.02))
    half = grid_of(lambda p: torch.maximum(ball_distance(p), p[..., 0] - 0.15))
    before, _ = trace_grid(half, scene.cameras)
    covered = cover_masks(half, hull, scene.cameras, scene.masks, radius=1.5 * hull.cell)
    after, _ = trace_grid(covered, scene.cameras)
    missed = [float((scene.masks & ~surface.hit_mask).sum() / scene.masks.sum())
              for surface in (before, after)]
    assert missed[0] > 0.1 and missed[1] < 0.02
    assert (covered.distance >= hull.distance).all()
    whole = ball(0.99, hull)
    assert cover_masks(whole, whole, scene.cameras, scene.masks, radius=0.05) is whole
