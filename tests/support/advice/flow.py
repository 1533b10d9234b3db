"""Cases of image pairs with optical flow: their files, their folders, synthetic ones."""
from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from data_processing.flow import files
from data_processing.flow.batches import crop_pair
from data_processing.flow.files import read_flo, read_pfm, write_flo, write_pfm
from data_processing.flow.pairs import FolderPairs
from data_processing.flow.synthetic_layers import find_pictures
from data_processing.flow.synthetic_pairs import SyntheticPairs, make_pair_folder, write_pair
from support.advice.table import Case, Step, again, steps
from utils.config.tool_sections import MakeFlowConfig

SIZE = (40, 32)
FLOW = np.zeros((SIZE[1], SIZE[0], 2), np.float32)


def flo(folder: Path) -> object:
    """A flow file that is sound, read."""
    write_flo(folder / "a.flo", FLOW)
    return read(folder)


def read(folder: Path) -> object:
    """Read it."""
    return read_flo(folder / "a.flo")


def spoilt(edit: Callable[[bytes], bytes]) -> Step:
    """The flow file with other bytes, read."""
    def do(folder: Path) -> object:
        flo(folder)
        (folder / "a.flo").write_bytes(edit((folder / "a.flo").read_bytes()))
        return read(folder)
    return do


def pfm(content: bytes | None = None, channels: int = 1) -> Step:
    """A float map, of these bytes or a sound one, read with so many channels."""
    def do(folder: Path) -> object:
        folder.mkdir(exist_ok=True)
        if content is None:
            write_pfm(folder / "a.pfm", np.zeros((4, 5) if channels == 1 else (4, 5, 3)))
        else:
            (folder / "a.pfm").write_bytes(content)
        return read_pfm(folder / "a.pfm", channels)
    return do


def unreadable(name: str, error: OSError) -> Step:
    """The system refuses to read; as root one can read anything."""
    def do(folder: Path) -> object:
        flo(folder)
        target, attribute = (files, "open") if name == "open" else (files.np, name)
        with mock.patch.object(target, attribute, side_effect=error, create=True):
            return read(folder)
    return do


FILES = (
    Case("need a header of", spoilt(lambda data: data[:8]), (flo,)),
    Case("(PIEH), little-endian", spoilt(lambda data: b"nope" + data[4:]), (flo,)),
    Case("need a float map's header", pfm(b"P5 5 4 255 "), (pfm(),)),
    Case("give the file of the right", steps(pfm(), pfm(b"PF\n1 1\n-1\n" + bytes(12))),
         (pfm(), pfm(b"Pf\n1 1\n-1\n" + bytes(4)))),
    Case("no such file, need {}; copy it there", read, (flo,)),
    Case("says that it is", spoilt(lambda data: data[:4] + struct.pack("<ii", -1, 4) + data[12:]),
         (flo,)),
    Case("bytes after the header, need", spoilt(lambda data: data[:-8]), (flo,)),
    Case("cannot be read ({}), need {}; fix", unreadable("open", PermissionError(13, "denied")),
         (read,)),
    Case("cannot be read any more", unreadable("fromfile", OSError(5, "Input/output error")),
         (flo,)))


def pairs(folder: Path) -> FolderPairs:
    """Two pairs in a folder, written and read."""
    source = SyntheticPairs(SIZE, 5)
    for index in range(2):
        write_pair(source.exact_pair(index), folder, f"{index:07d}")
    return opened(folder)


def opened(folder: Path) -> FolderPairs:
    """The pairs of a folder, each read."""
    found = FolderPairs(folder)
    for index in range(len(found)):
        found.pair(index)
    return found


def small_picture(folder: Path) -> object:
    """One picture of another pair."""
    pairs(folder)
    Image.new("RGB", (8, 8)).save(folder / "0000000-img_1.png")
    return opened(folder)


def one_file_less(folder: Path) -> object:
    """A pair without its second picture."""
    pairs(folder)
    (folder / "0000001-img_1.png").rename(folder.parent / "kept.png")
    return opened(folder)


def copy_it_there(folder: Path) -> object:
    """The picture is copied back."""
    shutil.copy(folder.parent / "kept.png", folder / "0000001-img_1.png")
    return opened(folder)


def take_the_others_out(folder: Path) -> object:
    """The pair's other files are taken out."""
    for path in folder.glob("0000001-*"):
        path.unlink()
    return opened(folder)


def cropped(side: int) -> Step:
    """A crop of a pair."""
    pair = SyntheticPairs(SIZE, 5).pair
    return lambda _: crop_pair(pair(0), (side, side), np.random.default_rng(0))


def pictures(folder: Path) -> object:
    """A folder with a picture."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    return find_pictures(folder)


def synthetic(folder: Path, **flags: object) -> object:
    """A folder of one synthetic pair."""
    settings = {"output": str(folder), "num_pairs": 1, "resolution": "40x32", **flags}
    return make_pair_folder(MakeFlowConfig(**settings))


FOLDERS = (
    Case("no image pairs found", lambda folder: [pairs(folder / "train"), opened(folder)],
         (lambda folder: opened(folder / "train"),)),
    Case("need a folder of image pairs with flow", opened, (pairs,)),
    Case("give files of one pair", small_picture, (again(pairs),)),
    Case("pairs lack files", one_file_less, (copy_it_there, take_the_others_out)),
    Case("need at least the crops'", cropped(64), (cropped(32),)),
    Case("need .png, .jpg or .ppm files", find_pictures, (pictures, lambda _: SyntheticPairs(
        SIZE, 0).pair(0))),
    Case("pairs of other settings than", steps(synthetic, lambda folder: synthetic(folder, seed=1)),
         (synthetic, lambda folder: synthetic(folder.parent / "other", seed=1))),
    Case("synthetic pairs of", lambda folder: synthetic(folder, resolution="4x4"), (synthetic,)))

CASES = (*FILES, *FOLDERS)
