"""A scene folder as a `Scene`: photographs, masks and cameras in one object space.

object --model matrix--> world --view--> camera (OpenGL axes) --projection--> clip --> NDC
"""
from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_processing.point_clouds.ply_format import read_ply
from data_processing.scenes.folder import FoundScene
from data_processing.scenes.idr_format import is_idr_folder, read_idr_folder
from data_processing.scenes.images import (
    check_image,
    image_size,
    read_image,
    read_mask,
    scaled_size,
)
from data_processing.scenes.normalization import DEFAULT_ORDER, resolve_model_matrix
from data_processing.scenes.processed_format import is_processed_folder, read_processed_folder
from data_processing.scenes.scene_clouds import SURFACE_POINTS
from data_processing.scenes.splits import Split
from data_processing.scenes.world_origin import far_origin, moved_model, moved_view
from utils.errors import SceneError
from utils.files.limits import check_memory
from utils.geometry.cameras import Cameras

log = logging.getLogger(__name__)
#: A pixel of a view in memory: three floats, and a byte of the mask.
BYTES_A_PIXEL = 13


@dataclass(frozen=True)
class Scene:
    """V photographs of one object.

    Attributes:
        name: of the folder, or of the synthetic scene.
        images: (V, 3, H, W) float32 RGB in [0, 1], CPU.
        masks: (V, 1, H, W) bool, True on the object.
        cameras: V cameras, resolution (W, H).
        view_names: V names, in the order of the views.
        has_masks: False when no masks were found and all of every image counts as object.
        surface_points_world: (N, 3) float32 true surface points, world space, where known.
        surface_normals_world: (N, 3) float32 their unit normals, outward, where known.
        path: folder that it was read from, '' for a synthetic scene.
        mask_files: V paths of the masks, () when there are none.
        world_origin: what must be added to world space as it is here to get the folder's own, see
            `world_origin.py`; not 0 only where that is far away.
    """

    name: str
    images: Tensor
    masks: Tensor
    cameras: Cameras
    view_names: tuple[str, ...]
    has_masks: bool = True
    surface_points_world: Tensor | None = None
    surface_normals_world: Tensor | None = None
    path: str = ""
    mask_files: tuple[str, ...] = ()
    world_origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Check shapes; raise ValueError where the parts do not fit together."""
        num_views, (width, height) = len(self.cameras), self.cameras.resolution
        for what, tensor, channels in (("images", self.images, 3), ("masks", self.masks, 1)):
            if tuple(tensor.shape) != (num_views, channels, height, width):
                raise ValueError(f"{what} are {tuple(tensor.shape)}, need "
                                 f"{(num_views, channels, height, width)}")
        if len(self.view_names) != num_views:
            raise ValueError(f"{len(self.view_names)} view names for {num_views} views")

    def __len__(self) -> int:
        return len(self.cameras)


def load_scene(folder: str | Path, *, im_scale: float = 1.0,
               scene_normalization: str = DEFAULT_ORDER, work_radius: float = 0.99,
               scene_radius_scale: float = 1.0, load_pcd: bool = True,
               allow_behind: bool = False) -> Scene:
    """Read a scene folder of either format, which is recognised by its files.

    Args:
        folder: the scene, `--dataset_path`.
        im_scale: factor on the sides of images and masks, over 0 and at most 1; pixels are averaged
            by area.
        scene_normalization: order of the sources of the model matrix.
        work_radius: radius in object space that a normalising ball is scaled to.
        scene_radius_scale: factor on the radius of that ball.
        load_pcd: whether `merged/point_cloud_world.ply` may be read for the normalisation.
        allow_behind: read even a scene whose cameras all look away from the object, for a check.
    Raises:
        SceneError: the folder is not a scene or its files are bad; the message names the file.
        ConfigError: an option is out of range.
    """
    folder = Path(folder).expanduser()
    found, model = _read_cameras(folder, scene_normalization, work_radius=work_radius,
                                 scene_radius_scale=scene_radius_scale, load_pcd=load_pcd,
                                 allow_behind=allow_behind)
    images, masks = _read_pixels(found, im_scale)
    has_masks = found.files[0].mask is not None
    if not has_masks:
        log.warning("%s: no masks found: every pixel counts as object, so the background is "
                       "modelled too, the soft-mask loss cannot shape the outline, and mask IoU "
                       "says nothing", folder)
    origin = far_origin(found.view)
    if origin.any():
        log.info("%s: coordinates far from 0: world space is moved by %s, meshes too", folder,
                 (-origin).tolist())
    cameras = Cameras(*(torch.from_numpy(np.ascontiguousarray(matrix)).float()
                        for matrix in (moved_view(found.view, origin), found.projection,
                                       moved_model(model, origin))),
                      resolution=(images.shape[3], images.shape[2]))
    points, normals = _surface_points(folder / SURFACE_POINTS, origin)
    return Scene(folder.resolve().name, images, masks, cameras,
                 view_names=tuple(view.name for view in found.files), has_masks=has_masks,
                 surface_points_world=points, surface_normals_world=normals,
                 path=str(folder), world_origin=tuple(origin.tolist()),
                 mask_files=tuple(str(view.mask) for view in found.files) if has_masks else ())


@dataclass(frozen=True)
class SceneOutline:
    """What is known of a scene folder before its pixels are read.

    Attributes:
        path: the folder.
        num_views: V.
        resolution: (W, H) that the images will have.
    """

    path: Path
    num_views: int
    resolution: tuple[int, int]


def outline_scene(folder: str | Path, *, im_scale: float = 1.0,
                  scene_normalization: str = DEFAULT_ORDER, work_radius: float = 0.99,
                  scene_radius_scale: float = 1.0, load_pcd: bool = True) -> SceneOutline:
    """Check a scene folder without decoding its images: cameras, sizes, channels, whole files.

    Args:
        folder, and the options: as `load_scene` takes them.
    Raises:
        SceneError, ConfigError: as `load_scene`, except for what only the pixels tell.
    """
    folder = Path(folder).expanduser()
    found, _ = _read_cameras(folder, scene_normalization, work_radius=work_radius,
                             scene_radius_scale=scene_radius_scale, load_pcd=load_pcd)
    full_size = _check_sizes(found)
    for view in found.files:
        check_image(view.image)
    return SceneOutline(folder, len(found.files), scaled_size(full_size, im_scale))


def check_training_views(scene: Scene, split: Split) -> None:
    """Raise SceneError where the mask of a training view is empty: nothing is learned from it."""
    if not scene.has_masks:
        return
    width, height = scene.cameras.resolution
    for i in split.train:
        if not scene.masks[i].any():
            file = scene.mask_files[i] if scene.mask_files else scene.path or scene.name
            raise SceneError(f"{file}: the mask of training view {i} ({scene.view_names[i]}) is "
                             f"empty at {width}x{height}, need some foreground; fix the mask, or "
                             "leave the view out of --train_views")


def _read_cameras(folder: Path, scene_normalization: str, *, work_radius: float,
                  scene_radius_scale: float, load_pcd: bool,
                  allow_behind: bool = False) -> tuple[FoundScene, np.ndarray]:
    """Return everything of a scene but its pixels: files and cameras, and the model matrix."""
    found = read_folder(folder, bool(load_pcd))
    model = resolve_model_matrix(folder, scene_normalization, found.sources,
                                 work_radius=work_radius, scene_radius_scale=scene_radius_scale)
    if not allow_behind:
        _check_in_front(folder, found, model)
    return found, model


def read_folder(folder: Path, load_pcd: bool) -> FoundScene:
    """Read a folder with the reader whose files it has."""
    try:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no such folder"
            raise SceneError(f"{folder}: {what}, need a scene folder; check --dataset_path")
        is_processed, is_idr = is_processed_folder(folder), is_idr_folder(folder)
        if is_processed and is_idr:
            raise SceneError(f"{folder}: has files of both scene formats (NAME_rgb.png and image/ "
                             "or cameras.npz), need one; move the files of the other elsewhere")
        if is_processed:
            return read_processed_folder(folder, load_pcd)
        if is_idr:
            return read_idr_folder(folder, load_pcd)
    except PermissionError as problem:
        raise SceneError(f"{problem.filename or folder}: may not be read, need read permission; "
                         "fix it with chmod") from problem
    raise SceneError(f"{folder}: no views found, need NAME_rgb.png with NAME_rgb_meta.npy "
                     "(processed format) or image/, mask/ and cameras.npz (IDR format); point "
                     "--dataset_path at the folder of one scene")


def _check_in_front(folder: Path, found: FoundScene, model: np.ndarray) -> None:
    """Check that the centre of object space is in front of some camera, else the axes are wrong."""
    depth = (found.projection @ found.view @ model)[:, 3, 3]
    if (depth <= 0).all():
        raise SceneError(f"{folder}: the centre of object space is behind every camera, need "
                         "cameras that look at the object (view: world to camera, OpenGL axes, "
                         "looking down -z); flip y and z of OpenCV cameras, or fix the "
                         "normalisation")


def _read_pixels(found: FoundScene, im_scale: float) -> tuple[Tensor, Tensor]:
    """Return images (V, 3, H, W) float32 and masks (V, 1, H, W) bool."""
    width, height = scaled_size(_check_sizes(found), im_scale)
    num_views = len(found.files)
    check_memory(num_views * width * height * BYTES_A_PIXEL,
                 f"{num_views} views of {width}x{height} pixels ({found.files[0].image.parent})",
                 "give a smaller --load_im_scale or take views out", error=SceneError)
    images = torch.empty(len(found.files), 3, height, width)
    masks = torch.ones(len(found.files), 1, height, width, dtype=torch.bool)
    for i, view in enumerate(found.files):
        images[i] = torch.from_numpy(read_image(view.image, im_scale)).permute(2, 0, 1)  # (3, H, W)
        if view.mask is not None:
            mask = read_mask(view.mask, im_scale, least_foreground=found.least_foreground)
            masks[i, 0] = torch.from_numpy(mask)
    return images, masks


def _check_sizes(found: FoundScene) -> tuple[int, int]:
    """Return (W, H) of all images and masks of a scene; raise SceneError where one differs."""
    full_size = image_size(found.files[0].image)
    for view in found.files:
        _check_size(view.image, full_size, found.files[0].image)
        if view.mask is not None:
            _check_size(view.mask, full_size, view.image)
    return full_size


def _check_size(path: Path, needed: tuple[int, int], other: Path) -> None:
    """Raise SceneError where an image has another size than needed."""
    width, height = image_size(path)
    if (width, height) != needed:
        raise SceneError(f"{path}: {width}x{height} pixels, need {needed[0]}x{needed[1]} as "
                         f"{other.name} has; scale or crop it alike (and its camera with it)")


def _surface_points(path: Path, origin: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
    """Return the true surface points (N, 3) float32 of a file, relative to `origin`, and normals.

    Both are None without the file, the unit normals also where it has none that are all usable.
    """
    if not path.is_file():
        return None, None
    found = read_ply(path)
    points = torch.from_numpy(found.points - origin).float()
    if found.normals is None:
        return points, None
    normals = torch.from_numpy(found.normals).float()
    lengths = normals.norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        log.warning("%s: some normals are not finite or have no length: none is used", path)
        return points, None
    return points, normals / lengths
