"""Paths against circles in closed form, and the cameras they must pass."""
import math

import numpy as np
import pytest
import torch

from utils.geometry.camera_paths import (
    eight_path,
    interpolate_cameras,
    lerp,
    linear_path,
    make_path,
    short_tour,
    slerp,
    spline,
)
from utils.geometry.cameras import Cameras, look_at, projection_from_intrinsics

RADIUS, SCALE = 3.0, 2.0
SHIFT = torch.tensor([0.5, -1.0, 2.0])


def ring_cameras(angles, radius=RADIUS, heights=0.0):
    """Cameras around the y axis that look at the object's origin, in a scaled, shifted world."""
    angles = torch.as_tensor(angles, dtype=torch.float64)
    heights = torch.as_tensor(heights, dtype=torch.float64).expand(len(angles))
    offsets = torch.stack([angles.sin(), heights, angles.cos()], -1)
    eyes = SHIFT + SCALE * radius * torch.nn.functional.normalize(offsets, dim=-1)
    view = look_at(eyes, SHIFT.double().expand_as(eyes), torch.tensor([0, 1.0, 0]).double())
    focal = 80 + 10 * torch.arange(len(angles), dtype=torch.float64)
    intrinsics = torch.zeros(len(angles), 3, 3, dtype=torch.float64)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = 33.0, 20.0, 1.0
    model = torch.eye(4, dtype=torch.float64)
    model[:3] = torch.cat([SCALE * torch.eye(3), SHIFT[:, None]], 1)
    return Cameras(view, projection_from_intrinsics(intrinsics, (64, 48)), model, (64, 48))


def turns(path):
    """Angles in degrees between the camera centres of neighbouring frames, seen from the pivot."""
    dirs = torch.nn.functional.normalize(path.centers_obj, dim=-1)
    return torch.rad2deg(torch.arccos((dirs[1:] * dirs[:-1]).sum(-1).clamp(-1, 1)))


def test_path_through_a_ring_stays_on_it_and_looks_at_the_object():
    cameras = ring_cameras(np.radians([0, 30, 60, 90]))
    path = interpolate_cameras(cameras, 61)
    # float64 throughout
    assert torch.allclose(path.centers_obj.norm(dim=-1), torch.full((61,), RADIUS).double())
    assert path.centers_obj[:, 1].abs().max() < 1e-9
    toward = -torch.nn.functional.normalize(path.centers_obj, dim=-1)
    assert torch.allclose(path.forward_obj, toward, atol=1e-9)
    # 90 degrees in 60 even steps; the curve's length is measured along chords, right to 1e-3
    assert torch.allclose(turns(path), torch.full((60,), 1.5).double(), atol=2e-3)
    assert path.resolution == (64, 48) and torch.equal(path.model, cameras.model)


def test_path_passes_every_camera_with_its_intrinsics():
    angles = np.radians([0, 20, 50, 90])
    cameras = ring_cameras(angles, heights=torch.tensor([0.0, 0.5, -0.2, 0.3]))
    path = interpolate_cameras(cameras, 2001)
    for v in range(4):
        gaps = (path.centers_world - cameras.centers_world[v]).norm(dim=-1)
        i = int(gaps.argmin())
        # a frame every 10 units / 2000: the nearest one is at most half of that away
        assert gaps[i] < 5e-3
        assert torch.allclose(path.view[i], cameras.view[v], atol=2e-2)
        assert torch.allclose(path.projection[i], cameras.projection[v], atol=1e-2)
    ends = {0, 3}
    for i in (0, -1):
        v = int((cameras.centers_world - path.centers_world[i]).norm(dim=-1).argmin())
        assert v in ends and torch.allclose(path.view[i], cameras.view[v], atol=1e-9)


def test_views_of_a_path_are_rigid_and_keep_dtype():
    cameras = ring_cameras(np.radians([0, 40, 80])).to(torch.float32)
    for kind in ("interpolate", "eight", "linear"):
        path = make_path(kind, cameras, 17, reference=1)
        rotation = path.view[:, :3, :3]
        assert len(path) == 17 and path.view.dtype == torch.float32
        # float32 products
        assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(17, 3, 3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(17), atol=1e-5)


def test_shuffled_cameras_give_the_same_path_up_to_its_direction():
    cameras = ring_cameras(np.radians([0, 25, 50, 75, 100]))
    path = interpolate_cameras(cameras, 21)
    shuffled = interpolate_cameras(cameras[[3, 0, 4, 2, 1]], 21)
    same = torch.allclose(path.view, shuffled.view, atol=1e-9)
    assert same or torch.allclose(path.view.flip(0), shuffled.view, atol=1e-9)


def test_one_camera_stands_still_and_two_make_an_arc():
    still = interpolate_cameras(ring_cameras([0.3]), 3)
    assert torch.allclose(still.view[0], still.view[2])
    arc = interpolate_cameras(ring_cameras(np.radians([0, 60])), 7)
    # lengths are measured along 128 chords a segment
    assert torch.allclose(turns(arc), torch.full((6,), 10.0).double(), atol=1e-3)


def test_opposite_cameras_go_round_the_object_and_not_through_it():
    path = interpolate_cameras(ring_cameras([0.0, math.pi]), 9)
    assert torch.allclose(path.centers_obj.norm(dim=-1), torch.full((9,), RADIUS).double())
    assert turns(path).max() == pytest.approx(22.5, abs=0.1)


