"""Folders of image pairs with optical flow: FlyingChairs2, FlyingChairs and Middlebury.

Pre-training needs the flow from the second image to the first (`flow_10`, on the pixels of image 1)
and which pixels of image 1 are hidden in image 0. FlyingChairs2 has both; where there is only the
flow of image 0, `inversion` derives them.
"""
from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data_processing.flow.files import read_flo, read_occlusion, read_picture
from data_processing.flow.inversion import invert_flow
from utils.errors import SceneError

log = logging.getLogger(__name__)

PICTURE = r"\.(?:png|jpg|jpeg|ppm)"
NUM_NAMED = 3             # files named in an error


@dataclass(frozen=True)
class FlowPair:
    """Two images, and what is known of each pixel of the second one.

    Attributes:
        name: of the pair.
        image_0, image_1: (H, W, 3) uint8 RGB.
        flow_10: (H, W, 2) float32, pixels: where a pixel of image 1 is in image 0; 0 if unknown.
        known_mask: (H, W) bool, the flow (or that the pixel is occluded) is known.
        occluded_mask: (H, W) bool, the point is hidden in image 0 or outside of it.
    """

    name: str
    image_0: np.ndarray
    image_1: np.ndarray
    flow_10: np.ndarray
    known_mask: np.ndarray
    occluded_mask: np.ndarray


class PairSource(Protocol):
    """Image pairs by number.

    Attributes:
        is_endless: whether numbers beyond an epoch are new pairs.
    """

    is_endless: bool

    def __len__(self) -> int:
        """Return the number of pairs of an epoch."""
        ...

    def pair(self, index: int) -> FlowPair:
        """Return pair number `index`, the same each time."""
        ...


@dataclass(frozen=True)
class Naming:
    """How the files of a pair are named: patterns of what follows the pair's own name.

    Attributes:
        label: the data set that has this naming.
        parts: part (image_0, image_1, flow_01, flow_10, occ_10) to its patterns, of which the first
            that a file matches counts.
    """

    label: str
    parts: dict[str, tuple[str, ...]]


NAMINGS = (
    Naming("FlyingChairs2", {
        "image_0": (r"-img_0" + PICTURE,), "image_1": (r"-img_1" + PICTURE,),
        "flow_10": (r"-flow_10\.flo",), "occ_10": (r"-occ_10\.png", r"-occ_weights_10\.pfm")}),
    Naming("FlyingChairs", {
        "image_0": (r"-img0" + PICTURE,), "image_1": (r"-img1" + PICTURE,),
        "flow_01": (r"-(?:gt|flow)\.flo",)}),
    Naming("FlyingChairs", {
        "image_0": (r"_img1" + PICTURE,), "image_1": (r"_img2" + PICTURE,),
        "flow_01": (r"_flow\.flo",)}),
    Naming("Middlebury", {
        "image_0": (r"frame10" + PICTURE,), "image_1": (r"frame11" + PICTURE,),
        "flow_01": (r"flow10\.flo",)}),
)


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair: `flow_10` with `occ_10`, or `flow_01`."""

    name: str
    image_0: Path
    image_1: Path
    flow_01: Path | None = None
    flow_10: Path | None = None
    occ_10: Path | None = None


def find_pairs(folder: Path | str) -> list[PairFiles]:
    """Return the pairs of a folder, sorted by name; the naming is recognised.

    Middlebury's pairs may lie in the folder itself or in one subfolder each.

    Raises:
        SceneError: no folder, no pairs, or a pair that lacks a file.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SceneError(f"{folder}: found {found} there, need a folder of image pairs with flow; "
                         "check --dataset_path and --eval_path")
    pairs = _pairs_in(folder)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()) if not pairs else []:
        pairs += _pairs_in(below, only="Middlebury")
    if pairs:
        return pairs
    hint = next((below for below in sorted(folder.iterdir()) if below.is_dir()
                 and _stems(below)), None)
    cure = f"did you mean {hint}?" if hint else "point at the folder that holds the files"
    raise SceneError(f"{folder}: no image pairs found, need N-img_0.png N-img_1.png N-flow_10.flo "
                     "N-occ_10.png (FlyingChairs2), N-img0.ppm N-img1.ppm N-gt.flo or N_img1.ppm "
                     "N_img2.ppm N_flow.flo (FlyingChairs), or frame10.png frame11.png flow10.flo "
                     f"(Middlebury); {cure}")


