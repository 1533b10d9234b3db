"""The carved hull against balls, whose outlines and distances are known in closed form."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from support.ball_scene import ball_cameras, ball_scene

from utils.geometry.visual_hull import (
    carve,
    hull_masks,
    mask_distance,
    outline_agreement,
    touches_border,
)

CENTER = (0.15, -0.1, 0.05)


@pytest.fixture(scope="module")
def ball():
    return ball_scene(0.5, num_views=30, center=CENTER)


def test_hull_of_a_ball_is_the_ball(ball):
    """30 cones leave little round the ball; the radius is measured to half a cell and a pixel."""
    hull = carve(ball.cameras, ball.masks, resolution=64)
    points = hull.points()
    center = (points.amin(0) + points.amax(0)) / 2
    radius = float((points - center).norm(dim=-1).max()) + hull.cell / 2
    torch.testing.assert_close(center, torch.tensor(CENTER), atol=hull.cell, rtol=0)
    pixel = 3.0 / (1.1 * 160)
    assert 0.5 - pixel < radius < 0.5 + 2 * hull.cell + 0.06
    volume = float(hull.occupied_mask.sum()) * hull.cell ** 3
    # Half a pixel of the outline is 1.7 % of the radius, 5 % of the volume.
    assert 0.95 < volume / (4 / 3 * torch.pi * 0.5 ** 3) < 1.15


def test_distance_is_exact_inside_and_never_more_than_true(ball):
    """Inside each point's distance is that from the nearest cone: of a ball to a pixel or two;
    outside it is a lower bound, and grows with the distance."""
    hull = carve(ball.cameras, ball.masks, resolution=64)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3000, 3, generator=generator) * 1.8 - 0.9
    true = (points - torch.tensor(CENTER)).norm(dim=-1) - 0.5
    found = hull.sdf(points)
    slack = hull.cell + 2 * 3.0 / (1.1 * 160)
    inside_mask = true < -0.1
    assert (found - true)[inside_mask].abs().max() < slack
    assert (found < true + slack).all()
    assert (found[true > 0.1] > 0).all()
    assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.98


def test_sdf_goes_on_outside_the_cube_and_has_a_gradient(ball):
    hull = carve(ball.cameras, ball.masks, resolution=24)
    far = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0]], requires_grad=True)
    value = hull.sdf(far)
    assert (value > torch.tensor([2.0, 4.0])).all()
    (slope,) = torch.autograd.grad(value.sum(), far)
    torch.testing.assert_close(slope[0, 0], torch.tensor(1.0), atol=0.3, rtol=0)


def test_outlines_come_back(ball):
    hull = carve(ball.cameras, ball.masks, resolution=96)
    agreement = outline_agreement(hull_masks(hull, ball.cameras), ball.masks)
    assert agreement.min() > 0.96
    part = hull_masks(hull, ball.cameras, radius=0.3)
    assert (part.sum((1, 2, 3)) < ball.masks.sum((1, 2, 3))).all()


def test_outlines_of_cameras_within_the_cube():
    """1.2 radii of the cube's half from the middle: what lies behind a camera is near, not far."""
    near = ball_scene(0.6, num_views=8, distance=1.25, resolution=(80, 60), arrangement="dtu")
    hull = carve(near.cameras, near.masks, resolution=64, half=1.5)
    assert (near.cameras.centers_obj.abs() < 1.5).all()
    assert outline_agreement(hull_masks(hull, near.cameras), near.masks).min() > 0.93


def test_contradicting_masks_leave_nothing(ball):
    turned = ball.masks.roll(60, dims=3)
    masks = torch.where(torch.arange(30)[:, None, None, None] % 2 == 0, ball.masks, turned)
    assert carve(ball.cameras, masks, resolution=32).is_empty


def test_a_view_without_mask_is_left_out(ball):
    masks = ball.masks.clone()
    masks[4] = False
    full, part = (carve(ball.cameras, m, resolution=32) for m in (ball.masks, masks))
    assert not part.is_empty
    assert (part.occupied_mask | ~full.occupied_mask).all()
    assert carve(ball.cameras, torch.zeros_like(masks), resolution=8).is_empty


def test_a_cut_mask_says_nothing_beyond_the_frame():
    """One view shows the middle of the ball alone: its mask fills the frame and must not carve."""
    scene = ball_scene(0.5, num_views=20)
    zoomed = scene.cameras.projection.clone()
    zoomed[0, 0, 0] *= 6
    zoomed[0, 1, 1] *= 6
    cameras = type(scene.cameras)(scene.cameras.view, zoomed, scene.cameras.model,
                                  scene.cameras.resolution)
    masks = scene.masks.clone()
    masks[0] = True
    hull = carve(cameras, masks, resolution=48)
    whole = carve(scene.cameras[list(range(1, 20))], scene.masks[1:], resolution=48)
    assert (hull.occupied_mask == whole.occupied_mask).float().mean() > 0.999


def test_too_few_views_of_a_point_do_not_make_it_solid():
    cameras = ball_cameras(2)
    everything = torch.ones(2, 1, 120, 160, dtype=torch.bool)
    hull = carve(cameras, everything, resolution=16, half=4.0)
    assert not hull.occupied_mask[0, 0, 0] and not hull.is_empty


def test_mask_distance_in_closed_form():
    """A half plane: distances count from the line between the pixels."""
    mask = torch.zeros(5, 8, dtype=torch.bool)
    mask[:, 4:] = True
    expected = 3.5 - torch.arange(8.0)
    torch.testing.assert_close(mask_distance(mask), expected.repeat(5, 1))
    assert touches_border(mask) and not touches_border(mask & False)
    assert (mask_distance(torch.ones(5, 8, dtype=torch.bool)) < 0).all()


def test_mask_distance_is_the_root_of_whole_numbers():
    """To the bit, wherever the mask lies in memory; the roots of OpenCV and torch are not."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(37, 53, generator=generator) < 0.97
    place = torch.stack(torch.meshgrid(torch.arange(37), torch.arange(53), indexing="ij"), -1)
    apart = (place[:, :, None] - place[~mask]).square().sum(-1).amin(-1)       # whole numbers
    expected = 0.5 - torch.from_numpy(np.sqrt(apart.float().numpy()))
    for shift in range(1, 9):
        moved = torch.zeros(37 * 53 + shift, dtype=torch.bool)[shift:].view(37, 53).copy_(mask)
        assert torch.equal(mask_distance(moved)[mask], expected[mask])


def test_bad_shapes_are_named(ball):
    with pytest.raises(ValueError, match="need \\(30, 1, H, W\\)"):
        carve(ball.cameras, ball.masks[:3])
    assert carve(ball.cameras, torch.zeros_like(ball.masks), resolution=8).is_empty