def test_object_keeps_its_place_when_cameras_roll_and_look_past_it():
    """Cameras of a crop: each is turned off the object, and its principal point makes up for it."""
    cameras = ring_cameras(np.radians([0, 40, 80]), heights=torch.tensor([0.0, 0.6, 0.0]))
    off_axis, roll = torch.tensor([0.2, -0.25, 0.15]).double(), torch.tensor([0.0, 0.5, -0.4])
    view, projection = cameras.view.clone(), cameras.projection.clone()
    for v in range(3):
        turn = torch.eye(4).double()
        c, s = off_axis[v].cos(), off_axis[v].sin()
        turn[[0, 0, 2, 2], [0, 2, 0, 2]] = torch.stack([c, s, -s, c])
        spin = torch.eye(4).double()
        c, s = roll[v].cos(), roll[v].sin()
        spin[:2, :2] = torch.tensor([[c, -s], [s, c]])
        view[v] = turn @ spin @ view[v]
    cropped = Cameras(view, projection, cameras.model, cameras.resolution)
    offset = cropped.project(torch.zeros(1, 3).double())[0][:, 0]      # (V, 2)
    projection[:, :2, 2] += offset
    cropped = Cameras(view, projection, cameras.model, cameras.resolution)
    path = interpolate_cameras(cropped, 81)
    xy_ndc, _ = path.project(torch.zeros(1, 3).double())
    # the offsets were up to 0.7; without turning towards the pivot it strays by more than 0.1
    assert offset.abs().max() > 0.5 and xy_ndc.abs().max() < 0.06


def test_pivot_moves_the_sphere_on_which_the_camera_stays():
    cameras = ring_cameras(np.radians([-20, 20]))
    pivot = torch.tensor([0.0, 0.0, 1.0]).double()
    path = interpolate_cameras(cameras, 5, pivot_obj=(0.0, 0.0, 1.0))
    distance = (path.centers_obj - pivot).norm(dim=-1)
    assert torch.allclose(distance, distance[0].expand(5))


def test_eight_starts_at_the_reference_and_swings_half_the_yaw_to_each_side():
    cameras = ring_cameras(np.radians([0, 40]))
    path = eight_path(cameras[0], 40, yaw_degrees=90)
    assert torch.allclose(path.view[0], cameras.view[0], atol=1e-9)
    assert torch.allclose(path.centers_obj.norm(dim=-1), torch.full((40,), RADIUS).double())
    azimuth = torch.rad2deg(torch.atan2(path.centers_obj[:, 0], path.centers_obj[:, 2]))
    assert azimuth.max() == pytest.approx(45, abs=1e-6)       # to the camera's right first
    assert azimuth.min() == pytest.approx(-45, abs=1e-6)
    assert int(azimuth.argmax()) == 10
    assert path.centers_obj[5, 1] > 0.1 and path.centers_obj[15, 1] < -0.1
    toward = -torch.nn.functional.normalize(path.centers_obj, dim=-1)
    assert torch.allclose(path.forward_obj, toward, atol=1e-9)


def test_linear_goes_evenly_from_left_to_right():
    cameras = ring_cameras(np.radians([0, 40]))
    path = linear_path(cameras[0], 5, yaw_degrees=60)
    azimuth = torch.rad2deg(torch.atan2(path.centers_obj[:, 0], path.centers_obj[:, 2]))
    assert torch.allclose(azimuth, torch.tensor([-30, -15, 0, 15, 30]).double(), atol=1e-6)
    assert torch.allclose(linear_path(cameras[0], 1).view, cameras.view[:1], atol=1e-9)


def test_bad_paths_are_refused():
    cameras = ring_cameras([0.0, 1.0])
    with pytest.raises(ValueError, match="interpolate, eight, linear"):
        make_path("circle", cameras, 5)
    with pytest.raises(ValueError, match="0 frames"):
        interpolate_cameras(cameras, 0)
    at_camera = tuple(cameras.centers_obj[0].tolist())
    with pytest.raises(ValueError, match="stands at the pivot"):
        interpolate_cameras(cameras, 5, pivot_obj=at_camera)


def test_spline_is_catmull_rom():
    """Against the textbook's basis matrix, and through the knots."""
    knots = np.random.default_rng(0).normal(size=(5, 3))
    t = 0.3
    basis = 0.5 * np.array([-t + 2 * t ** 2 - t ** 3, 2 - 5 * t ** 2 + 3 * t ** 3,
                            t + 4 * t ** 2 - 3 * t ** 3, -t ** 2 + t ** 3])
    assert np.allclose(spline(knots, np.array([1 + t]), lerp), basis @ knots[:4])
    assert np.allclose(spline(knots, np.arange(5.0), lerp), knots)
    unit = knots / np.linalg.norm(knots, axis=-1, keepdims=True)
    curve = spline(unit, np.linspace(0, 4, 50), slerp)
    assert np.allclose(np.linalg.norm(curve, axis=-1), 1)
    assert np.allclose(spline(unit, np.arange(5.0), slerp), unit)


def test_slerp_halves_the_angle():
    a, b = np.array([[1.0, 0, 0]]), np.array([[0, 1.0, 0]])
    half = np.array([[0.5]])
    assert np.allclose(slerp(a, b, half), np.sqrt(0.5) * (a + b))
    assert np.allclose(slerp(a, a, half), a)
    assert abs(slerp(a, -a, half) @ a.T) < 1e-12


def test_tour_follows_a_line_and_undoes_crossings():
    line = np.stack([np.array([0.0, 3, 1, 2, 5, 4]), np.zeros(6), np.zeros(6)], -1)
    order = short_tour(line)
    assert order in ([0, 2, 3, 1, 5, 4], [4, 5, 1, 3, 2, 0])
    # on this row the nearest neighbours zigzag between two rails; the tour must not cost more
    rails = np.array([[x, y, 0.0] for x in range(6) for y in (0, 1.5)])
    tour = rails[short_tour(rails)]
    assert sorted(short_tour(rails)) == list(range(12))
    assert np.linalg.norm(np.diff(tour, axis=0), axis=-1).sum() <= 5 + 1.5 + 5 + 1e-9
