"""Views as sources, targets and training data; the draw of each step; their traced surfaces."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import CheckpointError
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Surface

CAMERA_MATRICES = ("view", "projection", "model")
#: Cameras are the same up to this fraction of their largest entry: files of one scene are read with
#: other rounding on other machines, far below what a pixel is (1e-3).
CAMERA_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TrainingViews:
    """The photographs a scene is trained on.

    Attributes:
        images: (V, 3, H, W) RGB in [0, 1].
        masks: (V, 1, H, W) bool.
        cameras: V cameras.
        names: of the views, for pictures.
    """

    images: Tensor
    masks: Tensor
    cameras: Cameras
    names: tuple[str, ...] = ()
    _rims: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def key(self) -> str:
        """A short name of these photographs and masks, equal only for equal ones."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.masks):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def rim_masks(self, reach_obj: float) -> Tensor:
        """(V, 1, H, W) bool, pixels of the object so near to what is not, object units."""
        width = math.ceil(reach_obj / self._pixel_size_obj)
        if width not in self._rims:
            off = (~self.masks).to(self.images.dtype)
            near = F.max_pool2d(off, (2 * width + 1, 1), 1, (width, 0))
            near = F.max_pool2d(near, (1, 2 * width + 1), 1, (0, width))
            self._rims[width] = self.masks & (near > 0.5)
        return self._rims[width]

    @cached_property
    def _pixel_size_obj(self) -> float:
        return self.cameras.pixel_size_obj

    @cached_property
    def inner_masks(self) -> Tensor:
        """(V, 1, H, W) bool, pixels all of whose neighbours show the object: none is mixed."""
        return -F.max_pool2d(-self.masks.to(self.images.dtype), 3, 1, 1) > 0.5

    def to(self, device: torch.device | str) -> TrainingViews:
        """Same views on another device."""
        return TrainingViews(self.images.to(device), self.masks.to(device),
                             self.cameras.to(device), self.names)


@dataclass(frozen=True)
class Sources:
    """K source views.

    Attributes:
        cameras: K cameras.
        images: (K, 3, H, W) RGB in [0, 1].
        masks: (K, 1, H, W) bool, object.
        surface: what the sources see of the surface.
    """

    cameras: Cameras
    images: Tensor
    masks: Tensor
    surface: Surface

    def __getitem__(self, index) -> Sources:
        """The sources of an index tensor or list."""
        surface = Surface(self.surface.points_obj[index], self.surface.hit_mask[index])
        return Sources(self.cameras[index], self.images[index], self.masks[index], surface)


@dataclass(frozen=True)
class Targets:
    """T target views.

    Attributes:
        surface: points (T, 3, H, W), which may carry a gradient, and hit mask.
        dirs_obj: (T, 3, H, W) unit ray directions of each target's own pixels, object space.
        own_source_mask: (K, T) bool, source k is target t itself and must not feed it.
    """

    surface: Surface
    dirs_obj: Tensor
    own_source_mask: Tensor


@dataclass(frozen=True)
class Batch:
    """Views of one step: indices into the training views.

    Attributes:
        sources: (K,).
        targets: (T,), each one of the sources.
    """

    sources: Tensor
    targets: Tensor


class ViewSampler:
    """Draws source and target views (docs/method.md, section 7): k sources, l of them also targets.

    Args:
        cameras: the training cameras.
        num_sources: k; more than there are, or not positive, means all.
        num_targets: l, at most k.
        nearest: sources are the views nearest in direction from the object to the first target,
            else drawn at random.
    """

    def __init__(self, cameras: Cameras, num_sources: int, num_targets: int,
                 *, nearest: bool = False) -> None:
        count = len(cameras)
        self.num_views = count
        self.num_sources = count if num_sources <= 0 else min(num_sources, count)
        self.num_targets = min(num_targets, self.num_sources)
        self.by_angle = None
        if nearest:
            dirs = F.normalize(cameras.centers_obj.cpu(), dim=-1)
            self.by_angle = (dirs @ dirs.T).argsort(1, descending=True)                    # (V, V)

    def draw(self, generator: torch.Generator) -> Batch:
        """One batch; the generator lives on the CPU."""
        order = torch.randperm(self.num_views, generator=generator)
        if self.by_angle is not None:
            near = self.by_angle[order[0]]
            order = torch.cat([order[:1], near[near != order[0]]])
        sources = order[:self.num_sources]
        others = sources[1:][torch.randperm(self.num_sources - 1, generator=generator)]
        targets = torch.cat([sources[:1], others[:self.num_targets - 1]])
        return Batch(sources.sort().values, targets)


