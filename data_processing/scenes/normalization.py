"""Where the model matrix (object space to world) of a scene comes from.

The sources and their order are described in docs/method.md, section 2.
"""
from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_processing.point_clouds.ply_format import read_ply
from data_processing.scenes.folder import MIN_SCALE
from data_processing.scenes.scene_clouds import read_scene_cloud
from utils.errors import ConfigError, MissingExtraError, SceneError
from utils.files.limits import MAX_COORDINATE, MAX_YAML_BYTES, read_text, short

log = logging.getLogger(__name__)
#: The words of --scene_normalization.
SOURCE_WORDS = ("cache", "yaml", "pcd", "camera")
#: Levels that a yaml file may be nested.
MAX_DEPTH = 32
DEFAULT_ORDER = "cache,yaml,pcd,camera"
#: Beyond this condition number the camera axes count as parallel and meet nowhere.
MAX_AXES_CONDITION = 1e6


@dataclass(frozen=True)
class Sphere:
    """A ball in world space that holds the object: centre (3,) and radius, world units."""

    center: np.ndarray
    radius: float


def model_from_sphere(sphere: Sphere, work_radius: float = 0.99,
                      scene_radius_scale: float = 1.0) -> np.ndarray:
    """Return the model matrix (4, 4) of a ball.

    object = (world - centre) * work_radius / (radius * scene_radius_scale)
    """
    for name, value in (("work_radius", work_radius), ("scene_radius_scale", scene_radius_scale)):
        if not value > 0:
            raise ConfigError(f"--{name} is {value}, need a number over 0; 1 is usual")
    model = np.eye(4)
    model[:3, :3] *= sphere.radius * scene_radius_scale / work_radius
    model[:3, 3] = sphere.center
    return model


def resolve_model_matrix(folder: Path, order: str,
                         sources: Mapping[str, Callable[[], np.ndarray | Sphere | None]], *,
                         work_radius: float = 0.99, scene_radius_scale: float = 1.0) -> np.ndarray:
    """Return the model matrix of the first source that the scene has, else the identity.

    Args:
        folder: the scene, for messages.
        order: words of `SOURCE_WORDS` with commas between, in the order in which they are tried.
        sources: what each word gives: a (4, 4) model matrix as it is, a sphere that is scaled by
            `work_radius` and `scene_radius_scale`, or None.
    Returns:
        (4, 4) float64, object space to world.
    Raises:
        ConfigError: an unknown word.
        SceneError: the source's file is damaged.
    """
    for word in _parse_order(order):
        found = sources[word]() if word in sources else None
        if found is None:
            continue
        log.info("%s: object space from '%s'", folder, word)
        if isinstance(found, Sphere):
            return model_from_sphere(found, work_radius, scene_radius_scale)
        return found
    log.warning("%s: no normalisation found for '%s': world space is used as object space, so "
                   "the object must lie in the unit sphere already", folder, order)
    return np.eye(4)


def _parse_order(order: str) -> list[str]:
    """Return the words of `--scene_normalization`; raise ConfigError for an unknown one."""
    words = [word.strip() for word in order.split(",") if word.strip()]
    for word in words:
        if word not in SOURCE_WORDS:
            nearest = difflib.get_close_matches(word, SOURCE_WORDS, n=1, cutoff=0)[0]
            raise ConfigError(f"--scene_normalization has '{word}', need words of "
                              f"{', '.join(SOURCE_WORDS)}; the nearest is '{nearest}'")
    return words


def checked_sphere(center: Any, radius: Any, where: str) -> Sphere:
    """Return the ball that a file's numbers describe; raise SceneError that names `where`."""
    try:
        middle = np.asarray(center, dtype=np.float64).reshape(-1)
        size = float(np.asarray(radius, dtype=np.float64).reshape(()))
    except (TypeError, ValueError, OverflowError) as problem:
        raise SceneError(f"{where}: centre {short(center)} and radius {short(radius)}, need three "
                         "numbers and one; write the file again") from problem
    if middle.shape != (3,) or not (np.abs(middle) <= MAX_COORDINATE).all() \
            or not MIN_SCALE < size <= MAX_COORDINATE:
        raise SceneError(f"{where}: centre {short(middle.tolist())} and radius {size}, need three "
                         f"finite numbers up to {MAX_COORDINATE:g} and a radius over 0; write the "
                         "file again")
    return Sphere(middle, size)


