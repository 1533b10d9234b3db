"""Scene folders, written in either format that the readers know, whole or not at all."""
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch

from data_processing.scenes.scene import Scene
from data_processing.scenes.world_origin import moved_model, moved_view
from utils.errors import ConfigError, WriteError
from utils.geometry.cameras import OPENCV_TO_OPENGL, Cameras, intrinsics_from_projection

POINTS_FILE = "surface_points_world.ply"
#: Files that an import writes beside the scene.
REPORT_FILES = ("report.txt", "check.png")
#: Files that the browsers of macOS and Windows leave in every folder that they show.
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")
#: What a folder written by each format may hold; overwriting deletes nothing else.
PROCESSED_FILES = ("*_rgb.png", "*_rgb_meta.npy", "*_mask.png", "model_matrix.npy",
                   "scene_stats.npy", POINTS_FILE, *REPORT_FILES)
IDR_FILES = ("image", "image/*.png", "mask", "mask/*.png", "cameras_sphere.npz", POINTS_FILE,
             *REPORT_FILES)


def write_scene(scene: Scene, folder: Path | str, scene_format: str, *,
                overwrite: bool = False) -> Path:
    """Write images, masks, cameras and, where known, the true surface points.

    The files go into a hidden folder beside the target that is renamed when complete.

    Args:
        scene: what to write; colours are rounded to 8 bits.
        folder: where to; made where absent.
        scene_format: `processed` (the release's) or `idr` (IDR and NeuS).
        overwrite: replace an earlier scene in `folder`.
    Returns:
        The folder.
    Raises:
        ConfigError: an unknown format.
        WriteError: the target exists, may not be written, or the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    check_target(folder, scene_format, overwrite=overwrite)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)                    # of a killed run
        partial.mkdir()
        _writer(scene_format)(scene, partial)
        if scene.surface_points_world is not None:
            _write_points(scene, partial / POINTS_FILE)
        _put_in_place(partial, folder)
    except OSError as error:
        raise WriteError(f"{folder}: could not write the scene ({error.strerror or error}); "
                         "needs a folder with write permission and free space: free some or give "
                         "another --output") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check_target(folder: Path | str, scene_format: str, *, overwrite: bool = False,
                 what: str = "--output") -> None:
    """Raise where `write_scene` would delete something of the user's or cannot know the format.

    Args:
        folder, scene_format, overwrite: as `write_scene` takes them.
        what: the flag that names the folder.
    Raises:
        ConfigError: an unknown format.
        WriteError: the folder holds files and overwrite is off, or holds other things than a scene.
    """
    folder = Path(folder)
    _writer(scene_format)
    try:
        if folder.exists() and not folder.is_dir():
            raise WriteError(f"{folder}: is a file, need a folder; give another {what}")
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        foreign = _foreign_entries(folder)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be listed ({error.strerror}); "
                         f"fix its permissions or give another {what}") from error
    if foreign:
        raise WriteError(f"{folder}: holds {foreign[0]}, which no scene has, and which would "
                         f"be lost; give another {what} or move it away")
    if not overwrite:
        replaced = " or --overwrite 1 to replace it" if what == "--output" else ""
        raise WriteError(f"{folder}: holds a scene already; give another {what}{replaced}")


def check_apart(source: Path, target: Path, what: str = "--output", *,
                source_name: str = "--input") -> None:
    """Raise ConfigError where a folder that is written is, holds or lies in one that is read.

    Links are followed, and folders are compared as the system knows them, so that other spellings
    of a path do not matter. Neither folder need exist.

    Args:
        source: the folder that is read, `--input`.
        target: the folder that is written.
        what, source_name: the flags that name them, for the message.
    """
    for inner, outer in ((source, target), (target, source)):
        real = inner.resolve()
        if any(_is_same(place, outer.resolve()) for place in (real, *real.parents)):
            raise ConfigError(f"{what} {target} and {source_name} {source} are one folder or lie "
                              "in each other, need two apart, as writing could delete the "
                              f"photographs that are read; give another {what}")


def _is_same(first: Path, second: Path) -> bool:
    """Return whether two paths without links are the same file or folder."""
    if first == second:
        return True
    try:
        return first.samefile(second)
    except OSError:                                # one of them does not exist
        return False


def _foreign_entries(folder: Path) -> list[str]:
    """Return the entries, relative to the folder, that neither format writes."""
    known = {path for pattern in (*PROCESSED_FILES, *IDR_FILES) for path in folder.glob(pattern)}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path not in known and not _is_litter(path))


def _is_litter(path: Path) -> bool:
    """Return whether a file browser left a file: nobody misses it."""
    return path.is_file() and (path.name in LITTER or path.name.startswith("._"))


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the complete folder to its name; an earlier scene is deleted only after that."""
    retired = folder.parent / f".{folder.name}.retired-{os.getpid()}"
    if folder.is_dir():
        folder.rename(retired)
    try:
        partial.rename(folder)
    except OSError:
        if retired.is_dir():
            retired.rename(folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _writer(scene_format: str) -> Callable[[Scene, Path], None]:
    """Return the function that writes a format; raise ConfigError for an unknown one."""
    writers = {"processed": _write_processed, "idr": _write_idr}
    if scene_format not in writers:
        raise ConfigError(f"--scene_format is {scene_format!r}, need processed or idr")
    return writers[scene_format]


def _write_processed(scene: Scene, folder: Path) -> None:
    """Write the release's format: one set of files a view, matrices as pickled dicts."""
    cameras = _own_cameras(scene)
    for index, name in enumerate(scene.view_names):
        _write_image(folder / f"{name}_rgb.png", scene.images[index])
        if scene.has_masks:
            _write_image(folder / f"{name}_mask.png", scene.masks[index])
        _write_dict(folder / f"{name}_rgb_meta.npy", {
            "view": cameras.view[index].double().numpy(),
            "projection": cameras.projection[index].double().numpy(),
            "resolution": list(cameras.resolution)})
    _write_dict(folder / "model_matrix.npy", {"model_matrix": cameras.model.double().numpy()})
    _write_dict(folder / "scene_stats.npy", scene_stats(scene))


def _write_idr(scene: Scene, folder: Path) -> None:
    """Write IDR's and NeuS's format: image/, mask/ and one file of matrices."""
    (folder / "image").mkdir()
    (folder / "mask").mkdir()
    for index, name in enumerate(scene.view_names):
        _write_image(folder / "image" / f"{name}.png", scene.images[index])
        if scene.has_masks:
            _write_image(folder / "mask" / f"{name}.png", scene.masks[index])
    cameras = _own_cameras(scene)
    matrices = world_matrices(cameras).numpy()
    arrays = {f"world_mat_{k}": matrix for k, matrix in enumerate(matrices)}
    model = cameras.model.numpy()
    arrays |= {f"scale_mat_{k}": model for k in range(len(matrices))}
    np.savez(folder / "cameras_sphere.npz", **arrays)


def _own_cameras(scene: Scene) -> Cameras:
    """Return the cameras in float64 and in the world space that the scene came from.

    Far away a rotation must be one to the last digit: it turns coordinates of millions.
    """
    cameras, back = scene.cameras.to(torch.float64), -np.array(scene.world_origin)
    if not back.any():
        return cameras
    left, _, right = torch.linalg.svd(cameras.view[:, :3, :3])
    cameras.view[:, :3, :3] = left @ right
    return replace(cameras, view=torch.from_numpy(moved_view(cameras.view.numpy(), back)),
                   model=torch.from_numpy(moved_model(cameras.model.numpy(), back)))


def _write_points(scene: Scene, path: Path) -> None:
    """Write the true surface points, and their normals where known, as a PLY file.

    They are those of the folder's own world space, and in float64 where float32 is too coarse.
    """
    kind, name = ("<f8", "double") if any(scene.world_origin) else ("<f4", "float")
    assert scene.surface_points_world is not None, "the caller looks"
    columns = [scene.surface_points_world.numpy().astype(kind) + np.array(scene.world_origin)]
    axes = ["x", "y", "z"]
    if scene.surface_normals_world is not None:
        columns.append(scene.surface_normals_world.numpy())
        axes += ["nx", "ny", "nz"]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns[0])}",
            *(f"property {name} {axis}" for axis in axes), "end_header", ""]
    path.write_bytes("\n".join(head).encode() + np.concatenate(columns, 1).astype(kind).tobytes())


