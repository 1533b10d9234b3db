"""Where the object is and how large: the ball that becomes the unit sphere of object space.

It comes from the masks by their visual hull, else from the points of a reconstruction, else from
the cameras alone; the first that is there is used and named.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_processing.scenes.normalization import (
    MAX_AXES_CONDITION,
    Sphere,
    model_from_sphere,
    sphere_from_cameras,
)
from utils.errors import ConfigError, SceneError
from utils.geometry.cameras import Cameras, intrinsics_from_projection
from utils.geometry.visual_hull import carve

#: The words of `--normalization`, in the order in which they are tried.
WORDS = ("given", "masks", "points", "cameras")
#: What each word needs, and what to do where that is missing.
OR_AUTO = "or give --normalization auto"
NEEDED = {
    "auto": ("masks that agree, points of a reconstruction, or cameras whose axes meet",
             "add masks (masks/NAME.png)"),
    "given": ("a source that states one (IDR, NeuS or the processed format)",
              "give --normalization auto"),
    "masks": ("masks that agree", f"add them (masks/NAME.png), {OR_AUTO}"),
    "points": ("30 points of a reconstruction that views share",
               f"import COLMAP's model with its points3D file, {OR_AUTO}"),
    "cameras": ("cameras whose axes meet",
                "add masks (masks/NAME.png) and give --normalization masks")}
#: The hull is searched within this many radii of the first guess, then carved again inside what was
#: found: (grid resolution, room) of each round.
SEARCH_RADII, ROUNDS = (1.6, 4.0), ((40, 1.05), (96, 1.0))
#: The ball is this much larger than hull or points, so that the surface stays inside the sphere.
ROOM = 1.05
#: Points count as the object's within this fraction of the nearest camera's distance from the point
#: that all cameras look at.
POINT_REACH = 0.5
#: This many points are enough; the farthest fraction of them is not trusted.
MIN_POINTS, POINT_TAIL = 30, 0.02


@dataclass(frozen=True)
class ObjectSpace:
    """`model` (4, 4) float64, object to world, and in words where it comes from."""

    model: np.ndarray
    reason: str


def choose_object_space(cameras: Cameras, masks: Tensor | None, points_world: np.ndarray | None,
                        *, given: np.ndarray | None = None, word: str = "auto") -> ObjectSpace:
    """Return the object space of the first of `WORDS` that there is.

    Args:
        cameras: V cameras; their model matrix is not used.
        masks: (V, 1, H, W) bool, or None.
        points_world: (N, 3) of a reconstruction, or None.
        given: (4, 4) model matrix that the source states, or None.
        word: one of `WORDS` alone, or auto.
    Raises:
        ConfigError: an unknown word.
        SceneError: what is asked for, or everything, is missing.
    """
    if word not in ("auto", *WORDS):
        raise ConfigError(f"--normalization is {word!r}, need auto or one of {', '.join(WORDS)}")
    makers: dict[str, Callable[[], tuple[Sphere, str] | None]] = {
        "masks": lambda: _from_masks(cameras, masks),
        "points": lambda: _from_points(cameras, points_world),
        "cameras": lambda: _from_cameras(cameras)}
    for name in WORDS if word == "auto" else (word,):
        if name == "given":
            if given is not None:
                return ObjectSpace(given, "the model matrix that the source states")
            continue
        found = makers[name]()
        if found is not None:
            sphere, reason = found
            return ObjectSpace(model_from_sphere(sphere), f"{reason}: centre "
                               f"{np.round(sphere.center, 4).tolist()}, radius {sphere.radius:.4g}")
    needed, cure = NEEDED[word]
    raise SceneError(f"no object space from --normalization {word}: need {needed}; {cure}")


def _from_masks(cameras: Cameras, masks: Tensor | None) -> tuple[Sphere, str] | None:
    """Return the ball of the visual hull, and its description."""
    sphere = None if masks is None else sphere_from_masks(cameras, masks)
    return sphere and (sphere, "visual hull of the masks")


def _from_points(cameras: Cameras, points: np.ndarray | None) -> tuple[Sphere, str] | None:
    """Return the ball of the reconstruction's points, and its description."""
    sphere = None if points is None else sphere_from_points(cameras, points)
    return sphere and (sphere, "points of the reconstruction near where the cameras look")


def _from_cameras(cameras: Cameras) -> tuple[Sphere, str] | None:
    """Return the ball of the cameras alone, and its description."""
    sphere = sphere_from_cameras(cameras.view.double().numpy(), cameras.projection.double().numpy())
    return sphere and (sphere, "cameras alone (point nearest to all axes; radius that fills the "
                       "frames)")


def with_ball(cameras: Cameras, sphere: Sphere) -> Cameras:
    """Return the cameras with a ball as the unit sphere of object space."""
    model = torch.from_numpy(model_from_sphere(sphere, work_radius=1.0))
    return replace(cameras, model=model.to(cameras.view))


