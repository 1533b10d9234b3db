"""A synthetic scene written as other tools write captures, with json, struct and numpy alone."""
from __future__ import annotations

import json
import struct
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from scipy.spatial.transform import Rotation

from data_processing.scenes.scene import Scene
from utils.geometry.cameras import intrinsics_from_projection

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def intrinsics(scene: Scene) -> np.ndarray:
    """(V, 3, 3) K, the centre of the top left pixel at (0, 0)."""
    return intrinsics_from_projection(scene.cameras.projection.double(),
                                      scene.cameras.resolution).numpy()


def pictures(scene: Scene) -> list[np.ndarray]:
    """(H, W, 3) uint8 each."""
    return [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            for image in scene.images]


def write_pictures(scene: Scene, folder: Path, masks: str | None = "masks/{}.png") -> None:
    """images/NAME.png, and masks by the pattern."""
    (folder / "images").mkdir(parents=True)
    for name, picture, mask in zip(scene.view_names, pictures(scene), scene.masks):
        imageio.imwrite(folder / "images" / f"{name}.png", picture)
        if masks is not None:
            path = folder / masks.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            imageio.imwrite(path, mask[0].numpy().astype(np.uint8) * 255)


def transforms(scene: Scene) -> dict:
    """The content of transforms.json, intrinsics with each frame."""
    width, height = scene.cameras.resolution
    to_world = np.linalg.inv(scene.cameras.view.double().numpy())
    return {"w": width, "h": height, "frames": [
        {"file_path": f"images/{name}.png", "transform_matrix": matrix.tolist(),
         "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2] + 0.5, "cy": k[1, 2] + 0.5}
        for name, matrix, k in zip(scene.view_names, to_world, intrinsics(scene))]}


def write_transforms(scene: Scene, folder: Path, **more) -> Path:
    """A nerfstudio capture; `more` goes over the content."""
    write_pictures(scene, folder)
    (folder / "transforms.json").write_text(json.dumps({**transforms(scene), **more}))
    return folder


def colmap_poses(scene: Scene) -> list[tuple]:
    """Quaternion (w, x, y, z) and shift of each view, OpenCV axes."""
    out = []
    for view in FLIP @ scene.cameras.view.double().numpy():
        x, y, z, w = Rotation.from_matrix(view[:3, :3]).as_quat()
        out.append((w, x, y, z, *view[:3, 3]))
    return out


def write_colmap(scene: Scene, folder: Path, end: str, points: np.ndarray | None = None) -> Path:
    """A COLMAP project with one PINHOLE camera a view, binary (.bin) or text (.txt)."""
    write_pictures(scene, folder)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    width, height = scene.cameras.resolution
    lenses = [(k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5) for k in intrinsics(scene)]
    points = np.zeros((0, 3)) if points is None else points
    writer = _write_binary if end == ".bin" else _write_text
    writer(model, lenses, (width, height), scene=scene, points=points)
    return folder


def _write_binary(model: Path, lenses: list, size: tuple[int, int], *, scene: Scene,
                  points: np.ndarray) -> None:
    cameras = [struct.pack("<iiQQ4d", i + 1, 1, *size, *lens) for i, lens in enumerate(lenses)]
    images = [struct.pack("<i7di", i + 1, *pose, i + 1) + f"{name}.png".encode() + b"\0"
              + struct.pack("<Q", 1) + struct.pack("<ddq", 1.0, 2.0, -1)
              for i, (pose, name) in enumerate(zip(colmap_poses(scene), scene.view_names))]
    clouds = [struct.pack("<Q3d3Bd", i, *point, 1, 2, 3, 0.5) + struct.pack("<Q", 3)
              + struct.pack("<ii", 1, 0) * 3 for i, point in enumerate(points)]
    for name, records in (("cameras", cameras), ("images", images), ("points3D", clouds)):
        (model / f"{name}.bin").write_bytes(struct.pack("<Q", len(records)) + b"".join(records))


def _write_text(model: Path, lenses: list, size: tuple[int, int], *, scene: Scene,
                points: np.ndarray) -> None:
    def line(*words) -> str:
        return " ".join(repr(float(w)) if isinstance(w, float) else str(w) for w in words) + "\n"
    (model / "cameras.txt").write_text("# cameras\n" + "".join(
        line(i + 1, "PINHOLE", *size, *map(float, lens)) for i, lens in enumerate(lenses)))
    (model / "images.txt").write_text("# images\n" + "".join(
        line(i + 1, *map(float, pose), i + 1, f"{name}.png") + ("1 2 -1\n" if i % 2 else "\n")
        for i, (pose, name) in enumerate(zip(colmap_poses(scene), scene.view_names))))
    (model / "points3D.txt").write_text("# points\n" + "".join(
        line(i, *map(float, point), 1, 2, 3, 0.5, *[1, 0] * 3) for i, point in enumerate(points)))


def write_middlebury(scene: Scene, folder: Path) -> Path:
    """Photographs beside ball_par.txt, masks in mask/."""
    folder.mkdir(parents=True)
    (folder / "mask").mkdir()
    lines = [str(len(scene))]
    poses = FLIP @ scene.cameras.view.double().numpy()
    for name, picture, mask, k, pose in zip(scene.view_names, pictures(scene), scene.masks,
                                            intrinsics(scene), poses):
        imageio.imwrite(folder / f"{name}.png", picture)
        imageio.imwrite(folder / "mask" / f"{name}.png", mask[0].numpy().astype(np.uint8) * 255)
        numbers = [*k.ravel(), *pose[:3, :3].ravel(), *pose[:3, 3]]
        lines.append(f"{name}.png " + " ".join(repr(float(n)) for n in numbers))
    (folder / "ball_par.txt").write_text("\n".join(lines) + "\n")
    return folder
