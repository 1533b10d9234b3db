"""Camera paths for videos: through given cameras, and swings around a reference view.

Paths are made in world space, where views are rigid motions; the pivot is given in object space.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from utils.geometry.cameras import Cameras

#: Largest tilt of the figure eight in degrees; more would look at the object from below its stand.
MOST_TILT = 20.0
#: Tilt of the figure eight as a share of its yaw.
TILT_SHARE = 0.25
#: Points of the curve between two cameras by which its length is measured.
SAMPLES_PER_SEGMENT = 128
#: Rounds of 2-opt at most; tours of 50 cameras settle in fewer than 10.
MOST_ROUNDS = 50

Mix = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def make_path(kind: str, cameras: Cameras, num_frames: int, *, reference: int = 0,
              yaw_degrees: float = 180.0,
              pivot_obj: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    """The path that `--video_path_type` names.

    Args:
        kind: `interpolate`, `eight` or `linear`.
        cameras: V cameras.
        num_frames: length of the path.
        reference: index of the view around which `eight` and `linear` swing.
        yaw_degrees: whole angle of that swing, half of it to each side.
        pivot_obj: point around which the camera moves, object space.
    Returns:
        num_frames Cameras with the resolution and model matrix of the given ones.
    """
    if kind == "interpolate":
        return interpolate_cameras(cameras, num_frames, pivot_obj=pivot_obj)
    paths = {"eight": eight_path, "linear": linear_path}
    if kind not in paths:
        raise ValueError(f"path is {kind!r}, need one of interpolate, {', '.join(paths)}")
    return paths[kind](cameras[reference], num_frames, yaw_degrees=yaw_degrees,
                       pivot_obj=pivot_obj)


def eight_path(reference: Cameras, num_frames: int, *, yaw_degrees: float = 180.0,
               pivot_obj: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    """A closed figure eight around one camera: yaw a sin(s), tilt b sin(2s), s in [0, 2 pi).

    Starts at the reference. Arguments as in `make_path`; `reference` is one camera.
    """
    _check(reference, num_frames)
    s = torch.arange(num_frames) * (2 * math.pi / num_frames)
    yaw = yaw_degrees / 2
    tilt = max(-MOST_TILT, min(MOST_TILT, TILT_SHARE * yaw))
    return _swing(reference, yaw * torch.sin(s), tilt * torch.sin(2 * s), pivot_obj)


def linear_path(reference: Cameras, num_frames: int, *, yaw_degrees: float = 180.0,
                pivot_obj: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cameras:
    """From the left of one camera to its right at even speed; arguments as in `eight_path`."""
    _check(reference, num_frames)
    yaw = yaw_degrees / 2 * torch.linspace(-1, 1, num_frames)
    if num_frames == 1:
        yaw = torch.zeros(1)
    return _swing(reference, yaw, torch.zeros(num_frames), pivot_obj)


def interpolate_cameras(cameras: Cameras, num_frames: int, *,
                        pivot_obj: tuple[float, float, float] = (0.0, 0.0, 0.0),
                        is_in_order: bool = False) -> Cameras:
    """A smooth path through all given cameras, from an outermost one to the last of a short tour.

    Directions from the pivot and orientations follow a spherical Catmull-Rom spline, distances and
    projection matrices a plain one; orientations are then turned so that the pivot, too, moves on
    a spline in camera space. So the object keeps its place and size between cameras. The camera
    moves at even speed.

    Args:
        cameras: V >= 1 cameras; one alone stands still.
        num_frames: first and last frame are given cameras.
        pivot_obj: as in `make_path`.
        is_in_order: they are passed in the order in which they are given.
    """
    _check(cameras, num_frames)
    pivot = _pivot_world(cameras, pivot_obj)
    offsets = cameras.centers_world.double().cpu().numpy() - pivot
    if np.linalg.norm(offsets, axis=-1).min() < 1e-9:
        raise ValueError(f"a camera stands at the pivot {pivot_obj}; move the pivot")
    order = list(range(len(cameras))) if is_in_order else \
        short_tour(offsets / np.linalg.norm(offsets, axis=-1, keepdims=True))
    distances = np.linalg.norm(offsets[order], axis=-1, keepdims=True)
    directions = offsets[order] / distances
    to_world = Rotation.from_matrix(
        torch.linalg.inv(cameras.view.double().cpu()).numpy()[order, :3, :3])

    def center(u: np.ndarray) -> np.ndarray:
        return spline(directions, u, slerp) * np.exp(spline(np.log(distances), u, lerp)) + pivot

    u = _even_speed(center, len(order), num_frames)
    turned = Rotation.from_quat(spline(_neighbouring(to_world.as_quat()), u, slerp))
    pivot_cam = spline(to_world.inv().apply(-directions), u, slerp)
    centers = center(u)
    found_cam = turned.inv().apply(pivot - centers)
    turned = turned * _shortest_turn(pivot_cam, found_cam)
    projection = cameras.projection.double().cpu().numpy()[order].reshape(len(order), 16)
    return _cameras(cameras, centers, turned.as_matrix(),
                    spline(projection, u, lerp).reshape(-1, 4, 4))


def _neighbouring(quaternions: np.ndarray) -> np.ndarray:
    """(V, 4) with signs such that each is the nearer one to the one before: q and -q are one
    rotation."""
    quaternions = quaternions.copy()
    for i in range(1, len(quaternions)):
        if quaternions[i] @ quaternions[i - 1] < 0:
            quaternions[i] = -quaternions[i]
    return quaternions


def _shortest_turn(start: np.ndarray, end: np.ndarray) -> Rotation:
    """Rotations that take directions `start` (N, 3) to `end` (N, 3), of any length."""
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (start * end).sum(-1, keepdims=True))
    return Rotation.from_rotvec(axis / np.where(sine > 0, sine, 1) * angle)


def short_tour(points: np.ndarray) -> list[int]:
    """An open tour of all points: nearest neighbour from an outermost point, then 2-opt.

    Args:
        points: (V, 3).
    Returns:
        V indices. The first is the outermost point along the points' main direction.
    """
    if len(points) < 3:
        return list(range(len(points)))
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)       # (V, V)
    centred = points - points.mean(0)
    main = np.linalg.svd(centred, full_matrices=False)[2][0]
    order = [int(np.argmax(np.abs(centred @ main)))]
    while len(order) < len(points):
        left = [i for i in range(len(points)) if i not in order]
        order.append(min(left, key=lambda i: gaps[order[-1], i]))
    for _ in range(MOST_ROUNDS):
        better = _two_opt_round(order, gaps)
        if better == order:
            break
        order = better
    return order


def _two_opt_round(order: list[int], gaps: np.ndarray) -> list[int]:
    """Reverse each stretch after the start wherever that makes the open tour shorter."""
    order, num = list(order), len(order)
    for i in range(1, num - 1):
        for j in range(i + 1, num):
            old = gaps[order[i - 1], order[i]]
            new = gaps[order[i - 1], order[j]]
            if j + 1 < num:
                old += gaps[order[j], order[j + 1]]
                new += gaps[order[i], order[j + 1]]
            if new < old - 1e-9:
                order[i:j + 1] = order[i:j + 1][::-1]
    return order


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """a at t = 0, b at t = 1, straight on before and after; a, b: (N, C), t: (N, 1)."""
    return a + (b - a) * t


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """`lerp` along the great circle, for unit vectors or unit quaternions.

    Opposite vectors have no one great circle: one that is the same for the same vector is taken.
    """
    cosine = (a * b).sum(-1, keepdims=True).clip(-1, 1)
    across = b - cosine * a
    sine = np.linalg.norm(across, axis=-1, keepdims=True)
    # the axis with the least share of a is never parallel to it
    other = np.eye(a.shape[-1])[np.abs(a).argmin(-1)]
    other = other - (other * a).sum(-1, keepdims=True) * a
    across = np.where(cosine < -1 + 1e-9, other, across)
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    across = across / np.where(length > 0, length, 1)
    angle = np.arctan2(sine, cosine) * t      # arccos loses half the digits of small angles
    return a * np.cos(angle) + across * np.sin(angle)


def spline(knots: np.ndarray, u: np.ndarray, mix: Mix) -> np.ndarray:
    """Catmull-Rom spline through knots, by the pyramid of Barry and Goldman 1988.

    With `slerp` as mix it stays on the sphere. The outermost knots count twice.

    Args:
        knots: (V, C).
        u: (N,) in [0, V - 1]; the curve passes knot i at u = i.
        mix: `lerp` or `slerp`.
    Returns:
        (N, C).
    """
    last = len(knots) - 1
    if last == 0:
        return np.repeat(knots, len(u), axis=0)
    start = np.clip(np.floor(u).astype(int), 0, last - 1)
    t = (u - start)[:, None]
    p0, p1, p2, p3 = (knots[np.clip(start + i, 0, last)] for i in (-1, 0, 1, 2))
    first, middle, third = mix(p0, p1, t + 1), mix(p1, p2, t), mix(p2, p3, t - 1)
    return mix(mix(first, middle, (t + 1) / 2), mix(middle, third, t / 2), t)


def _even_speed(center: Callable[[np.ndarray], np.ndarray], num_knots: int,
                num_frames: int) -> np.ndarray:
    """(num_frames,) parameters at equal distances along a curve, both of its ends among them."""
    dense = np.linspace(0, num_knots - 1, SAMPLES_PER_SEGMENT * (num_knots - 1) + 1)
    steps = np.linalg.norm(np.diff(center(dense), axis=0), axis=-1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    if length[-1] == 0:      # all cameras at one place: turn evenly instead
        length = dense
    return np.interp(np.linspace(0, length[-1], num_frames), length, dense)


def _swing(reference: Cameras, yaw: Tensor, tilt: Tensor,
           pivot_obj: tuple[float, float, float]) -> Cameras:
    """One camera turned about the pivot by angles in degrees (N,): yaw about its own up axis, to
    the right when positive, then tilt about its own right axis, upwards when positive."""
    pivot = _pivot_world(reference, pivot_obj)
    to_world = torch.linalg.inv(reference.view[0].double().cpu()).numpy()
    axes = to_world[:3, :3]                                              # columns right, up, back
    turn = (Rotation.from_rotvec(np.radians(yaw.double().numpy())[:, None] * axes[:, 1])
            * Rotation.from_rotvec(-np.radians(tilt.double().numpy())[:, None] * axes[:, 0]))
    centers = turn.apply(to_world[:3, 3] - pivot) + pivot
    projection = reference.projection.double().cpu().numpy().repeat(len(yaw), axis=0)
    return _cameras(reference, centers, turn.as_matrix() @ axes, projection)


def _pivot_world(cameras: Cameras, pivot_obj: tuple[float, float, float]) -> np.ndarray:
    model = cameras.model.double().cpu().numpy()
    return model[:3, :3] @ np.asarray(pivot_obj, dtype=float) + model[:3, 3]


def _cameras(like: Cameras, centers_world: np.ndarray, to_world: np.ndarray,
             projection: np.ndarray) -> Cameras:
    """Cameras of centres (N, 3), camera-to-world rotations (N, 3, 3) and projections (N, 4, 4)."""
    view = np.tile(np.eye(4), (len(centers_world), 1, 1))
    view[:, :3, :3] = to_world.transpose(0, 2, 1)
    view[:, :3, 3] = -(view[:, :3, :3] @ centers_world[:, :, None])[..., 0]
    return Cameras(torch.from_numpy(view).to(like.view),
                   torch.from_numpy(projection).to(like.projection), like.model, like.resolution)


def _check(cameras: Cameras, num_frames: int) -> None:
    if not len(cameras) or num_frames < 1:
        raise ValueError(f"a path needs a camera and a frame, got {len(cameras)} cameras and "
                         f"{num_frames} frames")
