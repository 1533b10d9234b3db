"""Cases of the import as a whole, of transforms.json and of lenses."""
from __future__ import annotations

import json
import math
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import imageio.v3 as imageio
import numpy as np
from PIL import Image

from data_processing.captures import importing, structure_from_motion
from data_processing.captures.native import ProcessDied
from data_processing.captures.recognising import recognise
from support.advice.table import Case, Step, again, capture, imported, steps, tiny
from support.capture_files import pictures, write_colmap, write_pictures, write_transforms
from support.foreign_captures import two_cameras
from support.lens_captures import FOLDED, Fisheye, write_fisheye
from support.tool_captures import write_metashape, write_reality_capture, write_record3d
from utils.config.tool_sections import ImportConfig

TRANSFORMS = "transforms.json"
#: Its curve turns back within the frame, by k3 alone; the same without k3.
BENT = Fisheye(FOLDED.focal, FOLDED.center, (-0.02, 0.0, -300.0, 0.0))
SOUND = Fisheye(FOLDED.focal, FOLDED.center, (-0.02, 0.0, 0.0, 0.0))


def write(folder: Path) -> Path:
    """The tiny scene as transforms.json."""
    return write_transforms(tiny(), folder)


def change(edit: Callable[[dict], object]) -> Step:
    """Edit the content of transforms.json."""
    def do(folder: Path) -> None:
        path = folder / TRANSFORMS
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
    return do


def first(**values: object) -> Step:
    """The tiny scene with other values in its first frame; None takes a key out."""
    def edit(content: dict) -> None:
        frame = content["frames"][0]
        frame.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del frame[key]
    return steps(write, change(edit))


def each(edit: Callable[[dict], object]) -> Step:
    """Edit each frame."""
    return change(lambda content: [edit(frame) for frame in content["frames"]])


def matrices(edit: Callable[[np.ndarray], np.ndarray]) -> Step:
    """Change each frame's matrix (4, 4)."""
    return each(lambda frame: frame.update(
        transform_matrix=edit(np.array(frame["transform_matrix"])).tolist()))


def text(content: str) -> Step:
    """The tiny scene with another file of frames."""
    return steps(write, lambda folder: (folder / TRANSFORMS).write_text(content))


def scale_rotation(factor: float) -> Step:
    """Scale the 3x3 part of each matrix."""
    return matrices(lambda matrix: matrix * np.array([[factor] * 3 + [1]] * 3 + [[1] * 4]))


def move_photograph_out(folder: Path) -> None:
    """The first photograph beside the capture, and named there."""
    first(file_path="../outside.png")(folder)
    (folder / "images" / "000.png").rename(folder.parent / "outside.png")


def copy_photograph_in(folder: Path) -> None:
    """Copy it into the capture, and name it there."""
    shutil.copy(folder.parent / "outside.png", folder / "images" / "000.png")
    each_path = iter(f"images/{name}.png" for name in tiny().view_names)
    each(lambda frame: frame.update(file_path=next(each_path)))(folder)


def link_in_a_circle(folder: Path) -> None:
    """A link that leads to itself."""
    first(file_path="images/loop.png")(folder)
    os.symlink("loop.png", folder / "images" / "loop.png")


def turn_first(folder: Path) -> None:
    """Turn the first photograph and its mask by a quarter."""
    for kind in ("images", "masks"):
        path = folder / kind / "000.png"
        imageio.imwrite(path, np.rot90(imageio.imread(path)))


def turn_first_back(folder: Path) -> None:
    """Three quarters more."""
    for _ in range(3):
        turn_first(folder)


def narrow_mask(folder: Path) -> None:
    """A mask of another shape."""
    write(folder)
    imageio.imwrite(folder / "masks" / "001.png", np.full((12, 12), 255, np.uint8))


def crop_mask_alike(folder: Path) -> None:
    """The mask as the photograph is."""
    mask = tiny().masks[1, 0].numpy().astype(np.uint8) * 255
    imageio.imwrite(folder / "masks" / "001.png", mask)


def separate_masks(folder: Path) -> None:
    """A mask for each photograph, in sub-folders as the photographs are."""
    for number in range(2):
        for camera in ("cam0", "cam1"):
            (folder / "masks" / camera).mkdir(exist_ok=True)
            shutil.copy(folder / f"masks/{number:04d}.png",
                        folder / f"masks/{camera}/{number:04d}.png")
        (folder / f"masks/{number:04d}.png").unlink()


def noisy_background(folder: Path) -> None:
    """No masks, and a background of all colours."""
    write_transforms(tiny(), folder)
    shutil.rmtree(folder / "masks")
    for i, name in enumerate(tiny().view_names):
        noise = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        imageio.imwrite(folder / "images" / f"{name}.png", noise)


