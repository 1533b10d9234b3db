"""Stereo of a textured ball, the choice of a start, and what bad input falls back to."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.ball_scene import ball_scene

from data_processing.stereo.depth_maps import SweepSettings, find_depths, front_depths
from data_processing.stereo.fusion import ball
from data_processing.stereo.pictures import stereo_grid
from data_processing.stereo.plane_sweep import depth_in
from data_processing.stereo.stereo_start import (
    choose_surface,
    confident_fraction,
    stereo_surface,
)
from utils.geometry.visual_hull import carve

RADIUS = 0.6
SETTINGS = SweepSettings(num_planes=48)


@pytest.fixture(scope="module")
def dented():
    """A ball seen from 16 places on one side, whose hull sticks out where no view looks."""
    scene = ball_scene(RADIUS, resolution=(64, 48), num_views=16, arrangement="dtu")
    return scene, carve(scene.cameras, scene.masks, resolution=64)


def test_depths_of_a_ball(dented):
    """Confident depths are right to 0.02: a pixel at the object is 0.04, a plane 0.03."""
    scene, hull = dented
    maps = find_depths(scene.cameras, scene.images, scene.masks, hull, SETTINGS)
    assert confident_fraction(maps, scene.masks) > 0.4
    for view in (0, 7, 15):
        origins, dirs = scene.cameras[view].pixel_rays()
        along = (origins * dirs).sum(-1)
        inside = (along.square() - origins.square().sum(-1) + RADIUS ** 2).clamp(min=0)
        points = origins + dirs * (-along - inside.sqrt())[..., None]
        truth = depth_in(scene.cameras[view], points[0])[1][0]
        error = (maps.depth[view] - truth).abs()[maps.confidence[view] > 0.5]
        assert error.median() < 0.02
    assert not maps.confidence[~scene.masks[:, 0]].any()


def test_the_front_of_a_hull_is_filled_beside_it(dented):
    scene, hull = dented
    fronts = front_depths(hull, scene.cameras)
    assert fronts.min() > 1.5 and fronts.max() < 4.5                   # cameras are 3 away


def test_auto_takes_the_best_and_says_why(dented):
    scene, hull = dented
    hull = carve(scene.cameras[:7], scene.masks[:7], resolution=64)
    sphere = ball(0.5, hull)
    views = (scene.cameras[:7], scene.images[:7], scene.masks[:7])
    choice = choose_surface(*views, hull, sphere=sphere, settings=SETTINGS)
    assert choice.psnr[choice.kind] >= max(choice.psnr.values()) - 0.05
    assert set(choice.psnr) == {"stereo", "hull", "sphere"}
    assert (hull.distance[choice.grid.distance <= 0] < hull.cell).all()
    assert bool(choice.reason) == (choice.kind != "stereo")
    image = stereo_grid(*views, choice.grid, maps=choice.maps, names=scene.view_names[:7])
    assert image.ndim == 3 and image.dtype.name == "uint8"


def test_stereo_is_deterministic(dented):
    scene, hull = dented
    few = (scene.cameras[:3], scene.images[:3], scene.masks[:3])
    first, second = (stereo_surface(*few, hull, sweep=SETTINGS).grid.distance for _ in range(2))
    assert torch.equal(first, second)


def far_apart(scene):
    """Four views that are 70 and more degrees apart."""
    index = [0, 5, 10, 15]
    return scene.cameras[index], scene.images[index], scene.masks[index]


@pytest.mark.parametrize("what", ["far apart", "no texture", "wrong camera", "two views"])
def test_bad_input_falls_back_and_is_not_worse(dented, what):
    scene, hull = dented
    cameras, images, masks = scene.cameras[:6], scene.images[:6], scene.masks[:6]
    if what == "far apart":
        cameras, images, masks = far_apart(ball_scene(RADIUS, resolution=(64, 48), num_views=16))
    elif what == "no texture":
        images = torch.where(masks, 0.6, 0.1).expand(-1, 3, -1, -1).contiguous()
    elif what == "wrong camera":
        view = cameras.view.clone()
        view[2, 0, 3] += 0.15
        cameras = replace(cameras, view=view)
    else:
        cameras, images, masks = cameras[:2], images[:2], masks[:2]
    hull = carve(cameras, masks, resolution=48)
    sphere = ball(0.5, hull)
    choice = choose_surface(cameras, images, masks, hull, sphere=sphere, settings=SETTINGS)
    assert choice.psnr[choice.kind] >= choice.psnr["hull"]
    assert choice.psnr[choice.kind] >= choice.psnr["sphere"] - 0.05
    if what in ("far apart", "no texture"):
        assert choice.kind != "stereo" and choice.reason


def test_without_a_hull_the_sphere_stays(dented):
    scene, hull = dented
    choice = choose_surface(scene.cameras, scene.images, scene.masks, None,
                            sphere=ball(0.5, hull), reason="the scene has no masks")
    assert choice.kind == "sphere" and choice.reason == "the scene has no masks"
