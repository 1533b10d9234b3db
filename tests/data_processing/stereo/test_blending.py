"""Source colours on a known surface."""
from __future__ import annotations

import pytest
import torch
from support.ball_scene import ball_scene
from support.grids import grid_of

from data_processing.stereo.blending import (
    blend_colours,
    held_out_psnr,
    trace_grid,
)
from utils.geometry.rays import Surface
from utils.views.training_views import Sources


@pytest.fixture(scope="module")
def scene():
    return ball_scene(0.6, resolution=(48, 40), num_views=16)


def sphere(radius):
    return grid_of(lambda points: points.norm(dim=-1) - radius)


def test_rays_meet_the_grid_where_they_meet_the_ball(scene):
    """To 2e-3: the grid interpolates a ball of radius 0.6 linearly, with cells of 0.032."""
    surface, dirs = trace_grid(sphere(0.6), scene.cameras)
    points = surface.points_obj.permute(0, 2, 3, 1)[surface.hit_mask[:, 0]]
    assert (points.norm(dim=-1) - 0.6).abs().max() < 2e-3
    wrong = (surface.hit_mask != scene.masks).float().mean()
    assert wrong < 0.01                                                # pixels of the rim
    assert dirs.norm(dim=1).sub(1).abs().max() < 1e-5


def test_the_true_surface_renders_held_out_views_best(scene):
    scores = {radius: float(held_out_psnr(sphere(radius), scene.cameras, scene.images,
                                          scene.masks).mean()) for radius in (0.5, 0.6, 0.7)}
    assert scores[0.6] > scores[0.5] + 1 and scores[0.6] > scores[0.7] + 1


def test_a_constant_colour_stays_and_no_source_is_black(scene):
    surface, dirs = trace_grid(sphere(0.6), scene.cameras)
    images = torch.full_like(scene.images, 0.3)
    sources = Sources(scene.cameras, images, scene.masks, surface)
    own = Surface(surface.points_obj[:1], surface.hit_mask[:1])
    found = blend_colours(own, dirs[:1], sources, exclude=0)[0]
    hit = surface.hit_mask[0, 0]
    shown = found[0, hit]
    assert ((shown - 0.3).abs() < 1e-5).float().mean() > 0.99
    assert (found[:, ~hit] == 0).all()
