"""Views as sources, targets and training data; the draw of each step; their traced surfaces."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.geometry.cameras import Cameras
from utils.errors import CheckpointError
from utils.geometry.rays import Rays, Surface, make_rays

CAMERA_MATRICES = ("view", "projection", "model")
#: Cameras are the same up to this share of their largest entry: files of one scene are read with
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

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def key(self) -> str:
        """A short name of these photographs and masks, equal only for equal ones."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.masks):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

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
    """Draws source and target views (METHOD 7): k sources, l of them also targets.

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


class SurfaceBuffer:
    """What every training view saw of the surface when it was last traced.

    Kept as distances along each pixel's ray, so that a checkpoint restores it to the bit. Views
    that never were traced are known, so that a short run need not begin with all of them.
    """

    def __init__(self, cameras: Cameras) -> None:
        origins, dirs = cameras.pixel_rays()                           # (V, H, W, 3)
        self.origins = origins.permute(0, 3, 1, 2).contiguous()        # (V, 3, H, W)
        self.dirs = dirs.permute(0, 3, 1, 2).contiguous()
        self.t = torch.zeros_like(self.dirs[:, :1])
        self.hit_mask = torch.zeros_like(self.t, dtype=torch.bool)
        self._is_traced = torch.zeros(len(cameras), dtype=torch.bool)  # on the CPU: no waiting

    def untraced(self, index: Tensor) -> Tensor:
        """Those of views `index` (on the CPU) that were never marked as traced."""
        return index[~self._is_traced[index]]

    def rays(self, index: Tensor) -> Rays:
        """Rays of views `index` (T,), flat: (T * H * W,)."""
        flat = [x[index].permute(0, 2, 3, 1).reshape(-1, 3) for x in (self.origins, self.dirs)]
        return make_rays(*flat)

    def store(self, index: Tensor, t: Tensor, hit_mask: Tensor) -> None:
        """Replace views `index` by (T * H * W,) distances and hits."""
        shape = (len(index), 1, *self.t.shape[2:])
        self.t[index] = t.detach().reshape(shape)
        self.hit_mask[index] = hit_mask.reshape(shape)

    def mark_traced(self, index: Tensor) -> None:
        """Views `index` (on the CPU) were stored."""
        self._is_traced[index] = True

    def rays_of_pixels(self, pixels: Tensor) -> Rays:
        """Rays through pixels (N,), numbers among all V * H * W."""
        height, width = self.t.shape[2:]
        view, place = pixels // (height * width), pixels % (height * width)
        row, column = place // width, place % width
        return make_rays(self.origins[view, :, row, column], self.dirs[view, :, row, column])

    def store_pixels(self, pixels: Tensor, t: Tensor, hit_mask: Tensor) -> None:
        """Replace single pixels (N,), numbers among all V * H * W."""
        self.t.view(-1)[pixels] = t.detach()
        self.hit_mask.view(-1)[pixels] = hit_mask

    def move(self, index: Tensor, origins: Tensor, dirs: Tensor) -> None:
        """Other rays of views `index`: (K, 3, H, W) each; distances stay."""
        self.origins[index], self.dirs[index] = origins.detach(), dirs.detach()

    def drop_not_finite(self) -> None:
        """Distances that are not finite become misses, until they are traced again."""
        bad = ~torch.isfinite(self.t)
        self.t[bad], self.hit_mask[bad] = 0.0, False

    def surface(self, index: Tensor) -> Surface:
        """Surface of views `index`, no gradient."""
        points = self.origins[index] + self.t[index] * self.dirs[index]
        return Surface(points, self.hit_mask[index])

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints."""
        return {"t": self.t.clone(), "hit_mask": self.hit_mask.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; raises ValueError for other views or sizes."""
        if state["t"].shape != self.t.shape:
            raise ValueError(f"buffered surface is {tuple(state['t'].shape)}, the training views "
                             f"need {tuple(self.t.shape)}")
        self.t.copy_(state["t"])
        self.hit_mask.copy_(state["hit_mask"])
        self._is_traced[:] = True


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
