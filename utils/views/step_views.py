"""The views of one training step: cameras of the sources, pixels and rays of the targets."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.devices import to_device
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, make_rays
from utils.views.pose_refinement import PoseTrainer
from utils.views.regions import ViewRegions
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.target_crops import CroppedTargets, CropSampler, TargetPixels, WholeTargets
from utils.views.training_views import Batch, TrainingViews, ViewSampler


@dataclass(frozen=True)
class StepViews:
    """What a step looks at.

    Attributes:
        drawn: the batch on the CPU, where no look at it makes the host wait.
        batch: the same on the views' device.
        cameras: K sources; with the graph of their refinement in steps that train it.
        targets: the pixels of the T targets that are rendered.
        dirs_obj: (T, 3, h, w) unit ray directions there, object space; differentiable likewise.
        rays: the same rays, flat, of refined cameras; None: those of the buffer.
        regions: what of the views is read; None: all of them.
    """

    drawn: Batch
    batch: Batch
    cameras: Cameras
    targets: TargetPixels
    dirs_obj: Tensor
    rays: Rays | None = None
    regions: ViewRegions | None = None

    def target_rays(self) -> Rays:
        """Return the rays through the targets' pixels, (T * h * w,)."""
        return self.targets.rays() if self.rays is None else self.rays

    @property
    def is_cropped(self) -> bool:
        """Whether a crop of each target is rendered, not all of it."""
        return isinstance(self.targets, CroppedTargets)

    @property
    def trains_cameras(self) -> bool:
        """Whether cameras get a gradient in this step."""
        return self.rays is not None and self.rays.dirs_obj.requires_grad

    @property
    def own_source_mask(self) -> Tensor:
        """(K, T) bool, source k is target t."""
        return self.batch.sources[:, None] == self.batch.targets[None]


@dataclass(frozen=True)
class ViewsInTraining:
    """The training views, and how each step draws from them.

    Attributes:
        views: all of them, on the model's device.
        sampler: draws sources and targets.
        crops: draws the part of each target that a step renders; None: whole targets.
        regions: parts of whole views that a step reads; None: it computes all.
        refiner: trains the cameras; None: they are as given.
        loads_poses: a run that resumes takes the cameras of its checkpoint.
    """

    views: TrainingViews
    sampler: ViewSampler
    crops: CropSampler | None = None
    regions: ViewRegions | None = None
    refiner: PoseTrainer | None = None
    loads_poses: bool = False

    def draw(self, generator: torch.Generator, buffer: SurfaceBuffer,
             cameras: Cameras | None = None) -> StepViews:
        """Draw the views of a step.

        Args:
            generator: on the CPU.
            buffer: of the training views; refined cameras move its rays.
            cameras: refined cameras of all views, with their graph where they are trained; None:
                those that the buffer was made with.
        """
        drawn, device = self.sampler.draw(generator), buffer.t.device
        batch = Batch(to_device(drawn.sources, device), to_device(drawn.targets, device))
        crops = self.crops and self.crops.draw(len(drawn.targets), generator).to(device)
        targets = (WholeTargets(buffer, batch.targets) if crops is None else
                   CroppedTargets(buffer, batch.targets, crops))
        regions = self.regions and self.regions.of(drawn.targets, drawn.sources)
        if cameras is None:
            return StepViews(drawn, batch, buffer.cameras[batch.sources], targets,
                             targets.cut(buffer.dirs[batch.targets]), regions=regions)
        sources = cameras[batch.sources]
        dirs, rays = refined_rays(batch, sources, targets, buffer)
        return StepViews(drawn, batch, sources, targets, dirs, rays, regions)


def refined_rays(batch: Batch, sources: Cameras, targets: TargetPixels,
                 buffer: SurfaceBuffer) -> tuple[Tensor, Rays]:
    """Return the targets' rays of refined cameras; the buffer's rays move along.

    Args:
        sources: K refined cameras, the targets' among them.
    Returns:
        Directions (T, 3, h, w) and the rays, flat (T * h * w,); both differentiable in the cameras.
    """
    origins, dirs = (part.permute(0, 3, 1, 2) for part in sources.pixel_rays())     # (K, 3, H, W)
    buffer.move(batch.sources, origins, dirs)
    place = (batch.sources[:, None] == batch.targets).int().argmax(0)  # of the targets, (T,)
    origins, dirs = (targets.cut(part[place]) for part in (origins, dirs))
    flat = [part.permute(0, 2, 3, 1).reshape(-1, 3) for part in (origins, dirs)]
    return dirs, make_rays(*flat)
