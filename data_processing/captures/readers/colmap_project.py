"""COLMAP projects as captures: which model is read, and which images belong to it."""
from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from data_processing.captures.capture import Capture, CapturedView, make_capture
from data_processing.captures.paths import find_file
from data_processing.captures.readers.colmap_format import (
    BINARY,
    Pose,
    forms_in,
    read_cameras,
    read_points,
    read_poses,
)
from utils.errors import SceneError
from utils.files.limits import MAX_NAMED

log = logging.getLogger(__name__)
#: Where a project keeps its models: in such a folder itself, or each in one below it.
MODEL_PLACES = ("sparse", "colmap/sparse", "dense/sparse", "undistorted/sparse",
                "distorted/sparse", ".")
#: Images of a project, after those that lie beside the model's own place.
IMAGE_FOLDERS = ("images", "input", "image", "rgb", "dense/images", "undistorted/images", ".")
MAX_MODELS = 100


@dataclass(frozen=True)
class _Model:
    """A model of a project.

    Attributes:
        folder: of its files.
        end: their form, BINARY or TEXT.
        poses: of all its images.
        root: the folder of images that has most of them.
        num_present: how many of its images are there.
    """

    folder: Path
    end: str
    poses: list[Pose]
    root: Path
    num_present: int

    def name(self, project: Path) -> str:
        """Return its folder, relative to the project, and form in words."""
        place = self.folder.relative_to(project) if self.folder.is_relative_to(project) \
            else self.folder
        return f"{place} ({'binary' if self.end == BINARY else 'text'})"


def model_folders(folder: Path) -> list[Path]:
    """Return the folders of a project that hold cameras and images of a model."""
    found = []
    for name in MODEL_PLACES:
        place = folder / name
        below = sorted(place.iterdir()) if place.is_dir() else []
        if name == ".":
            below = [path for path in below if path.name.isdecimal()]
        found += [path for path in (place, *below) if forms_in(path)]
    return found[:MAX_MODELS]


def read_colmap(folder: Path, image_folder: Path | None = None) -> Capture:
    """Read the cameras and points of a COLMAP project.

    Of several models, and of a model in both forms, that is read which has the most images that
    are there. What the others hold is said in the capture's `source`.

    Args:
        folder: the project, or a model's own folder.
        image_folder: of the photographs; None looks in the usual places.
    Raises:
        SceneError: something is missing, damaged or of a camera model without a pinhole form.
    """
    model, others = _choose(folder, image_folder)
    cameras = read_cameras(model.folder, model.end)
    points = read_points(model.folder, model.end)
    views, left_out = [], []
    for pose in model.poses:
        where = f"{model.folder / 'images'}{model.end}: {pose.name[:MAX_NAMED]}"
        if pose.camera not in cameras:
            raise SceneError(f"{where}: camera {pose.camera}, which is not in cameras{model.end}; "
                             "export the model again")
        image = find_file(model.root, pose.name, where)
        if image is None:
            left_out.append(f"{pose.name[:MAX_NAMED]}: no such file in {model.root}")
            continue
        views.append(CapturedView(pose.name, image, pose.view, cameras[pose.camera]))
    rest = f"; not read: {', '.join(others)}" if others else ""
    return make_capture(f"COLMAP model {model.name(folder)}{rest}", folder, views,
                        points_world=points, left_out=tuple(left_out))


def _choose(folder: Path, image_folder: Path | None) -> tuple[_Model, list[str]]:
    """Return the model with the most images that are there, and words for each of the others."""
    models, problems = [], []
    for place in model_folders(folder):
        for end in forms_in(place):
            try:
                models.append(_look_at(folder, place, end, image_folder))
            except SceneError as problem:
                problems.append(problem)
    if not models and not problems:
        raise SceneError(f"{folder}: no cameras.bin with images.bin, nor .txt, need a sparse "
                         "model; point --input at the project")
    if not models:
        raise problems[0]
    best = max(models, key=lambda model: model.num_present)
    if not best.num_present:
        raise SceneError(f"{folder}: none of the model's {len(best.poses)} images found in "
                         f"{', '.join(IMAGE_FOLDERS[:3])}, need them in images/; copy them there")
    others = [f"{model.name(folder)} with {model.num_present} images" for model in models
              if model is not best]
    return best, [*others, *(f"damaged: {problem}" for problem in problems)]


def _look_at(folder: Path, place: Path, end: str, image_folder: Path | None) -> _Model:
    """Return a model with its poses and the usual place that has most of its photographs.

    Images beside the folder that holds the model go before those of the project: a model of
    undistorted images must not be read with the distorted ones.
    """
    poses = read_poses(place, end)
    if image_folder is not None:
        return _Model(place, end, poses, image_folder, _num_present(image_folder, poses))
    base = place.parent.parent if place.name != "sparse" else place.parent
    own = [base / "images"] if place != folder and base != folder else []
    if (folder / "distorted") in place.parents:
        own = [folder / "input"]
    roots = [*own, *(folder / name for name in IMAGE_FOLDERS),
             folder.parent / "images", folder.parent.parent / "images"]
    found = [_num_present(root, poses) for root in roots]
    root = roots[found.index(max(found))]
    return _Model(place, end, poses, root, max(found))


def _num_present(root: Path, poses: list[Pose]) -> int:
    """Return how many of the poses' images a folder has."""
    if not root.is_dir():
        return 0
    return sum(find_file(root, pose.name, "name of an image") is not None for pose in poses)