def views_of(scene: Any, index: Sequence[int], device: torch.device | str) -> TrainingViews:
    """Views `index` of a scene on a device."""
    index = list(index)
    names = tuple(scene.view_names[i] for i in index)
    return TrainingViews(scene.images[index], scene.masks[index], scene.cameras[index],
                         names).to(device)


def check_views(views: TrainingViews, state: dict[str, Any]) -> None:
    """Raise CheckpointError where a `SceneTrainer`'s state is of other views or photographs."""
    before = state.get("views", list(views.names))
    if list(before) != list(views.names):
        raise CheckpointError(f"the run was trained on views {', '.join(before)}, now they are "
                              f"{', '.join(views.names)}; give the same --train_views, or "
                              "--restart 1 to delete that run")
    if state.get("photographs", views.key) != views.key:
        raise CheckpointError("the run was trained on other photographs or masks of the same "
                              "names, or at another --load_im_scale; give the same, or --restart 1 "
                              "to delete that run")


def check_cameras(views: TrainingViews, state: dict[str, Any]) -> None:
    """Raise CheckpointError where a `SceneTrainer`'s state is of other cameras, or of another
    object space: neither its surface nor what views saw of it would fit."""
    stored = state.get("cameras", {})
    if any(name not in stored for name in CAMERA_MATRICES):
        return
    now, before = (_object_to_clip(matrices) for matrices in (
        {name: getattr(views.cameras, name) for name in CAMERA_MATRICES}, stored))
    if now.shape == before.shape and (now - before).abs().max() <= CAMERA_TOLERANCE:
        return
    raise CheckpointError("the run was trained with other cameras, or with another object space "
                          "(--scene_normalization, --work_radius, --scene_radius_scale, "
                          "--randomize_cameras); give the same, --load_model_poses 1 to take the "
                          "cameras of the checkpoint, or --restart 1 to delete that run")


def _object_to_clip(matrices: dict[str, Tensor]) -> Tensor:
    """(V, 4, 4) from object to clip space, the largest entry of each 1."""
    projection, view, model = (matrices[name].double().cpu()
                               for name in ("projection", "view", "model"))
    product = projection @ view @ model
    return product / product.abs().amax((-1, -2), keepdim=True)


def with_poses(views: TrainingViews, state: dict[str, Any]) -> TrainingViews:
    """The views with the cameras of a `SceneTrainer`'s state, where it holds them.

    Raises:
        CheckpointError: the state is of other views.
    """
    stored = state.get("cameras", {})
    if any(name not in stored for name in CAMERA_MATRICES):
        return views
    check_views(views, state)
    device = views.images.device
    matrices = {name: stored[name].to(device) for name in CAMERA_MATRICES}
    return replace(views, cameras=replace(views.cameras, **matrices))


@dataclass(frozen=True)
class Correspondence:
    """Where targets' surface points lie in the sources.

    Attributes:
        uv_grid: (K, T, H, W, 2) grid_sample coordinates.
        counts_mask: (K, T, H, W) bool, the sample counts. With occlusion by correlation it means
            inside image and mask only; the rest of the test needs features.
        pixels: None, or of P pixels alone: (P,) int64, their numbers among all of the targets, row
            by row. T and H are 1 then, and W is P; samples of other pixels do not count.
    """

    uv_grid: Tensor
    counts_mask: Tensor
    pixels: Tensor | None = None

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """The N samples that count: source and target pixel, (N,) int64 each, and uv (N, 2)."""
        source, column = self.counts_mask.flatten(1).nonzero(as_tuple=True)
        uv = self.uv_grid.flatten(1, 3)[source, column]
        return source, column if self.pixels is None else self.pixels[column], uv
