"""Cameras of plain photographs, found by COLMAP through the optional package pycolmap."""
from __future__ import annotations

import hashlib
import importlib
import logging
import shutil
from itertools import combinations
from pathlib import Path
from types import ModuleType

from PIL import Image
from tqdm import tqdm

from data_processing.captures.capture import Capture, CapturedView, make_capture
from data_processing.captures.masks import is_mask_name
from data_processing.captures.native import ProcessDied, run_apart
from data_processing.captures.paths import IMAGE_SUFFIXES
from data_processing.captures.pinhole_images import SIDEWAYS, TURNS, same_shape, stored_size
from data_processing.captures.readers.colmap_project import read_colmap
from data_processing.scenes.folder import check_num_views, list_files
from data_processing.scenes.images import opened
from utils.errors import MissingExtraError, SceneError

log = logging.getLogger(__name__)
PHOTO_FOLDERS = ("images", "image", "input", "photos", ".")
#: Formats of photographs that are not read.
OTHER_SUFFIXES = (".heic", ".heif", ".dng", ".cr2", ".nef", ".arw", ".webp", ".tif", ".tiff",
                  ".bmp", ".ppm", ".pgm", ".gif", ".avif", ".jp2")
#: Longest side of the images in which features are searched.
FEATURE_SIZE = 800
#: Up to this many photographs every pair is matched; of more, neighbours by name and far strides.
ALL_PAIRS_UP_TO, NEIGHBOURS = 80, 10
PAIRS_AT_ONCE = 40
#: One focal length and one radial term: an ordinary walk round an object determines no more.
CAMERA_MODEL = "SIMPLE_RADIAL"
SEED = 0
#: Digits of the sha256 in the name of a copy.
NAME_DIGITS = 20
#: First focal lengths to try, in longer sides: EXIF's or COLMAP's 1.2, then those of a phone's wide
#: and tele lens, until this fraction of the photographs is placed.
FOCAL_FACTORS, ENOUGH_PLACED = (None, 0.8, 1.8, 2.6), 0.8
#: From this many photographs on, the principal point is refined at the end: on the skull's 49 that
#: halves the error of the rotations (from 0.70 to 0.35 degrees).
REFINE_CENTER_FROM = 20


def photo_folder(folder: Path) -> Path | None:
    """Return the folder that holds photographs: a usual one below, or the folder itself."""
    for name in PHOTO_FOLDERS:
        if len(photographs(folder / name)) >= 2:
            return folder / name
    return None


