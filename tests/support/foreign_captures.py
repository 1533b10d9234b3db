"""Captures as other programs write them, and what people did to them: a function a case.

Each takes a synthetic scene and a folder that does not exist, and returns the folder to import.
"""
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from data_processing.scenes.scene import Scene
from data_processing.scenes.writing import write_scene
from support.capture_files import pictures, transforms, write_colmap, write_transforms


def views_of(scene: Scene, views: list[int]) -> Scene:
    """The scene with some of its views alone."""
    return replace(scene, images=scene.images[views], masks=scene.masks[views],
                   cameras=scene.cameras[views],
                   view_names=tuple(scene.view_names[i] for i in views))


def colmap_models(scene: Scene, folder: Path, places: dict[str, tuple[list[int], str]]) -> Path:
    """A COLMAP project with a model at each place: its views, and its form (.bin or .txt)."""
    for number, (place, (views, end)) in enumerate(places.items()):
        part = write_colmap(views_of(scene, views), folder.parent / f"part_{number}", end)
        (folder / place).mkdir(parents=True, exist_ok=True)
        for path in (part / "sparse" / "0").iterdir():
            path.rename(folder / place / path.name)
        for name in ("images", "masks"):
            shutil.copytree(part / name, folder / name, dirs_exist_ok=True)
        shutil.rmtree(part)
    return folder


def colmap_text(scene: Scene, folder: Path, lines: str = "empty", line_end: str = "\n",
                head: str = "") -> Path:
    """A COLMAP text model whose lines of points are "none", "empty" or as COLMAP writes them."""
    write_colmap(scene, folder, ".txt")
    path = folder / "sparse" / "0" / "images.txt"
    _, *rows = path.read_text().splitlines()
    if lines != "points":
        rows = [row for pose in rows[::2] for row in ([pose] if lines == "none" else [pose, ""])]
    path.write_bytes((line_end.join([*head.splitlines(), *rows]) + line_end).encode())
    return folder


def two_cameras(scene: Scene, folder: Path, photos: str, masks: str) -> Path:
    """Two cameras whose photographs have the same names, in sub-folders cam0 and cam1.

    `photos` and `masks` are the patterns of their files, of {cam} and {name}; transforms.json.
    """
    content = transforms(scene)
    for i, (frame, picture, mask) in enumerate(zip(content["frames"], pictures(scene),
                                                   scene.masks)):
        words = {"cam": f"cam{i % 2}", "name": f"{i // 2:04d}"}
        frame["file_path"] = photos.format(**words)
        for name, pixels in ((frame["file_path"], picture),
                             (masks.format(**words), mask[0].numpy().astype(np.uint8) * 255)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            imageio.imwrite(folder / name, pixels)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


#: Eastings, northings and heights of a map projection; coordinates from the centre of the earth.
UTM, ECEF = (412345.6, 5412345.6, 312.4), (4177000.3, 855000.7, 4728000.2)


def far_transforms(scene: Scene, folder: Path, shift: tuple[float, float, float]) -> Path:
    """A nerfstudio capture whose world begins far away."""
    content = transforms(scene)
    for frame in content["frames"]:
        for row, offset in zip(frame["transform_matrix"], shift):
            row[3] += offset
    return write_transforms(scene, folder, **content)


def far_scene(scene: Scene, folder: Path, shift: tuple[float, float, float], kind: str) -> Path:
    """A scene folder, IDR or processed, whose world begins far away, in float64."""
    return write_scene(replace(scene, world_origin=shift), folder, kind)