def world_matrices(cameras: Cameras) -> torch.Tensor:
    """Return the matrices (V, 4, 4) float64 from world to pixels, for OpenCV axes.

    Each is K[R|t] over the row 0 0 0 1; pixels count from the centre of the top left one.
    """
    intrinsics = intrinsics_from_projection(cameras.projection.double(), cameras.resolution)
    out = OPENCV_TO_OPENGL.double() @ cameras.view.double()            # (V, 4, 4) OpenCV axes
    out[:, :3] = intrinsics @ out[:, :3]
    return out


def scene_stats(scene: Scene) -> dict:
    """Return sizes in world units, from which a reader may scale the scene.

    Returns:
        camera_intersection (3,), the point nearest to all viewing axes, and camera_radius, the
        mean distance of the cameras from it; where surface points are known, pcd_center (3,), the
        middle of their box, and pcd_radius, the distance of the farthest from it.
    """
    eyes = scene.cameras.centers_world.double()                        # (V, 3)
    axes = -torch.linalg.inv(scene.cameras.view.double())[:, :3, 2]    # (V, 3) unit
    across = torch.eye(3).double() - axes[:, :, None] * axes[:, None]  # (V, 3, 3) off each axis
    middle = torch.linalg.solve(across.sum(0), (across @ eyes[..., None]).sum(0))[:, 0]
    origin = np.array(scene.world_origin)
    stats = {"camera_intersection": middle.numpy() + origin,
             "camera_radius": float((eyes - middle).norm(dim=-1).mean())}
    points = scene.surface_points_world
    if points is not None and len(points):
        center = (points.amin(0) + points.amax(0)).double() / 2
        stats["pcd_center"] = center.numpy() + origin
        stats["pcd_radius"] = float((points - center).norm(dim=-1).max())
    return stats


def _write_dict(path: Path, content: dict) -> None:
    """Write a dict as numpy pickles it: an object array of no dimensions."""
    np.save(path, np.array(content, dtype=object))


def _write_image(path: Path, image: torch.Tensor) -> None:
    """Write (C, H, W), in [0, 1] or bool, as an 8-bit PNG of 3 channels or 1."""
    levels = (image.float() * 255).round().clamp(0, 255).byte()
    levels = levels[0] if len(levels) == 1 else levels.movedim(0, -1)
    imageio.imwrite(path, levels.numpy())
