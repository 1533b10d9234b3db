"""Cases of the readers of other tools: COLMAP, Middlebury, Metashape, LLFF, Polycam, matrices."""
from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from support.advice.table import Case, Step, again, capture, check_tiny, imported, steps, tiny
from support.capture_files import intrinsics, write_colmap, write_middlebury
from support.tool_captures import (
    write_llff,
    write_matrices,
    write_metashape,
    write_mvsnet,
    write_polycam,
)

MODEL = Path("sparse") / "0"
PAR, XML, POSES = "ball_par.txt", "cameras.xml", "poses_bounds.npy"


def written(write: Callable, *more: object) -> Step:
    """A writer of the tiny scene."""
    return lambda folder: write(tiny(), folder, *more)


TEXT, BINARY = written(write_colmap, ".txt"), written(write_colmap, ".bin")
METASHAPE, LLFF, POLYCAM = written(write_metashape), written(write_llff), written(write_polycam)
MATRICES, MVSNET = written(write_matrices), written(write_mvsnet)
MIDDLEBURY = written(write_middlebury)


def replaced(name: str | Path, old: str, new: str, count: int = -1) -> Step:
    """Change the text of a file."""
    def do(folder: Path) -> None:
        path = folder / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, count))
    return do


def bytes_changed(name: str, edit: Callable[[bytes], bytes]) -> Step:
    """Change a file of the binary model."""
    def do(folder: Path) -> None:
        path = folder / MODEL / name
        path.write_bytes(edit(path.read_bytes()))
    return do


def model_number(number: int) -> Step:
    """The model of the first camera of cameras.bin."""
    return bytes_changed("cameras.bin",
                         lambda data: data[:12] + struct.pack("<i", number) + data[16:])


def long_quaternion(folder: Path) -> None:
    """A first pose that begins with 7."""
    path = folder / MODEL / "images.txt"
    head, pose, *rest = path.read_text().splitlines()
    number, _, *words = pose.split()
    path.write_text("\n".join([head, " ".join([number, "7", *words]), *rest]) + "\n")


def renamed(old: str, new: str) -> Step:
    """Move a file or folder."""
    def do(folder: Path) -> None:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    return do


def without(*names: str) -> Step:
    """Take files out."""
    return lambda folder: [(folder / name).unlink() for name in names]


def each_text(edit: Callable[[str], str]) -> Step:
    """Change the text of each photograph's matrix."""
    return lambda folder: [path.write_text(edit(path.read_text()))
                           for path in sorted(folder.rglob("*.txt"))]


def first_text(edit: Callable[[str], str]) -> Step:
    """Change that of the first one."""
    def do(folder: Path) -> None:
        path = sorted(folder.rglob("*.txt"))[0]
        path.write_text(edit(path.read_text()))
    return do


def times(k: np.ndarray) -> Step:
    """Multiply each matrix of a view from the left."""
    return lambda folder: [np.savetxt(path, k @ np.loadtxt(path))
                           for path in folder.rglob("*.txt")]


def wrong_k(line: str) -> str:
    """A line of Middlebury's with a K that is no triangle."""
    words = line.split()
    return " ".join([*words[:4], "5", *words[5:]])


def second_line(edit: Callable[[str], str]) -> Step:
    """Change the first photograph's line of Middlebury's file."""
    def do(folder: Path) -> None:
        first, second, *rest = (folder / PAR).read_text().splitlines()
        (folder / PAR).write_text("\n".join([first, edit(second), *rest]) + "\n")
    return do


def one_photograph_more(folder: Path) -> None:
    """One that COLMAP did not place."""
    imageio.imwrite(folder / "images" / "unplaced.png", np.zeros((12, 16, 3), np.uint8))


def rows(edit: Callable[[np.ndarray], np.ndarray]) -> Step:
    """Change the rows of LLFF's file."""
    return lambda folder: np.save(folder / POSES, edit(np.load(folder / POSES)))


def first_size(found: np.ndarray) -> np.ndarray:
    """A height of -1 in the first row."""
    found[0, 4] = -1
    return found


def polycam_camera(**values: object) -> Step:
    """Change the first camera's file."""
    def do(folder: Path) -> None:
        path = sorted(folder.rglob("cameras/*.json"))[0]
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return do


def one_camera(folder: Path) -> None:
    """A Polycam export of which all cameras but one were lost."""
    POLYCAM(folder)
    for path in sorted(folder.rglob("cameras/*.json"))[1:]:
        path.unlink()


def no_rays(content: str) -> str:
    """Metashape's calibrations taken out."""
    return content.replace("<calibration", "<other").replace("</calibration>", "</other>")


def xml(edit: Callable[[str], str]) -> Step:
    """Change Metashape's file."""
    return lambda folder: (folder / XML).write_text(edit((folder / XML).read_text()))


def read_as(folder: Path, source: str) -> None:
    """The import with --source, of the tiny scene."""
    check_tiny(imported(folder, source=source))


K = intrinsics(tiny())[0]
SCALED = (-1.0, np.eye(3), (0.0, 0.0, 0.0))