def photographs(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files that are not masks by their names."""
    return [path for path in list_files(folder, IMAGE_SUFFIXES) if not is_mask_name(path)]


def unread_photographs(folder: Path) -> list[Path]:
    """Return the photographs in formats that must be converted first."""
    return [path for name in PHOTO_FOLDERS for path in list_files(folder / name, OTHER_SUFFIXES)]


def load_pycolmap() -> ModuleType:
    """Import pycolmap with its messages off; raise MissingExtraError where it is absent."""
    try:
        pycolmap = importlib.import_module("pycolmap")
    except ImportError as problem:
        raise MissingExtraError("finding the cameras of plain photographs needs pycolmap; install "
                                "it with: pip install pycolmap, or give a folder that has cameras "
                                "(transforms.json, a COLMAP model, ...)") from problem
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    return pycolmap


def find_cameras(folder: Path, work: Path, num_threads: int = -1) -> Capture:
    """Find the poses and the lens of a folder of photographs by structure from motion.

    Features, matches and poses are kept in `work`, from which an interrupted search resumes.

    Args:
        folder: with photographs, or with a folder images/ of them.
        work: a folder for COLMAP's files; made where absent.
        num_threads: of COLMAP; -1 takes all.
    Returns:
        The capture; photographs that COLMAP could not place are left out and listed.
    Raises:
        MissingExtraError: pycolmap is not installed.
        SceneError: too few photographs, or no two that can be placed.
    """
    load_pycolmap()                                        # absent, it is said before any work
    place = photo_folder(folder) or folder
    paths = photographs(place)
    check_num_views(folder, len(paths), "photographs, PNG or JPEG")
    copies = _write_copies(paths, work / "images")
    names = list(dict.fromkeys(copy.name for copy in copies))
    model = _in_child(work, names, num_threads)
    found = read_colmap(model, work / "images")
    by_name = {view.image.name: view for view in found.views}
    views, left_out, taken = [], [], dict[str, Path]()
    for path, copy in zip(paths, copies):
        if taken.setdefault(copy.name, path) != path:
            left_out.append(f"{path.name}: the same file as {taken[copy.name].name}")
        elif copy.name in by_name:
            view = by_name[copy.name]
            views.append(CapturedView(path.name, path, view.view, view.lens))
        else:
            left_out.append(f"{path.name}: COLMAP could not place it")
    return make_capture("photographs, cameras found by COLMAP", folder, views,
                        points_world=found.points_world, left_out=tuple(left_out))


def _in_child(work: Path, names: list[str], num_threads: int) -> Path:
    """Run COLMAP in a process of its own and return the folder of its model.

    Raises:
        SceneError: the search found no cameras, or its native code aborted.
    """
    try:
        return run_apart(_search, work, names, num_threads)
    except ProcessDied as death:
        raise SceneError(f"{work}: COLMAP's process ended {death} (its last words are above), "
                         f"need one that comes to its end; delete {work} and import again, with "
                         "fewer or smaller photographs where memory ran out") from death


def _search(work: Path, names: list[str], num_threads: int) -> Path:
    """Find features, matches and poses, and return the folder of the model."""
    pycolmap = load_pycolmap()
    _extract(pycolmap, work, names, num_threads)
    _match(pycolmap, work, names, num_threads)
    return _map(pycolmap, work, names, num_threads)


def _write_copies(paths: list[Path], folder: Path) -> list[Path]:
    """Write upright copies of at most FEATURE_SIZE as PNG, and keep those that are there.

    A copy is named after the content of its photograph: what was found for it stays right when
    photographs are renamed, added or replaced, and no name can confuse COLMAP.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in tqdm(paths, desc="making copies", unit="photo"):
        copy = folder / f"{_content_name(path)}.png"
        copies.append(copy)
        if copy.is_file():
            continue
        (width, height), orientation = stored_size(path)
        with opened(path) as image:
            upright = image.convert("RGB")
            if orientation in SIDEWAYS and not same_shape((width, height), (height, width)):
                upright = upright.transpose(TURNS[orientation])
            upright.thumbnail((FEATURE_SIZE, FEATURE_SIZE), Image.Resampling.LANCZOS)
            partial = copy.with_suffix(".partial")
            upright.save(partial, "PNG", compress_level=1)
            partial.replace(copy)
    return copies


def _content_name(path: Path) -> str:
    """Return a name made of a file's content: its size, and part of its sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.stat().st_size}_{digest[:NAME_DIGITS]}"


def _extract(pycolmap: ModuleType, work: Path, names: list[str], num_threads: int) -> None:
    """Find SIFT features in every copy; images that the database has already are skipped."""
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = num_threads
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = CAMERA_MODEL
    sizes = set()
    for name in names:
        with opened(work / "images" / name, decode=False) as image:
            sizes.add(image.size)
    # Images are given a few at a time to show progress; a shared lens is named in each call.
    mode = pycolmap.CameraMode.SINGLE if len(sizes) == 1 else pycolmap.CameraMode.PER_IMAGE
    with tqdm(total=len(names), desc="looking for features", unit="photo") as progress:
        for start in range(0, len(names), 4):
            if mode == pycolmap.CameraMode.SINGLE and (work / "database.db").is_file():
                reader.existing_camera_id = _shared_camera(pycolmap, work, next(iter(sizes)))
            pycolmap.extract_features(work / "database.db", work / "images",
                                      image_names=names[start:start + 4], camera_mode=mode,
                                      reader_options=reader, extraction_options=options)
            progress.update(len(names[start:start + 4]))


def _shared_camera(pycolmap: ModuleType, work: Path, size: tuple[int, int]) -> int:
    """Return the number of the camera that photographs of a size share; -1 before there is one."""
    database = pycolmap.Database.open(work / "database.db")
    try:
        return next((camera.camera_id for camera in database.read_all_cameras()
                     if (camera.width, camera.height) == size), -1)
    finally:
        database.close()


def pairs_to_match(num_photos: int) -> list[tuple[int, int]]:
    """Return the pairs that are compared: all, or of many photographs near ones and far strides."""
    if num_photos <= ALL_PAIRS_UP_TO:
        return list(combinations(range(num_photos), 2))
    strides = [*range(1, NEIGHBOURS + 1)]
    while strides[-1] * 2 < num_photos:
        strides.append(strides[-1] * 2)
    pairs = {(min(i, j), max(i, j)) for i in range(num_photos) for stride in strides
             if (j := (i + stride) % num_photos) != i}
    return sorted(pairs)


def _match(pycolmap: ModuleType, work: Path, names: list[str], num_threads: int) -> None:
    """Match the pairs and verify each with a two-view geometry."""
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = num_threads
    pairs = pairs_to_match(len(names))
    listing = work / "pairs.txt"
    with tqdm(total=len(pairs), desc="matching", unit="pair") as progress:
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            part = pairs[start:start + PAIRS_AT_ONCE]
            listing.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in part),
                               encoding="utf-8")
            pairing = pycolmap.ImportedPairingOptions()
            pairing.match_list_path = listing
            pycolmap.match_image_pairs(work / "database.db", matching_options=options,
                                       pairing_options=pairing)
            progress.update(len(part))


def _map(pycolmap: ModuleType, work: Path, names: list[str], num_threads: int) -> Path:
    """Return the folder of the largest model that incremental reconstruction finds.

    Without EXIF the focal length is a guess, and a bad one can stop the reconstruction after two
    photographs: other guesses are tried until enough are placed.
    """
    best, best_folder = None, work
    for attempt, factor in enumerate(FOCAL_FACTORS):
        if best is not None and best.num_reg_images() >= ENOUGH_PLACED * len(names):
            break
        if factor is not None and not _guess_focal(pycolmap, work, factor):
            break
        folder = work / f"models_{attempt}"
        models = _reconstruct(pycolmap, work, folder, names=names, num_threads=num_threads)
        for key, model in models.items():
            if best is None or model.num_reg_images() > best.num_reg_images():
                best, best_folder = model, folder / str(key)
    if best is None:
        raise SceneError(f"{work}: COLMAP could place no two photographs, need overlapping, sharp "
                         "pictures of a textured object; take more, 10 degrees apart, or put a "
                         "newspaper under the object")
    if best.num_reg_images() >= REFINE_CENTER_FROM:
        final = pycolmap.BundleAdjustmentOptions()
        final.refine_principal_point = True
        pycolmap.bundle_adjustment(best, final)
        best.write(best_folder)
    log.info("COLMAP placed %d of %d photographs, mean error %.2f pixels", best.num_reg_images(),
                len(names), best.compute_mean_reprojection_error())
    return best_folder


def _reconstruct(pycolmap: ModuleType, work: Path, folder: Path, *, names: list[str],
                 num_threads: int) -> dict:
    """Run an incremental reconstruction and return its models by number.

    They are also written to the folder. Only the images of these names take part: the database may
    have others, of photographs that are no longer there.
    """
    num_photos = len(names)
    options = pycolmap.IncrementalPipelineOptions()
    options.image_names = names
    options.num_threads, options.random_seed = num_threads, SEED
    options.min_model_size, options.extract_colors = min(10, max(3, num_photos // 2)), False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tqdm(total=num_photos, desc="placing cameras", unit="photo") as progress:
        return pycolmap.incremental_mapping(
            work / "database.db", work / "images", folder, options=options,
            initial_image_pair_callback=lambda: progress.update(2),
            next_image_callback=lambda: progress.update(1))


def _guess_focal(pycolmap: ModuleType, work: Path, factor: float) -> bool:
    """Set the first focal length to `factor` longer sides; return False where EXIF states it."""
    database = pycolmap.Database.open(work / "database.db")
    try:
        guessed = [camera for camera in database.read_all_cameras()
                   if not camera.has_prior_focal_length]
        for camera in guessed:
            camera.params = [factor * max(camera.width, camera.height), *camera.params[1:]]
            database.update_camera(camera)
        return bool(guessed)
    finally:
        database.close()
