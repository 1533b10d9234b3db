"""What a folder holds, and the reader for it."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_processing.captures.capture import Capture
from data_processing.captures.readers.colmap_project import model_folders, read_colmap
from data_processing.captures.readers.foreign import foreign_capture
from data_processing.captures.readers.llff_format import llff_file, read_llff
from data_processing.captures.readers.metashape_format import metashape_file, read_metashape
from data_processing.captures.readers.middlebury_format import par_file, read_middlebury
from data_processing.captures.readers.polycam_format import polycam_folders, read_polycam
from data_processing.captures.readers.projection_format import matrix_files, read_matrices
from data_processing.captures.readers.scene_folder import capture_of_scene, has_idr_cameras
from data_processing.captures.readers.transforms_format import read_transforms, transforms_files
from data_processing.captures.structure_from_motion import (
    find_cameras,
    photo_folder,
    unread_photographs,
)
from data_processing.scenes.processed_format import is_processed_folder
from utils.errors import SceneError

#: Tests by the words of `--source`, in the order in which they are made.
TESTS: dict[str, Callable[[Path], object]] = {
    "transforms": transforms_files, "colmap": model_folders, "middlebury": par_file,
    "processed": is_processed_folder, "idr": has_idr_cameras, "polycam": polycam_folders,
    "metashape": metashape_file, "llff": llff_file, "matrices": matrix_files}
READERS: dict[str, Callable[[Path], Capture]] = {
    "transforms": read_transforms, "colmap": read_colmap, "middlebury": read_middlebury,
    "processed": capture_of_scene, "idr": capture_of_scene, "polycam": read_polycam,
    "metashape": read_metashape, "llff": read_llff, "matrices": read_matrices}


def recognise(folder: Path) -> str:
    """Return the word of `--source` for what lies in a folder.

    Raises:
        SceneError: nothing that can be read; the message says what was found.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise SceneError(f"{folder}: {what}, need a folder of pictures; check --input")
    for word, test in TESTS.items():
        if test(folder):
            return word
    foreign = foreign_capture(folder)
    if foreign:
        path, name, cure = foreign
        photos = ", or give --source photos to have the cameras found from the photographs" \
            if photo_folder(folder) else ""
        raise SceneError(f"{path}: {name}, which is not read, need a format of "
                         f"docs/own_photographs.md; {cure}{photos}")
    if photo_folder(folder):
        return "photos"
    unread = unread_photographs(folder)
    if unread:
        raise SceneError(f"{folder}: {len(unread)} photographs such as {unread[0].name}, need "
                         f"PNG or JPEG; convert them: magick mogrify -format jpg "
                         f"'{unread[0].parent}/*{unread[0].suffix}'")
    raise SceneError(f"{folder}: found no transforms.json, COLMAP model, *_par.txt, cameras.npz, "
                     "NAME_rgb_meta.npy, cameras of another tool or photographs; point --input at "
                     "the folder of one capture")


def read_capture(folder: Path, source: str, work: Path, num_threads: int = 0) -> Capture:
    """Read the capture of a folder with the reader of `source`.

    Args:
        folder: of the capture.
        source: a word of `recognise`.
        work: where structure from motion keeps its files.
        num_threads: of structure from motion; 0 takes all.
    """
    if source == "photos":
        return find_cameras(folder, work, num_threads or -1)
    return READERS[source](folder)