CASES = (
    # COLMAP
    capture("colmap_format: {}: camera model {}", steps(TEXT, replaced(
        MODEL / "cameras.txt", "PINHOLE", "FOV")), again(BINARY)),
    capture("parameters of {}, need {}", steps(TEXT, replaced(
        MODEL / "cameras.txt", "PINHOLE 16 12 ", "PINHOLE 16 12 7 ")), again(TEXT)),
    capture("need a unit quaternion", steps(TEXT, long_quaternion), again(TEXT)),
    capture("the file is truncated or not COLMAP's", steps(BINARY, bytes_changed(
        "images.bin", lambda data: data[:-9])), again(BINARY)),
    capture("a name without an end", steps(BINARY, bytes_changed(
        "images.bin", lambda data: data[:72] + data[72:].replace(b"\0", b"x"))), again(BINARY)),
    capture("is of model number", steps(BINARY, model_number(99)), again(TEXT)),
    capture("its head states", steps(TEXT, replaced(
        MODEL / "images.txt", "# images", "# Number of images: 6")),
        again(TEXT), replaced(MODEL / "images.txt", "images: 6", "images: 4")),
    capture("need ID MODEL WIDTH", steps(TEXT, replaced(
        MODEL / "cameras.txt", "1 PINHOLE 16 12", "1 PINHOLE 16\n#", 1)), again(TEXT)),
    capture("need ID QW QX", steps(TEXT, replaced(
        MODEL / "images.txt", " 1 000.png", "")), again(TEXT)),
    Case("need a sparse model; point --input at", steps(
        TEXT, lambda folder: read_as(folder / "images", "colmap")),
        (lambda folder: read_as(folder, "colmap"),)),
    capture("need them in images/; copy them there", steps(TEXT, renamed("images", "photos")),
            renamed("photos", "images")),
    capture("which is not in cameras", steps(TEXT, replaced(
        MODEL / "images.txt", " 1 000.png", " 9 000.png")), again(TEXT)),
    # Middlebury
    capture("middlebury_format: {}: {} files", steps(
        MIDDLEBURY, lambda folder: (folder / "b_par.txt").write_text("0\n")), without("b_par.txt")),
    Case("middlebury_format: {}: no file", steps(
        MIDDLEBURY, renamed(PAR, "old"), lambda folder: read_as(folder, "middlebury")),
        (steps(renamed("old", PAR), lambda folder: read_as(folder, "middlebury")),)),
    capture("middlebury_format: {}: K is", steps(MIDDLEBURY, second_line(wrong_k)),
            again(MIDDLEBURY)),
    capture("numbers, or some not finite", steps(
        MIDDLEBURY, second_line(lambda line: line.rsplit(" ", 1)[0])), again(MIDDLEBURY)),
    capture("capture: {}: {}, need {} numbers", steps(
        MIDDLEBURY, second_line(lambda line: line + "x")), again(MIDDLEBURY)),
    # Metashape
    capture("files of Metashape", steps(METASHAPE, lambda folder: (folder / "b.xml").write_text(
        (folder / XML).read_text())), without("b.xml")),
    Case("no XML file of Metashape's", steps(
        METASHAPE, renamed(XML, "old"), lambda folder: read_as(folder, "metashape")),
        (again(steps(METASHAPE, lambda folder: read_as(folder, "metashape"))),)),
    capture("defines entities", steps(METASHAPE, replaced(
        XML, "<document", '<!DOCTYPE d [<!ENTITY a "b">]><document')), again(METASHAPE)),
    capture("no chunk, need cameras", steps(METASHAPE, replaced(
        XML, "<chunk", "<part><chunk"), replaced(XML, "</chunk>", "</chunk></part>")),
        again(METASHAPE)),
    capture("scale {}, need one over 0", written(write_metashape, "frame", "", SCALED),
            again(METASHAPE)),
    capture("its sensor has no calibration", steps(METASHAPE, xml(no_rays)), again(METASHAPE)),
    capture("a sensor of type", written(write_metashape, "spherical"), again(METASHAPE)),
    capture("which OpenCV's lens does not have", written(write_metashape, "frame", "<k4>0.1</k4>"),
            again(METASHAPE), replaced(XML, "<k4>0.1", "<k4>0")),
    capture("not readable as XML", steps(METASHAPE, replaced(XML, "</document>", "")),
            again(METASHAPE)),
    # LLFF; its file has no principal point, so cameras are those of another lens
    capture("poses, but {} photographs", steps(LLFF, one_photograph_more),
            without("images/unplaced.png"), has_truth=False),
    capture("height, width and focal length", steps(LLFF, rows(first_size)), again(LLFF),
            has_truth=False),
    capture("damaged or of another kind", steps(LLFF, rows(lambda found: found[:, :3])),
            again(LLFF), has_truth=False),
    # Polycam
    Case("need the raw data of Polycam", steps(
        one_camera, lambda folder: read_as(folder, "polycam")),
        (again(steps(POLYCAM, lambda folder: read_as(folder, "polycam"))),)),
    capture("polycam_format: {}: {} is {}", steps(POLYCAM, polycam_camera(fx="wide")),
            again(POLYCAM)),
    # matrices as text
    Case("no photographs with 3x4 matrices", steps(
        MATRICES, each_text(lambda _: "words"), lambda folder: read_as(folder, "matrices")),
        (again(steps(MATRICES, lambda folder: read_as(folder, "matrices"))),)),
    capture("which holds parameters", written(write_matrices, "images/{}.txt", "CONTOUR2"),
            each_text(lambda content: content.replace("CONTOUR2", "CONTOUR"))),
    capture("projection_format: {}: a rotation and a translation without K",
            steps(MATRICES, times(np.linalg.inv(K))), times(K)),
    capture("need 'extrinsic', 16 numbers", steps(MVSNET, first_text(
        lambda content: content.replace("intrinsic\n", ""))), again(MVSNET)),
    capture("projection_format: {}: K is", steps(MVSNET, first_text(
        lambda content: content.replace("1.0 \n425", "0.0 \n425").replace(
            "1.0 \n\n425", "0.0 \n\n425"))), again(MVSNET)))
