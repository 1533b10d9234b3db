"""Training: one step as a list that reads downwards (docs/method.md, sections 6 and 7).

`utils.runs.loop` repeats it; plain training and meta-training share it.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from loss_functions import (
    CLOUD_WEIGHTS,
    SILHOUETTE_REACH,
    ShapeSupervision,
    eikonal_loss,
    image_loss,
    masked_psnr,
    match_points_loss,
    photo_consistency_loss,
    soft_mask_loss,
)
from scheduler import StepPlan, mask_loss_weight
from sdf_rendering import project_to_sources, sample_maps, visible_in_sources
from utils.checkpoints.storage import load_state
from utils.config.sections import DataConfig
from utils.devices import to_device
from utils.geometry.rays import Surface, Tracer, TraceResult
from utils.optimization.finite import FiniteGuard, keeping_statistics, running_statistics
from utils.optimization.parameter_groups import (
    clip_gradients,
    load_adam,
    make_optimizer,
    set_rates,
)
from utils.optimization.weight_average import WeightAverage
from utils.views.step_views import StepViews, ViewsInTraining
from utils.views.surface_buffer import SurfaceBuffer, fill_buffer
from utils.views.surface_diagnostics import SurfaceWatch
from utils.views.target_crops import touched_pixels
from utils.views.training_views import (
    CAMERA_MATRICES,
    Sources,
    Targets,
    TrainingViews,
    check_cameras,
    check_views,
    with_poses,
)

AVERAGED = ("encoder", "aggregation", "decoder")


class Evaluation(Protocol):
    """Scores and draws what is trained; it holds no trainer, so that none refers to itself.

    Attributes:
        split: numbers of the scene's views by "train" and "test", for checkpoints.
    """

    split: dict[str, list[int]]

    def score(self, trainer: SceneTrainer, step: int) -> dict[str, float]:
        """Return mean metrics of the held-out views after `step` steps."""
        ...

    def pictures(self, trainer: SceneTrainer, step: int) -> dict[str, np.ndarray]:
        """Return image grids (H, W, 3) uint8 by name after `step` steps."""
        ...

    def forget(self) -> None:
        """Let go of what it keeps of these weights, as they are about to change."""
        ...


class SceneTrainer:
    """One scene's model, views, traced surfaces and optimiser; a `Task` of the loop.

    Args:
        model: `modules_sdf.ImageBasedModel`, trained in place.
        views: on the model's device; how a step draws from them.
        tracer: finds the surface and evaluates the SDF for losses.
        shape: what the shape is compared with.
        plan: step number to the settings of that step.
        generator: on the CPU; all that is random in a step comes from it.
        evaluation: scores and draws; None: neither.
    """

    def __init__(self, model: nn.Module, views: ViewsInTraining, *, tracer: Tracer,
                 shape: ShapeSupervision, plan: Callable[[int], StepPlan],
                 generator: torch.Generator, evaluation: Evaluation | None = None) -> None:
        self.model, self.sampled, self.tracer, self.shape = model, views, tracer, shape
        self.plan, self.generator, self.evaluation = plan, generator, evaluation
        self.views, self.refiner = views.views, views.refiner
        self.is_refined = self.refiner is not None
        self.buffer = SurfaceBuffer(self.views.cameras)
        self.watch = SurfaceWatch(self.views.names, self.device)
        self.optimizer = make_optimizer(model)
        self.average = WeightAverage(model, AVERAGED, plan(0).average_decay)
        self.guard, self.statistics = FiniteGuard(), running_statistics(model)
        self.rate_factor = 1.0
        self.psnr: Tensor | None = None                    # of the last step's targets

    @property
    def device(self) -> torch.device:
        """The device of views and model."""
        return self.views.images.device

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Take one step: batch, forward, losses, weighted sum, finite check, backward, clip, Adam.

        Returns:
            Unweighted losses and the total, detached scalars.
        Raises:
            FloatingPointError: on a CPU, a loss is not finite; nothing was updated. For GPUs see
                `FiniteGuard`.
        """
        if self.evaluation:
            self.evaluation.forget()
        plan = self.plan(step).scaled(self.rate_factor)
        try:
            with keeping_statistics(self.statistics):
                losses = self.take(plan)
        except FloatingPointError:
            self.buffer.drop_not_finite()
            raise
        return {name: loss.detach() for name, loss in losses.items()}

    def take(self, plan: StepPlan) -> dict[str, Tensor]:
        """Return the losses of a batch drawn now, after the update by their gradients."""
        losses = self.losses(plan)
        if losses["total"].requires_grad:                  # else this step has nothing to train
            self.optimizer.zero_grad(set_to_none=True)
            losses["total"].backward()
            losses["total"] = self.update(losses["total"], plan)
        return losses

    def losses(self, plan: StepPlan) -> dict[str, Tensor]:
        """Return unweighted losses of a batch drawn now, and their weighted "total"."""
        views = self.sampled.draw(self.generator, self.buffer, self.refined_cameras(plan))
        losses, surface = {}, None
        if plan.train_shape:
            with self.model.execution.passes(self.model.sdf):
                surface, losses = self.shape_losses(views, plan)
            self.buffer.mark_traced(views.drawn.targets)
        if not views.is_cropped:
            self.trace(self.buffer.untraced(views.drawn.sources))   # targets are among the sources
        if surface is None:
            surface = self.buffered_surface(views)
        if views.is_cropped:
            self.trace_seen(views, surface)
        losses["image"] = self.image_loss(views, surface, plan)
        if plan.train_shape and self.shape.loss.photo_consistency_weight:
            losses["photo_consistency"] = self.photo_consistency(views, surface, plan)
        weights = self.weights(plan)
        total = sum(weights[name] * loss for name, loss in losses.items())
        self.guard.check_losses(total, losses)
        return losses | {"total": total}

    def shape_losses(self, views: StepViews,
                     plan: StepPlan) -> tuple[Surface, dict[str, Tensor]]:
        """Trace the targets: their differentiable surface, and the losses on the shape."""
        sdf, rays, targets = self.model.sdf, views.target_rays(), views.targets
        found = self.tracer.trace(sdf, rays)
        masks = targets.cut(self.views.masks[views.batch.targets])
        self.watch.note(views.batch.targets, found.hit_mask, masks)
        surface = self.traced_surface(views, found)
        weight = None if targets.weight is None else targets.weight.reshape(-1)
        soft_mask = soft_mask_loss(self.tracer, sdf, rays, masks.reshape(-1),
                                   hit_mask=found.hit_mask, alpha=plan.alpha,
                                   rim_mask=self.rim_mask(views, plan.alpha), weight=weight)
        losses = {"soft_mask": soft_mask * len(views.batch.targets)}
        if self.shape.loss.opt_sdf_eikonal:
            losses["eikonal"] = eikonal_loss(self.tracer, sdf, self.eikonal_points(),
                                             self.shape.loss.loss_eikonal_metric,
                                             num_drawn=self.shape.num_points)
        if self.shape.cloud is not None:
            losses |= self.shape.cloud_losses(sdf, self.generator, self.device)
        if self.shape.matches is not None and len(self.shape.matches.points):
            losses["match_points"] = self.match_points()
        return surface, losses

    def rim_mask(self, views: StepViews, alpha: float) -> Tensor | None:
        """Rays (R,) of the targets whose silhouette counts though they hit; None: none do."""
        if not self.shape.loss.soft_mask_rim:
            return None
        rims = self.views.rim_masks(SILHOUETTE_REACH / alpha)
        return views.targets.cut(rims[views.batch.targets]).reshape(-1)

    def weights(self, plan: StepPlan) -> dict[str, float]:
        """Return the weights of all losses, by name."""
        loss = self.shape.loss
        return {"soft_mask": mask_loss_weight(plan.alpha), "image": 1.0,
                "eikonal": loss.opt_sdf_eikonal_w,
                "photo_consistency": loss.photo_consistency_weight,
                "match_points": loss.match_points_weight, **CLOUD_WEIGHTS}

    def eikonal_points(self) -> Tensor:
        """Draw the points of the eikonal term, uniform in [-1, 1]^3; those (N, 3) that count."""
        points = self.shape.uniform_points(self.generator)
        if self.shape.in_sphere_only:
            points = points[points.square().sum(-1) < 1]
        return to_device(points.to(self.views.images.dtype), self.device)

    def match_points(self) -> Tensor:
        """How far Phi is from 0 where photographs match; points that it hides are left out."""
        matches = self.shape.matches.points
        points_obj = matches.points_obj(self.current_views().cameras)
        return match_points_loss(self.tracer, self.model.sdf, points_obj,
                                 matches.counts_mask(points_obj, self.buffer))

    def image_loss(self, views: StepViews, surface: Surface, plan: StepPlan) -> Tensor:
        """Difference of rendered targets and photographs; sources never feed themselves."""
        batch, cut, weight = views.batch, views.targets.cut, views.targets.weight
        sources = Sources(views.cameras, self.views.images[batch.sources],
                          self.views.masks[batch.sources], self.buffer.surface(batch.sources))
        targets = Targets(surface, views.dirs_obj, views.own_source_mask)
        photographs, masks = self.views.images[batch.targets], self.views.masks[batch.targets]
        prediction = self.model(targets, sources, plan.occ_threshold, regions=views.regions,
                                crops_sources=views.is_cropped)
        self.psnr = masked_psnr(prediction, cut(photographs), cut(masks))
        region = self.shape.loss.image_loss_region
        if weight is not None and region == "foreground":      # of the whole image, not the crop
            fraction = masks.to(weight.dtype).mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
            weight, region = weight / fraction, "all"
        return image_loss(prediction, cut(photographs), cut(masks), self.shape.loss.color_loss,
                          region=region, weight=weight)

    def photo_consistency(self, views: StepViews, surface: Surface, plan: StepPlan) -> Tensor:
        """How far windows of the targets differ in the sources, along the surface.

        Pixels at the outline are left out, as they are mixed with background: with them the loss is
        least on a surface that is too small.
        """
        batch, cut = views.batch, views.targets.cut
        inner = self.views.inner_masks
        grey = self.views.images.mean(1, keepdim=True)                 # (V, 1, H, W)
        uv_grid, inside_mask = project_to_sources(surface.points_obj, views.cameras)
        visible = visible_in_sources(surface, self.buffer.surface(batch.sources),
                                     inner[batch.sources], uv_grid, inside_mask=inside_mask,
                                     occ_threshold=plan.occ_threshold)
        counts = visible & cut(inner[batch.targets])[:, 0] & \
            ~views.own_source_mask[:, :, None, None]                   # (K, T, h, w)
        theirs = sample_maps(grey[batch.sources], uv_grid)[:, :, 0]
        return photo_consistency_loss(cut(grey[batch.targets])[:, 0], theirs, counts)

    def update(self, total: Tensor, plan: StepPlan) -> Tensor:
        """Clip, finite check, step of Adam, average. Returns the total as the check leaves it."""
        if not plan.train_shape:
            self.model.sdf.zero_grad(set_to_none=True)     # Adam's moments must not decay
        norm = clip_gradients(self.model, self.optimizer, in_parts=plan.clip_parts)
        parameters = list(self.model.parameters())
        if self.refiner is not None:
            norm = torch.hypot(norm, self.refiner.norm())
            parameters += self.refiner.poses.parameters()
        total = self.guard.check_gradients(total, norm, parameters)
        set_rates(self.optimizer, plan.lr_sdf, plan.lr)
        self.optimizer.step()
        if self.refiner is not None:
            self.refiner.update(plan.lr_cameras)
        self.average.update()
        return total

    def traced_surface(self, views: StepViews, found: TraceResult) -> Surface:
        """Surface of the targets, differentiable at the hits; the buffer is refreshed with it."""
        points, t = self.tracer.hits(self.model.sdf, views.target_rays(), found)
        views.targets.store(t, found.hit_mask)
        hits = views.targets.cut(self.buffer.hit_mask[views.batch.targets])    # (T, 1, h, w)
        points = points.reshape(len(hits), *hits.shape[2:], 3).permute(0, 3, 1, 2)
        return Surface(points, hits)

    def buffered_surface(self, views: StepViews) -> Surface:
        """The targets' surface in a step that does not train the shape.

        Cameras that are trained move the hits along it; crops are traced, as what the buffer has
        of them may be long out of date.
        """
        targets = views.targets
        if views.is_cropped:
            found = self.tracer.trace(self.model.sdf, views.target_rays())
            targets.store(found.t, found.hit_mask)
        if not views.trains_cameras:
            return targets.surface()
        t, hit_mask = (targets.cut(x[views.batch.targets]).reshape(-1)
                       for x in (self.buffer.t, self.buffer.hit_mask))
        return self.traced_surface(views, TraceResult(t, hit_mask))

    def trace_seen(self, views: StepViews, surface: Surface) -> None:
        """Trace the sources where they show the targets' surface: occlusion reads nothing else."""
        with torch.no_grad():
            uv_grid, inside_mask = project_to_sources(surface.points_obj, views.cameras)
            shown = surface.hit_mask[:, 0]
            if self.model.settings.sampling == "release":
                shown = torch.ones_like(shown)             # features are taken there too
            counts = inside_mask & shown & ~views.own_source_mask[:, :, None, None]
            height, width = self.buffer.t.shape[2:]
            pixels = touched_pixels(uv_grid.flatten(1, 3), counts.flatten(1), (width, height))
            view = views.batch.sources[pixels // (height * width)]
            pixels = view * (height * width) + pixels % (height * width)
            found = self.tracer.trace(self.model.sdf, self.buffer.rays_of_pixels(pixels))
            self.buffer.store_pixels(pixels, found.t, found.hit_mask)

    def trace_first(self, data: DataConfig) -> None:
        """Fill the buffer, from disk where flags say so; with crops each step traces for itself."""
        if self.sampled.crops is None:
            fill_buffer(self.buffer, self.model.sdf, self.views.cameras, self.trace_all, data=data,
                        tracer=type(self.tracer).__name__)

    def trace_all(self) -> None:
        """Fill the buffer: the surface as every training view sees it."""
        self.trace(torch.arange(len(self.views)))

    def trace(self, index: Tensor) -> None:
        """Put the surface as views `index` see it now into the buffer."""
        if len(index):
            self.buffer.mark_traced(index)
            index = to_device(index, self.device)
            result = self.tracer.trace(self.model.sdf, self.buffer.rays(index))
            self.buffer.store(index, result.t, result.hit_mask)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def refined_cameras(self, plan: StepPlan) -> Any:
        """Cameras of all views in a step, with their graph where it trains them; None: as given."""
        return self.refiner and self.refiner.cameras(plan.lr_cameras)

    def current_views(self) -> TrainingViews:
        """Return the training views with their cameras of this moment."""
        if self.refiner is None:
            return self.views
        return replace(self.views, cameras=self.refiner.poses.refined())

    def step_kind(self, step: int) -> str:
        """Return "shape" or "image", what the step trains."""
        return "shape" if self.plan(step).train_shape else "image"

    def scalars(self, step: int) -> dict[str, float]:
        """Return rates, schedules and the PSNR of the targets after `step` steps, by tag."""
        plan = self.plan(max(step - 1, 0)).scaled(self.rate_factor)
        found = {"rates/lr_sdf": plan.lr_sdf, "rates/lr": plan.lr, "schedule/alpha": plan.alpha,
                 "schedule/occ_threshold": plan.occ_threshold}
        found |= {} if self.refiner is None else {"rates/lr_cameras": plan.lr_cameras}
        return found if self.psnr is None else found | {"train/psnr": float(self.psnr)}

    def warnings(self) -> dict[str, str]:
        """Views that see no surface, and a surface that left the sphere."""
        return self.watch.warnings(self.model.sdf)

    def score(self, step: int) -> dict[str, float]:
        """Mean metrics of the held-out views after `step` steps; empty without an evaluation."""
        return self.evaluation.score(self, step) if self.evaluation else {}

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Image grids by name after `step` steps; empty without an evaluation."""
        return self.evaluation.pictures(self, step) if self.evaluation else {}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, traced surfaces and the sampler's random state."""
        matches = self.shape.matches
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(), "surface": self.buffer.state_dict(),
                "generator": self.generator.get_state(),
                "views": list(self.views.names), "photographs": self.views.key,
                "split": self.evaluation.split if self.evaluation else {},
                "cameras": {name: getattr(self.current_views().cameras, name)
                            for name in CAMERA_MATRICES},
                **({"matches": matches.state_dict()} if matches is not None else {}),
                **({"poses": self.refiner.state_dict()} if self.refiner else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; CheckpointError when it is another architecture's."""
        check_views(self.views, state)
        if self.refiner is not None:
            self.refiner.load_state_dict(state.get("poses"))
        else:
            self.load_cameras(state)
        load_state(self.model, state["model"], "the run's checkpoint")
        load_adam(self.optimizer, state["optimizer"])
        self.average.load_state_dict(state.get("average"))
        self.buffer.load_state_dict(state["surface"])
        self.generator.set_state(state["generator"].cpu())
        if self.shape.matches is not None:
            self.shape.matches.load_state_dict(state.get("matches", {}))
        self.guard.forget()

    def load_cameras(self, state: dict[str, Any]) -> None:
        """Take a state's cameras where they were refined, or where the flags ask for them."""
        self.refiner, self.is_refined = None, "poses" in state
        if self.sampled.loads_poses or self.is_refined:
            self.views = with_poses(self.views, state)
            self.buffer = SurfaceBuffer(self.views.cameras)
        else:
            check_cameras(self.views, state)