def sphere_from_yaml(folder: Path) -> Sphere | None:
    """Return the ball of `scene.yaml` or of the only `*.yaml`, or None.

    The file has `center: [x, y, z]` and `radius: r` in world units.
    """
    path = folder / "scene.yaml"
    if not path.is_file():
        candidates = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if not candidates:
            return None
        if len(candidates) > 1:
            raise SceneError(f"{folder}: {len(candidates)} yaml files ("
                             f"{', '.join(p.name for p in candidates)}), need one; name the one "
                             "with center and radius scene.yaml")
        path = candidates[0]
    content = _load_yaml(path)
    if not isinstance(content, dict) or not {"center", "radius"} <= set(content):
        raise SceneError(f"{path}: no center and radius, need 'center: [x, y, z]' and 'radius: r' "
                         "in world units; add them or take yaml out of --scene_normalization")
    return checked_sphere(content["center"], content["radius"], str(path))


def _load_yaml(path: Path) -> Any:
    """Return the content of a yaml file; raise SceneError or MissingExtraError."""
    try:
        import yaml
    except ImportError as problem:
        raise MissingExtraError(f"{path}: reading it needs PyYAML; install it with: pip install "
                                "pyyaml, or take yaml out of --scene_normalization") from problem
    text = read_text(path, MAX_YAML_BYTES, error=SceneError)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            # Aliases of aliases may turn a few lines into gigabytes, and the time to read nested
            # brackets grows with the square of their number.
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise yaml.YAMLError("it repeats parts by aliases (*name), or nests them deeply")
        return yaml.safe_load(text)
    except Exception as problem:   # PyYAML's own defects raise errors of any kind
        first_line = str(problem).split("\n", 1)[0]
        raise SceneError(f"{path}: not readable as yaml ({first_line}), need 'center: [x, y, z]' "
                         "and 'radius: r'; fix or remove the file") from problem


def sphere_from_point_cloud(folder: Path) -> Sphere | None:
    """Return the ball round the points of the scene's folder (`scene_clouds`), or None.

    Its centre is the middle of the points' box; it holds every point.
    """
    cloud = read_scene_cloud(folder)
    if cloud is None:
        return None
    points = cloud.points
    center = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - center, axis=1).max()
    return checked_sphere(center, radius, f"the point cloud in {folder}")


def load_ply_points(path: Path) -> np.ndarray:
    """Return the vertices (N, 3) float64 of a PLY file, world space; raise SceneError."""
    return read_ply(path).points


def sphere_from_cameras(view: np.ndarray, projection: np.ndarray) -> Sphere | None:
    """Return a ball that the cameras look at, from the cameras alone.

    Its centre is the point with the least sum of squared distances to the viewing axes. Its radius
    is the median over the views of the radius at which it touches the farthest of the frame's four
    sides, so that an object that fills the frames fits in.

    Args:
        view: (V, 4, 4) world to camera.
        projection: (V, 4, 4) camera to clip.
    Returns:
        The ball in world space; None where the axes are parallel or meet outside the frames.
    """
    rotation, translation = view[:, :3, :3], view[:, :3, 3]
    centers = -np.einsum("vji,vj->vi", rotation, translation)              # (V, 3)
    axes = -rotation[:, 2]                                                 # (V, 3) camera -z
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]               # (V, 3, 3)
    total = across.sum(0)
    if np.linalg.cond(total) > MAX_AXES_CONDITION:
        return None
    center = np.linalg.solve(total, np.einsum("vij,vj->i", across, centers))
    clip = projection @ view
    sides = np.stack([clip[:, 3] + clip[:, 0], clip[:, 3] - clip[:, 0],
                      clip[:, 3] + clip[:, 1], clip[:, 3] - clip[:, 1]], 1)  # (V, 4, 4) planes
    distance = (sides[..., :3] @ center + sides[..., 3]) / np.linalg.norm(sides[..., :3], axis=-1)
    radius = float(np.median(distance.max(1)))
    return Sphere(center, radius) if radius > 0 else None
