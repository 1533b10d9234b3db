"""The views of one training step: cameras of the sources, pixels and rays of the targets."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, make_rays
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.target_crops import CroppedTargets, TargetPixels, WholeTargets, Windows
from utils.views.training_views import Batch


@dataclass(frozen=True)
class StepViews:
    """What a step looks at.

    Attributes:
        batch: on the views' device.
        cameras: K sources; with the graph of their refinement in steps that train it.
        targets: the pixels of the T targets that are rendered.
        dirs_obj: (T, 3, h, w) unit ray directions there, object space; differentiable likewise.
        rays: the same rays, flat, of refined cameras; None: those of the buffer.
    """

    batch: Batch
    cameras: Cameras
    targets: TargetPixels
    dirs_obj: Tensor
    rays: Rays | None = None

    def target_rays(self) -> Rays:
        """Rays through the targets' pixels, (T * h * w,)."""
        return self.targets.rays() if self.rays is None else self.rays

    @property
    def trains_cameras(self) -> bool:
        """Whether cameras get a gradient in this step."""
        return self.rays is not None and self.rays.dirs_obj.requires_grad

    @property
    def own_source_mask(self) -> Tensor:
        """(K, T) bool, source k is target t."""
        return self.batch.sources[:, None] == self.batch.targets[None]


def step_views(batch: Batch, cameras: Cameras, buffer: SurfaceBuffer,
               windows: Windows | None = None, *, is_refined: bool = False) -> StepViews:
    """The views of a batch.

    Args:
        batch: on the device.
        cameras: of all training views, with their graph where they are trained.
        buffer: of the training views; refined cameras move its rays.
        windows: crops of the targets, None: whole ones.
        is_refined: the cameras may differ from those that the buffer was made with.
    """
    targets = (WholeTargets(buffer, batch.targets) if windows is None else
               CroppedTargets(buffer, batch.targets, windows))
    sources = cameras[batch.sources]
    if not is_refined:
        return StepViews(batch, sources, targets, targets.cut(buffer.dirs[batch.targets]))
    origins, dirs = (part.permute(0, 3, 1, 2) for part in sources.pixel_rays())     # (K, 3, H, W)
    buffer.move(batch.sources, origins, dirs)
    place = (batch.sources[:, None] == batch.targets).int().argmax(0)  # of the targets, (T,)
    origins, dirs = (targets.cut(part[place]) for part in (origins, dirs))
    flat = [part.permute(0, 2, 3, 1).reshape(-1, 3) for part in (origins, dirs)]
    return StepViews(batch, sources, targets, dirs, make_rays(*flat))


def along_rays(rays: Rays, points_obj: Tensor) -> Tensor:
    """Constant points (R, 3) on R rays as functions of the rays: their distances stay."""
    with torch.no_grad():
        t = ((points_obj - rays.origins_obj) * rays.dirs_obj).sum(-1)
    return rays.points(t)