def first_ball(cameras: Cameras, masks: Tensor) -> Sphere | None:
    """Return a ball about the point nearest to the rays through the middles of the masks.

    Its radius is the median over the views of the farthest mask pixel's distance from that ray, at
    the depth of the centre. Views with an empty mask are left out.

    Returns:
        None where fewer than two views have a mask, the rays are parallel or meet behind most.
    """
    seen = [v for v in range(len(cameras)) if bool(masks[v].any())]
    if len(seen) < 2:
        return None
    width, height = masks.shape[3], masks.shape[2]
    k = intrinsics_from_projection(cameras.projection.double(), (width, height)).numpy()
    to_world = torch.linalg.inv(cameras.view.double()).numpy()
    origins, dirs, spreads = [], [], []
    for v in seen:
        rows, columns = np.nonzero(masks[v, 0].numpy())
        middle = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2, 1])
        ray = np.linalg.solve(k[v], middle) * [1, -1, -1]
        far = np.hypot(columns - middle[0], rows - middle[1]).max() + 0.5
        spreads.append(far / (k[v, 0, 0] + k[v, 1, 1]) * 2)
        dirs.append(to_world[v, :3, :3] @ ray / np.linalg.norm(ray))
        origins.append(to_world[v, :3, 3])
    center = nearest_point(np.array(origins), np.array(dirs))
    if center is None:
        return None
    depth = ((center - np.array(origins)) * np.array(dirs)).sum(1)
    radius = float(np.median(depth * np.array(spreads)))
    return Sphere(center, radius) if radius > 0 else None


def nearest_point(origins: np.ndarray, dirs: np.ndarray) -> np.ndarray | None:
    """Return the point nearest to lines in the least-squares sense; None if they are parallel.

    Args:
        origins: (V, 3) points on the lines.
        dirs: (V, 3) unit directions.
    """
    across = np.eye(3) - dirs[:, :, None] * dirs[:, None, :]           # (V, 3, 3)
    total = across.sum(0)
    if np.linalg.cond(total) > MAX_AXES_CONDITION:
        return None
    return np.linalg.solve(total, np.einsum("vij,vj->i", across, origins))


def sphere_from_masks(cameras: Cameras, masks: Tensor) -> Sphere | None:
    """Return the ball about the visual hull of the masks, world space, a little enlarged.

    Views from one side alone leave the hull long in depth: it is cut at the reach of the first
    guess.

    Args:
        cameras: V cameras; their model matrix is not used.
        masks: (V, 1, H, W) bool.
    Returns:
        None where the masks agree on no point.
    """
    start = first_ball(cameras, masks)
    if start is None:
        return None
    for reach in SEARCH_RADII:
        sphere = Sphere(start.center, start.radius * reach)
        for resolution, room in ROUNDS:
            sphere = _tightened(cameras, masks, sphere, resolution=resolution, room=room)
            if sphere is None:
                break
        if sphere is not None:
            return Sphere(sphere.center, sphere.radius * ROOM)
    return None


def _tightened(cameras: Cameras, masks: Tensor, sphere: Sphere, *, resolution: int,
               room: float) -> Sphere | None:
    """Return the ball about the hull inside a ball, enlarged by `room`; None for an empty hull."""
    hull = carve(with_ball(cameras, sphere), masks, resolution=resolution)
    points = hull.points()
    points = points[points.norm(dim=-1) <= 1]
    if not len(points):
        return None
    center = (points.amin(0) + points.amax(0)) / 2
    radius = float((points - center).norm(dim=-1).max()) + hull.cell / 2
    return Sphere(sphere.center + center.double().numpy() * sphere.radius,
                  sphere.radius * min(radius * room, 1.0))


def sphere_from_points(cameras: Cameras, points_world: np.ndarray) -> Sphere | None:
    """Return the ball about the points near where the cameras look, world space.

    A reconstruction also has points of the surroundings: those count that lie within POINT_REACH of
    the nearest camera's distance from the point that all look at. Without such points all count.
    """
    points = points_world[np.isfinite(points_world).all(1)]
    if len(points) < MIN_POINTS:
        return None
    to_world = torch.linalg.inv(cameras.view.double()).numpy()
    eyes, axes = to_world[:, :3, 3], -to_world[:, :3, 2]
    middle = nearest_point(eyes, axes)
    if middle is not None:
        reach = POINT_REACH * np.linalg.norm(eyes - middle, axis=1).min()
        near = points[np.linalg.norm(points - middle, axis=1) <= reach]
        points = near if len(near) >= MIN_POINTS else points
    low, high = np.quantile(points, [POINT_TAIL, 1 - POINT_TAIL], axis=0)
    center = (low + high) / 2
    radius = float(np.quantile(np.linalg.norm(points - center, axis=1), 1 - POINT_TAIL))
    return Sphere(center, radius * ROOM) if radius > 0 else None