def load_pair(files: PairFiles) -> FlowPair:
    """Read a pair; from forward flow alone, backward flow and occlusion are derived.

    Raises:
        SceneError: a file cannot be read, or the sizes differ.
    """
    images = read_picture(files.image_0), read_picture(files.image_1)
    flow_path = files.flow_10 or files.flow_01
    if flow_path is None:
        raise ValueError(f"pair {files.name} has no flow file")
    field = read_flo(flow_path)
    parts = [(files.image_1, images[1]), (flow_path, field.flow)]
    occluded = None
    if files.occ_10 is not None:
        occluded = read_occlusion(files.occ_10)
        parts.append((files.occ_10, occluded))
    for path, values in parts:
        if values.shape[:2] != images[0].shape[:2]:
            raise SceneError(f"{path}: is {_size(values)}, need {_size(images[0])} as "
                             f"{files.image_0.name}; give files of one pair")
    if occluded is None:
        found = invert_flow(field.flow, field.known_mask, *images)
        return FlowPair(files.name, *images, found.flow_10, found.known_mask, found.occluded_mask)
    return FlowPair(files.name, *images, field.flow, field.known_mask | occluded, occluded)


class FolderPairs:
    """The pairs of a folder, as a `PairSource` that reads a pair when it is asked for.

    Args:
        folder: see `find_pairs`.
    Raises:
        SceneError: see `find_pairs`.
    """

    is_endless = False

    def __init__(self, folder: Path | str) -> None:
        self.files = find_pairs(folder)
        num_forward = sum(files.flow_10 is None for files in self.files)
        log.info("%s: %d pairs", folder, len(self.files))
        if num_forward:
            log.info("%d of them have forward flow only: backward flow and occlusion are derived "
                     "by splatting the flow, which is right but for a pixel along the edges of "
                     "objects", num_forward)

    def __len__(self) -> int:
        return len(self.files)

    def pair(self, index: int) -> FlowPair:
        """Read pair number `index` from its files."""
        return load_pair(self.files[index])


def _stems(folder: Path) -> dict[int, dict[str, dict[str, Path]]]:
    """Return, by number of a naming and name of a pair, the parts that are there."""
    found: dict[int, dict[str, dict[str, Path]]] = {}
    names = sorted(path.name for path in folder.iterdir())
    for number, naming in enumerate(NAMINGS):
        patterns = {(part, rank): re.compile(f"(.*){pattern}", re.IGNORECASE)
                    for part, choices in naming.parts.items()
                    for rank, pattern in enumerate(choices)}
        for (part, _), pattern in patterns.items():            # first choices first
            for match in filter(None, map(pattern.fullmatch, names)):
                pair = found.setdefault(number, {}).setdefault(match[1], {})
                pair.setdefault(part, folder / match[0])
    return found


def _pairs_in(folder: Path, only: str = "") -> list[PairFiles]:
    """Return the pairs that lie in a folder itself; raise SceneError where one lacks a file."""
    pairs = []
    for number, stems in _stems(folder).items():
        naming = NAMINGS[number]
        if only and naming.label != only:
            continue
        lacking = [f"{stem or naming.label}: {part}" for stem, parts in sorted(stems.items())
                   for part in naming.parts if part not in parts]
        if lacking:
            more = f" and {len(lacking) - NUM_NAMED} more" if len(lacking) > NUM_NAMED else ""
            raise SceneError(
                f"{folder}: {naming.label} pairs lack files: {', '.join(lacking[:NUM_NAMED])}"
                f"{more}; need {', '.join(naming.parts)} of each; copy them there or take the "
                "pair's other files out")
        pairs += [PairFiles(stem or folder.name, **parts) for stem, parts in sorted(stems.items())]
    return pairs


def _size(values: np.ndarray) -> str:
    """Return the size of a map for a message."""
    return f"{values.shape[1]}x{values.shape[0]}"
