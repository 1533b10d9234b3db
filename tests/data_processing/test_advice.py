"""What messages say is to be done is done, and the scene then passes."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from support import scene_files
from support.ball_scene import ball_scene
from support.capture_files import write_colmap, write_middlebury, write_transforms
from support.foreign_captures import two_cameras
from support.tool_captures import write_llff, write_matrices, write_metashape

from data_processing.captures.importing import import_capture
from data_processing.checks.scene_checks import check_scene
from data_processing.scenes.scene import Scene, load_scene
from data_processing.scenes.writing import write_scene
from utils.config.tool_sections import ImportConfig
from utils.errors import SceneError


def tiny() -> Scene:
    return ball_scene(0.6, num_views=4, resolution=(16, 12))


def imported(folder: Path, **flags) -> Scene:
    """The scene that an import would write."""
    return import_capture(ImportConfig(input=str(folder), output=str(folder.parent / "scene"),
                                       **flags)).scene


@dataclass(frozen=True)
class Case:
    """A fault, its message, and the advice followed; each function takes the folder.

    Attributes:
        make: writes the fault.
        message: pattern of the refusal.
        follow: does what it says.
        read: refuses, then reads.
        num_views: that are then there.
        has_truth: whether cameras, in their order, are then those of the scene.
    """

    make: Callable[[Path], object]
    message: str
    follow: Callable[[Path], object]
    read: Callable[[Path], Scene] = imported
    num_views: int = 4
    has_truth: bool = True


def edit_frames(folder: Path, change: Callable[[dict], object]) -> None:
    """Change each frame of transforms.json."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        change(frame)
    path.write_text(json.dumps(content))


