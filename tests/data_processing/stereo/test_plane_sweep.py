"""Plane sweeps: windows and NCC against naive loops, and a textured plane of known depth."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from support.ball_scene import ball_cameras, ball_scene

from data_processing.stereo.plane_sweep import (
    MIN_PATCH_FRACTION,
    NOISE_VARIANCE,
    DepthRays,
    SweptView,
    angles_between,
    box_sums,
    depth_in,
    depth_rays,
    nearest_sources,
    patch_ncc,
    photographs_of,
    sweep_along,
    sweep_planes,
)
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])
def test_box_sums_are_those_of_a_loop(size):
    maps = torch.rand(2, 9, 12, generator=torch.Generator().manual_seed(0))
    half = size // 2
    for row, column in ((0, 0), (4, 6), (8, 11), (3, 0)):
        window = maps[:, max(row - half, 0):row + half + 1, max(column - half, 0):column + half + 1]
        torch.testing.assert_close(box_sums(maps, size)[:, row, column], window.sum((1, 2)))


def test_ncc_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    grey, mask = torch.rand(10, 11, generator=generator), torch.rand(10, 11, generator=generator)
    mask = (mask > 0.3).float()
    warped = torch.rand(2, 3, 10, 11, generator=generator)
    swept = SweptView(DepthRays(torch.zeros(3), torch.zeros(10, 11, 3)),
                      torch.stack([grey, mask]), 5)
    found = patch_ncc(swept, warped)
    for plane, row, column in ((0, 5, 5), (1, 0, 0), (2, 9, 4), (1, 3, 10)):
        rows, columns = (slice(max(i - 2, 0), i + 3) for i in (row, column))
        joint = (mask[rows, columns] > 0) & (warped[1, plane, rows, columns] > 0.5)
        if joint.sum() < MIN_PATCH_FRACTION * 25:
            assert found[plane, row, column] == -1
            continue
        first = grey[rows, columns][joint].numpy()
        second = warped[0, plane, rows, columns][joint].numpy()
        covariance = ((first - first.mean()) * (second - second.mean())).mean()
        truth = covariance / np.sqrt((first.var() + NOISE_VARIANCE)
                                     * (second.var() + NOISE_VARIANCE))
        assert found[plane, row, column] == pytest.approx(float(truth), abs=1e-5)


def test_depth_is_that_along_the_axis():
    cameras = ball_cameras(3).to(torch.float32)
    for view in range(3):
        rays = depth_rays(cameras[view])
        points = rays.points(torch.full(rays.steps.shape[:2], 2.5))
        torch.testing.assert_close(depth_in(cameras[view], points)[1][0],
                                   torch.full(points.shape[:2], 2.5))


def test_sources_are_the_nearest_within_the_angle():
    dirs = torch.tensor([0.0, 10, 25, 80]).deg2rad()
    eyes = torch.stack([3 * dirs.sin(), torch.zeros(4), 3 * dirs.cos()], -1)
    view = look_at(eyes, torch.zeros(4, 3), torch.tensor([0.0, 1, 0]))
    k = projection_from_intrinsics(torch.tensor([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]),
                                   (64, 48)).repeat(4, 1, 1)
    cameras = Cameras(view, k, torch.eye(4), (64, 48))
    assert angles_between(cameras, torch.zeros(3))[0].tolist() == pytest.approx([0, 10, 25, 80],
                                                                               abs=0.05)
    found = nearest_sources(cameras, torch.zeros(3), max_degrees=45, num_sources=2)
    assert found == [[1, 2], [0, 2], [1, 0], []]
    wide = nearest_sources(cameras, torch.zeros(3), max_degrees=45, num_sources=1, min_degrees=12)
    assert wide == [[2], [2], [1], []]
    last = nearest_sources(cameras, torch.zeros(3), max_degrees=45, num_sources=2, min_degrees=12)
    assert last == [[2, 1], [2, 0], [1, 0], []]


def wall_views(depth: float) -> tuple[Cameras, torch.Tensor]:
    """Two cameras 0.4 apart that look along -z at a textured wall at z = -depth."""
    eyes = torch.tensor([[0.0, 0, 0], [0.4, 0, 0]])
    view = look_at(eyes, eyes + torch.tensor([0.0, 0, -1]), torch.tensor([0.0, 1, 0]))
    k = projection_from_intrinsics(torch.tensor([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]]),
                                   (64, 48)).repeat(2, 1, 1)
    cameras = Cameras(view, k, torch.eye(4), (64, 48))
    origins, dirs = cameras.pixel_rays()
    points = origins + dirs * (-depth / dirs[..., 2:])
    x, y = points[..., 0], points[..., 1]
    grey = 0.5 + 0.15 * ((9 * x + 2 * y).sin() + (5 * y - 3 * x).sin() + (13 * x * y).cos())
    return cameras, grey[:, None].expand(-1, 3, -1, -1).contiguous()


def test_a_wall_is_found_by_both_kinds_of_patches():
    depth = 2.0
    cameras, images = wall_views(depth)
    photographs = photographs_of(cameras, images, torch.ones(2, 1, 48, 64, dtype=torch.bool))
    swept = SweptView(depth_rays(cameras[0]), photographs.maps[0], 7)
    other = type(photographs)(cameras[[1]], photographs.maps[[1]])
    inverses = torch.linspace(1 / 1.0, 1 / 4.0, 31)                    # step 0.025: plane 20 is 2.0
    seen = slice(None), slice(8, 40), slice(24, 56)                    # shown by both
    planes = sweep_planes(swept, other, inverses)[seen]
    assert (planes.argmax(0) == 20).float().mean() > 0.95            # the texture repeats
    assert planes[20].median() > 0.97                                  # bilinear samples
    front = torch.full((48, 64), 1.25)
    along = sweep_along(swept, other, inverses, surface=front, offsets=range(-2, 20))[seen]
    assert (along.argmax(0) == 20).float().mean() > 0.95
    assert (along[:6] == -1).all()            # 1.25 is plane 8; less than 2 steps before it: never


def test_the_better_two_of_the_sources_count():
    """A source that shows something else does not lower the score of the two that fit."""
    scene = ball_scene(0.6, resolution=(60, 48), num_views=24)
    photographs = photographs_of(scene.cameras, scene.images, scene.masks)
    near = nearest_sources(scene.cameras, torch.zeros(3), max_degrees=60, num_sources=2)[0]
    swept = SweptView(depth_rays(scene.cameras[0]), photographs.maps[0], 7)
    inverses = torch.linspace(1 / 2.3, 1 / 2.9, 12)
    pair = type(photographs)(scene.cameras[near], photographs.maps[near])
    wrong = photographs.maps[[*near, near[0]]].clone()
    wrong[2, 0] = wrong[2, 0].flip(0)
    three = type(photographs)(scene.cameras[[*near, near[0]]], wrong)
    scores = torch.stack([sweep_planes(swept, type(photographs)(scene.cameras[[view]],
                                                                photographs.maps[[view]]), inverses)
                          for view in near])
    both = (scores > -1).all(0)                     # elsewhere one source alone counts
    assert both.float().mean() > 0.1
    torch.testing.assert_close(sweep_planes(swept, pair, inverses)[both], scores.mean(0)[both])
    assert (sweep_planes(swept, three, inverses)[both] >= scores.mean(0)[both] - 1e-6).all()