def add_masks(folder: Path) -> None:
    """masks/NAME.png."""
    (folder / "masks").mkdir(exist_ok=True)
    for name, mask in zip(tiny().view_names, tiny().masks):
        imageio.imwrite(folder / "masks" / f"{name}.png", mask[0].numpy().astype(np.uint8) * 255)


def foreign(make: Step, export: Step) -> Case:
    """A format that is not read, and the export that is, into the same folder."""
    return capture("which is not read, need a format of", make, steps(
        lambda folder: shutil.rmtree(folder / "images", ignore_errors=True),
        lambda folder: shutil.rmtree(folder / "masks", ignore_errors=True),
        lambda folder: merge(folder, export)))


def merge(folder: Path, export: Step) -> None:
    """What `export` writes, added to what is there."""
    new = folder.parent / "export"
    export(new)
    shutil.copytree(new, folder, dirs_exist_ok=True)


def empty_file(name: str) -> Step:
    """Photographs beside a file of another program."""
    return steps(lambda folder: write_pictures(tiny(), folder),
                 lambda folder: (folder / name).write_bytes(b""))


def colmap(folder: Path) -> Path:
    """The tiny scene as COLMAP's text."""
    return write_colmap(tiny(), folder, ".txt")


def pack(folder: Path) -> None:
    """The capture as an archive in a folder of its own."""
    inner = write(folder.parent / "inner")
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in inner.rglob("*.*"):
            archive.write(path, path.relative_to(inner))


def unpack(folder: Path) -> None:
    """unzip a.zip -d CAPTURE."""
    with zipfile.ZipFile(folder / "a.zip") as archive:
        archive.extractall(folder)


def tiff_photographs(folder: Path) -> str:
    """Photographs as TIFF."""
    folder.mkdir()
    for name, picture in zip(tiny().view_names, pictures(tiny())):
        Image.fromarray(picture).save(folder / f"{name}.tif")
    return recognise(folder)


def convert_to_jpeg(folder: Path) -> None:
    """What `magick mogrify -format jpg '*.tif'` does."""
    for path in folder.glob("*.tif"):
        Image.open(path).save(path.with_suffix(".jpg"))
    assert recognise(folder) == "photos"


def plain_photographs(folder: Path) -> None:
    """Photographs alone, where pycolmap is not installed."""
    write_pictures(tiny(), folder)
    with mock.patch.dict(sys.modules, {"pycolmap": None}):
        imported(folder)


def give_cameras(folder: Path) -> None:
    """transforms.json beside the photographs; pycolmap is still missing."""
    again(write)(folder)
    with mock.patch.dict(sys.modules, {"pycolmap": None}):
        assert len(imported(folder)) == 4


def search(work: Path, **behaviour: object) -> Path:
    """COLMAP's process, which dies or comes to its end; a real death: test_structure_from_motion.
    """
    work.mkdir(exist_ok=True)
    with mock.patch.object(structure_from_motion, "run_apart", **behaviour):
        return structure_from_motion._in_child(work, ["a.png"], 1)


def die(work: Path) -> Path:
    """A native abort."""
    return search(work, side_effect=ProcessDied("by signal SIGABRT"))


def end_well(work: Path) -> Path:
    """A model."""
    return search(work, return_value=work / "models_0")


def run_import(folder: Path, **flags: str) -> object:
    """The import as its script runs it, but for the check, which takes seconds."""
    result = SimpleNamespace(has_errors=False)
    with mock.patch.multiple(importing, check_scene=lambda _: result, check_text=lambda *_: "",
                             check_sheet=lambda *_: np.zeros((4, 4, 3), np.uint8)):
        return importing.import_scene(ImportConfig(input=str(folder), normalization="cameras",
                                                   **flags))


#: By their names in `readers.foreign`.
FOREIGN = {
    "RealityCapture's table of cameras": foreign(
        lambda folder: write_reality_capture(tiny(), folder), colmap),
    "Record3D's recording": foreign(lambda folder: write_record3d(tiny(), folder), write),
    "a Bundler or VisualSFM model": foreign(empty_file("bundle.out"), colmap),
    "Meshroom's or OpenMVG's cameras": foreign(empty_file("cameras.sfm"), colmap),
    "a project of Metashape": foreign(empty_file("project.psx"),
                                      lambda folder: write_metashape(tiny(), folder)),
    "a project of RealityCapture": foreign(empty_file("project.rcproj"), colmap),
    "an archive": capture("which is not read, need a format of", pack, unpack)}