def edit_matrices(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Return a change of each frame's matrix (4, 4)."""
    return lambda folder: edit_frames(folder, lambda frame: frame.update(
        transform_matrix=change(np.array(frame["transform_matrix"])).tolist()))


def transforms_with(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Return a writer of transforms.json with changed matrices."""
    def make(folder: Path) -> None:
        write_transforms(tiny(), folder)
        edit_matrices(change)(folder)
    return make


def rotation_times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change that scales the 3x3 part."""
    return lambda matrix: matrix * np.array([[factor] * 3 + [1]] * 3 + [[1] * 4])


def edit_cameras(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Return a change of the arrays of cameras_sphere.npz."""
    def apply(folder: Path) -> None:
        path = folder / "cameras_sphere.npz"
        with np.load(path) as found:
            arrays = dict(found)
        np.savez(path, **change(arrays))
    return apply


def idr_with(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Return a writer of an IDR folder (five views) with changed arrays."""
    def make(folder: Path) -> None:
        scene_files.write_idr(folder)
        edit_cameras(change)(folder)
    return make


def without_k(arrays: dict) -> dict:
    """[R|t] in world_mat, K in camera_mat, as DVR has them."""
    out = {}
    for key, value in arrays.items():
        number = key.rpartition("_")[2]
        if key.startswith("world"):
            k = np.eye(4)
            k[:3, :3] = scene_files.intrinsics(int(number))
            out |= {key: np.linalg.inv(k) @ value, f"camera_mat_{number}": k}
        else:
            out[key] = value
    return out


def with_k(arrays: dict) -> dict:
    """camera_mat @ world_mat."""
    return {key: arrays[key.replace("world", "camera")] @ value if key.startswith("world") else
            value for key, value in arrays.items() if not key.startswith("camera")}


def two_scales(arrays: dict) -> dict:
    """Another object space for view 2."""
    return {**arrays, "scale_mat_2": np.diag([3.0, 3, 3, 1])}


def one_scale(arrays: dict) -> dict:
    """That of view 0 for all."""
    return {key: arrays["scale_mat_0"] if key.startswith("scale") else value
            for key, value in arrays.items()}


def rename(names: dict[str, str]) -> Callable[[Path], None]:
    """Return a change of files' names."""
    def apply(folder: Path) -> None:
        for old, new in names.items():
            (folder / new).parent.mkdir(parents=True, exist_ok=True)
            (folder / old).rename(folder / new)
    return apply


def written(write: Callable[[Scene, Path], object], *changes: Callable[[Path], object]
            ) -> Callable[[Path], None]:
    """Return a writer of the tiny scene, changed."""
    def make(folder: Path) -> None:
        write(tiny(), folder)
        for change in changes:
            change(folder)
    return make


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return a change of a text file."""
    def apply(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return apply


def lose_k(folder: Path) -> None:
    """Matrices as text that are [R|t]."""
    write_matrices(tiny(), folder)
    k = np.linalg.inv(first_k())
    for path in folder.rglob("*.txt"):
        np.savetxt(path, k @ np.loadtxt(path))


def first_k() -> np.ndarray:
    """K of the tiny scene."""
    from support.capture_files import intrinsics
    return intrinsics(tiny())[0]


def gain_k(folder: Path) -> None:
    """The matrices multiplied by K."""
    for path in folder.rglob("*.txt"):
        np.savetxt(path, first_k() @ np.loadtxt(path))


def pack(folder: Path) -> None:
    """The capture as an archive in a folder of its own."""
    inner = write_transforms(tiny(), folder.parent / "inner")
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in inner.rglob("*.*"):
            archive.write(path, path.relative_to(inner))


def unpack(folder: Path) -> None:
    """unzip a.zip -d CAPTURE."""
    with zipfile.ZipFile(folder / "a.zip") as archive:
        archive.extractall(folder)


ROW_VECTORS = lambda matrix: matrix.T                                  # noqa: E731
FLIP_ONE = lambda matrix: matrix @ np.diag([-1.0, 1, 1, 1])            # noqa: E731
FLIP_TWO = lambda matrix: matrix @ np.diag([1.0, -1, -1, 1])           # noqa: E731
CASES = {
    "scaled": Case(transforms_with(rotation_times(0.4)), "scales by 0.4.*divide its 3x3 part",
                   edit_matrices(rotation_times(2.5))),
    "row vectors": Case(transforms_with(ROW_VECTORS), "transpose it if it was",
                        edit_matrices(ROW_VECTORS)),
    "left-handed": Case(transforms_with(FLIP_ONE), "flip the sign of one axis",
                        edit_matrices(FLIP_ONE)),
    "no such mask": Case(
        written(write_transforms, lambda folder: edit_frames(folder, lambda frame: frame.update(
            mask_path="masks/none.png"))), "take mask_path out of every frame",
        lambda folder: edit_frames(folder, lambda frame: frame.pop("mask_path"))),
    "one mask for two": Case(
        lambda folder: two_cameras(tiny(), folder, "{cam}/{name}.png", "masks/{name}.png"),
        "put the masks into sub-folders",
        lambda folder: [rename({f"masks/{i:04d}.png": f"masks/cam1/{i:04d}.png"})(folder) or
                        (folder / "masks" / "cam0").mkdir(exist_ok=True) or
                        shutil.copy(folder / f"masks/cam1/{i:04d}.png",
                                    folder / f"masks/cam0/{i:04d}.png") for i in range(2)],
        has_truth=False),                                       # the cameras take turns
    "without K": Case(idr_with(without_k), "camera_mat_i @ world_mat_i as world_mat_i",
                      edit_cameras(with_k), load_scene, 5),
    "two object spaces": Case(idr_with(two_scales), "write the same scale_mat for every view",
                              edit_cameras(one_scale), load_scene, 5),
    "unpadded": Case(
        lambda folder: rename({"image/001.png": "image/10.png", "image/002.png": "image/2.png"})(
            scene_files.write_idr(folder)), "need numbers padded with zeros",
        rename({"image/10.png": "image/001.png", "image/2.png": "image/002.png"}), load_scene, 5),
    "one matrix too few": Case(
        idr_with(lambda a: {k: v for k, v in a.items() if not k.endswith("_4")}),
        "add it or remove the image",
        lambda folder: [(folder / kind / "004.png").unlink() for kind in ("image", "mask")],
        load_scene, 4),
    "matrices without K": Case(lose_k, "multiply them by the calibration matrix", gain_k),
    "another header": Case(
        lambda folder: write_matrices(tiny(), folder, header="CONTOUR2"),
        "CONTOUR2.*export projection matrices",
        lambda folder: [replace_text(str(path.relative_to(folder)), "CONTOUR2", "CONTOUR")(folder)
                        for path in folder.rglob("*.txt")]),
    "two parameter files": Case(
        written(write_middlebury, lambda folder: (folder / "b_par.txt").write_text("0\n")),
        "move the others elsewhere", lambda folder: (folder / "b_par.txt").unlink()),
    "images elsewhere": Case(
        written(lambda s, f: write_colmap(s, f, ".txt"), rename({"images": "photos"})),
        "need them in images/; copy them there", rename({"photos": "images"})),
    "one pose too few": Case(
        written(write_llff, lambda folder: imageio.imwrite(
            folder / "images" / "unplaced.png", np.zeros((12, 16, 3), np.uint8))),
        "copy those that COLMAP placed", lambda folder: (folder / "images" /
                                                         "unplaced.png").unlink(),
        has_truth=False),                                       # LLFF has no principal point
    "a term that OpenCV lacks": Case(
        lambda folder: write_metashape(tiny(), folder, terms="<k4>0.1</k4>"),
        "fix these terms at 0", replace_text("cameras.xml", "<k4>0.1", "<k4>0")),
    "packed": Case(pack, "unpack it: unzip FILE.zip", unpack),
    "both formats": Case(
        lambda folder: scene_files.write_processed(Path(scene_files.write_idr(folder))),
        "move the files of the other elsewhere",
        lambda folder: [path.unlink() for path in folder.glob("*.*") if path.suffix != ".npz"],
        load_scene, 5),
    "cameras look away": Case(
        idr_with(lambda arrays: {k: np.vstack([v[:3] @ np.diag([1.0, 1, -1, 1]) * [[-1.0]], v[3:]])
                                 if k.startswith("world") else v for k, v in arrays.items()}),
        "behind every camera|left-handed",
        edit_cameras(lambda arrays: {
            k: np.vstack([v[:3] * [[-1.0]] @ np.diag([1.0, 1, -1, 1]), v[3:]])
            if k.startswith("world") else v for k, v in arrays.items()}), load_scene, 5)}


@pytest.mark.parametrize("name", list(CASES))
def test_the_advice_of_a_refusal_is_followed_and_works(tmp_path, name):
    """All views are there, and cameras look at the object."""
    case, folder = CASES[name], tmp_path / "capture"
    case.make(folder)
    with pytest.raises(SceneError) as refused:
        case.read(folder)
    assert re.search(case.message, str(refused.value)), refused.value
    case.follow(folder)
    scene = case.read(folder)
    assert len(scene) == case.num_views
    if case.read is imported and case.has_truth:
        truth = tiny().cameras
        np.testing.assert_allclose(scene.cameras.view, truth.view, atol=1e-4)
        np.testing.assert_allclose(scene.cameras.projection[:, :2], truth.projection[:, :2],
                                   atol=1e-4)


def test_the_command_for_another_encoding_works(tmp_path):
    if shutil.which("iconv") is None:
        pytest.skip("needs iconv, which the message names")
    folder = write_transforms(tiny(), tmp_path / "capture")
    path = folder / "transforms.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(SceneError, match="iconv -f utf-16") as refused:
        imported(folder)
    command = str(refused.value)[str(refused.value).index("iconv"):]
    path.write_bytes(subprocess.run(command, shell=True, check=True, capture_output=True).stdout)
    assert len(imported(folder)) == 4


@pytest.mark.parametrize("radius, factor, code", [
    (0.6, 0.4, "object_outside_sphere"), (0.6, 0.15, "normalization"), (0.5, 3.2, "object_small"),
    (1.0, 3.2, "cameras_in_sphere")])
def test_findings_on_object_space_go_with_normalization_masks(tmp_path, radius, factor, code):
    """The cure of all of them: import_scene.py --normalization masks."""
    ball = ball_scene(radius, num_views=8, resolution=(80, 60))
    model = ball.cameras.model.clone()
    model[:3, :3] *= factor
    wrong = replace(ball, cameras=replace(ball.cameras, model=model))
    found = {finding.code: finding for finding in check_scene(wrong).findings}
    assert "import_scene.py --normalization masks" in found[code].cure
    write_scene(wrong, tmp_path / "capture", "processed")
    again = imported(tmp_path / "capture", normalization="masks")
    assert not check_scene(again).findings
