"""A synthetic scene as Polycam, LLFF, Metashape and MVS tools write it: a function a format.

Each takes a scene and a folder that does not exist, and returns the folder to import.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data_processing.scenes.scene import Scene
from support.capture_files import FLIP, intrinsics, write_pictures
from utils.geometry.cameras import projection_from_intrinsics


def centred(scene: Scene) -> Scene:
    """The scene with the principal point in the middle, as LLFF's file has it."""
    width, height = scene.cameras.resolution
    k = torch.from_numpy(intrinsics(scene))
    k[:, 0, 2], k[:, 1, 2] = (width - 1) / 2, (height - 1) / 2
    cameras = replace(scene.cameras, projection=projection_from_intrinsics(
        k, scene.cameras.resolution).float())
    return replace(scene, cameras=cameras)


def write_polycam(scene: Scene, folder: Path, is_corrected: bool = False) -> Path:
    """keyframes/images with keyframes/cameras, or both as the app corrects them; masks/."""
    base, first = folder / "keyframes", "corrected_" if is_corrected else ""
    write_pictures(scene, folder)
    base.mkdir()
    (folder / "images").rename(base / f"{first}images")
    (base / f"{first}cameras").mkdir()
    width, height = scene.cameras.resolution
    to_world = np.linalg.inv(scene.cameras.view.double().numpy())
    for name, matrix, k in zip(scene.view_names, to_world, intrinsics(scene)):
        content = {f"t_{row}{column}": matrix[row, column] for row in range(3)
                   for column in range(4)}
        content |= {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2] + 0.5, "cy": k[1, 2] + 0.5,
                    "width": width, "height": height, "blur_score": 1.5, "timestamp": 7}
        (base / f"{first}cameras" / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_llff(scene: Scene, folder: Path, numbers: int = 17) -> Path:
    """images/ with poses_bounds.npy; the file knows one focal length and no principal point."""
    write_pictures(scene, folder)
    width, height = scene.cameras.resolution
    to_world = np.linalg.inv(scene.cameras.view.double().numpy())
    rows = []
    for matrix, k in zip(to_world, intrinsics(scene)):
        right, up, backwards, position = matrix[:3].T
        pose = np.stack([-up, right, backwards, position, [height, width, k[0, 0]]], 1)
        rows.append([*pose.ravel(), 1.0, 9.0][:numbers])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def write_matrices(scene: Scene, folder: Path, place: str = "images/{}.txt",
                   header: str | None = None, sign: float = 1.0) -> Path:
    """images/NAME.png with K[R|t] as text at `place`, below a line where a header is given."""
    write_pictures(scene, folder)
    poses = FLIP @ scene.cameras.view.double().numpy()
    for name, pose, k in zip(scene.view_names, poses, intrinsics(scene)):
        path = folder / place.format(name)
        path.parent.mkdir(exist_ok=True)
        rows = [" ".join(map(repr, row)) for row in (sign * k @ pose[:3]).tolist()]
        path.write_text("\n".join([*([] if header is None else [header]), *rows]) + "\n")
    return folder


def write_mvsnet(scene: Scene, folder: Path) -> Path:
    """images/NAME.png with cams/NAME_cam.txt: extrinsic, intrinsic, depths."""
    write_pictures(scene, folder)
    (folder / "cams").mkdir()
    poses = FLIP @ scene.cameras.view.double().numpy()
    for name, pose, k in zip(scene.view_names, poses, intrinsics(scene)):
        def text(matrix: np.ndarray) -> str:
            return "".join(" ".join(map(repr, row)) + " \n" for row in matrix.tolist())
        (folder / "cams" / f"{name}_cam.txt").write_text(
            f"extrinsic\n{text(pose)}\nintrinsic\n{text(k)}\n425.0 2.5\n")
    return folder


def write_metashape(scene: Scene, folder: Path, kind: str = "frame", terms: str = "",
                    transform: tuple[float, np.ndarray, Sequence[float]] | None = None) -> Path:
    """images/ with cameras.xml; a sensor for each camera.

    Args:
        scene, folder: as above.
        kind: of the sensors.
        terms: elements of the calibrations besides focal length and principal point.
        transform: scale, rotation and translation from the chunk to the scene's world.
    """
    write_pictures(scene, folder)
    width, height = scene.cameras.resolution
    scale, rotation, shift = transform or (1.0, np.eye(3), np.zeros(3))
    sensors, cameras = [], []
    poses = np.linalg.inv(FLIP @ scene.cameras.view.double().numpy())
    size = f'<resolution width="{width}" height="{height}"/>'
    for i, (name, pose, k) in enumerate(zip(scene.view_names, poses, intrinsics(scene).tolist())):
        pose[:3, 3] = rotation.T @ (pose[:3, 3] - shift) / scale
        pose[:3, :3] = rotation.T @ pose[:3, :3]
        values = {"f": k[1][1], "cx": k[0][2] + 0.5 - width / 2, "b1": k[0][0] - k[1][1],
                  "cy": k[1][2] + 0.5 - height / 2, "b2": k[0][1]}
        calibration = "".join(f"<{key}>{value!r}</{key}>" for key, value in values.items())
        sensors.append(f'<sensor id="{i}" type="{kind}">{size}<calibration type="{kind}" '
                       f'class="adjusted">{size}{calibration}{terms}</calibration></sensor>')
        numbers = " ".join(map(repr, pose.ravel().tolist()))
        cameras.append(f'<camera id="{i}" sensor_id="{i}" component_id="0" label="{name}">'
                       f"<transform>{numbers}</transform></camera>")
    world = "" if transform is None else (
        f'<components><component id="0"><transform>'
        f'<rotation>{" ".join(map(repr, rotation.ravel().tolist()))}</rotation>'
        f'<translation>{" ".join(map(repr, map(float, shift)))}</translation>'
        f"<scale>{scale!r}</scale></transform></component></components>")
    (folder / "cameras.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<document version="2.0.0"><chunk label="Chunk 1">'
        f"<sensors>{''.join(sensors)}</sensors>{world}<cameras>{''.join(cameras)}</cameras>"
        "</chunk></document>\n")
    return folder


def write_reality_capture(scene: Scene, folder: Path) -> Path:
    """images/ with RealityCapture's table of cameras."""
    write_pictures(scene, folder)
    (folder / "cameras.csv").write_text(
        "#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2\n" + "".join(
            f"{name}.png,0,0,0,0,0,0,35,0,0,0,0,0,0,0,0\n" for name in scene.view_names))
    return folder


def write_record3d(scene: Scene, folder: Path) -> Path:
    """EXR_RGBD/ as it is unpacked from Record3D's archive."""
    (folder / "EXR_RGBD" / "rgb").mkdir(parents=True)
    (folder / "EXR_RGBD" / "metadata.json").write_text(json.dumps({"w": 16, "h": 12, "poses": []}))
    return folder