CASES = (
    capture("need sides of 1 to", first(w=1e12), again(write)),
    capture("intrinsics hold NaN or infinity", first(fl_x=math.nan), again(write)),
    capture("capture: {}: focal lengths", first(fl_x=-3), again(write)),
    capture("principal point {} and skew", first(cy=1e14), again(write)),
    capture("distortion {}, need OpenCV's coefficients", first(k1=1e9), again(write)),
    capture("need an object with frames", text("[]"), again(write)),
    Case("--input and --output are needed", lambda folder: imported(folder, output=""),
         (steps(write, imported),)),
    Case("--output is missing: give the scene folder", steps(write, lambda f: run_import(f)),
         (lambda folder: run_import(folder, output=str(folder.parent / "mine")),)),
    Case("a border of one colour", steps(noisy_background,
                                         lambda folder: imported(folder, background="auto")),
         (steps(add_masks, imported), imported)),
    capture("the mask of two photographs",
            lambda folder: two_cameras(tiny(), folder, "{cam}/{name}.png", "masks/{name}.png"),
            separate_masks, has_truth=False),                     # the cameras take turns
    capture("need the path of a file relative to", first(file_path=7), again(write)),
    capture("leads out of {}, need a file inside", move_photograph_out, copy_photograph_in),
    capture("cannot be followed", link_in_a_circle,
            each(lambda frame: frame.update(file_path=frame["file_path"].replace("loop", "000")))),
    capture("but its camera was calibrated for", steps(write, turn_first), turn_first_back,
            again(write)),
    capture("pinhole_images: {}: {}x{}, but {} is", narrow_mask, crop_mask_alike),
    capture("found no transforms.json", lambda folder: write(folder / "inner"),
            lambda folder: shutil.copytree(folder / "inner", folder, dirs_exist_ok=True)),
    capture("need a folder of pictures; check --input", lambda folder: None, write),
    *FOREIGN.values(),
    Case("convert them: magick mogrify", tiff_photographs, (convert_to_jpeg,)),
    Case("needs pycolmap; install", plain_photographs, (give_cameras,)),
    Case("COLMAP's process ended", die, (again(end_well),)),
    capture("hold for the whole photograph", lambda folder: write_fisheye(BENT, folder),
            change(lambda content: content.update(k3=0.0, k4=0.0)),
            again(lambda folder: write_fisheye(SOUND, folder)), views=8, has_truth=False),
    capture("has no pinhole image", steps(write, each(lambda frame: frame.update(p1=5.0, p2=5.0))),
            again(write)),
    capture("frames is {}, need a list", text('{"frames": []}'), again(write)),
    capture("frame {} is a {}, need an object", text('{"frames": [4]}'), again(write)),
    capture("no transform_matrix, need camera to world", first(transform_matrix=None),
            again(write), change(lambda content: content["frames"].pop(0)), views=(4, 3)),
    capture("camera_model {}, need one of", first(camera_model="EQUIRECTANGULAR"),
            each(lambda frame: frame.pop("camera_model", None))),
    capture("pixels, need finite sizes", first(w=math.nan), again(write)),
    capture("neither fl_x nor camera_angle_x", first(fl_x=None), again(write)),
    capture("k4 is not 0, need OpenCV's", first(k4=0.1), each(lambda f: f.pop("k4", None))),
    capture("no such mask ({}, mask_path)",
            steps(write, each(lambda frame: frame.update(mask_path="masks/none.png"))),
            each(lambda frame: frame.pop("mask_path"))),
    capture("no such mask ({}, mask_path)", first(mask_path="own.png"),
            lambda folder: shutil.copy(folder / "masks" / "000.png", folder / "own.png")),
    capture("transforms_format: {}: {} is {}, need a number", first(fl_x="far"), again(write)),
    capture("scales by {}, need a rotation", steps(write, scale_rotation(0.4)),
            scale_rotation(2.5)),
    capture("folder: {}: its last row is", steps(write, matrices(lambda m: m.T)),
            matrices(lambda m: m.T)),
    capture("flip the sign of one axis where",
            steps(write, matrices(lambda m: m @ np.diag([-1.0, 1, 1, 1]))),
            matrices(lambda m: m @ np.diag([-1.0, 1, 1, 1]))),
    capture("sheared or stretched", steps(write, matrices(lambda m: m @ np.diag([2.0, 1, 1, 1]))),
            again(write)),
    capture("of shape {}, need {}; export", first(transform_matrix=[[1, 0], [0, 1]]),
            again(write)),
    capture("not a matrix of numbers", first(transform_matrix=[["a"]]), again(write)))
