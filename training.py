"""Training: one step as a list that reads downwards (METHOD 6, 7); `utils.runs.loop` repeats it."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loss_functions import (
    CLOUD_WEIGHTS,
    eikonal_terms,
    image_loss,
    normal_loss,
    off_surface_loss,
    on_surface_loss,
    soft_mask_terms,
)
from scheduler import StepPlan, mask_loss_weight
from sdf_rendering import differentiable_hits, project_to_sources
from utils.checkpoints.storage import load_state
from utils.config.sections import DataConfig, LossConfig
from utils.devices import to_device
from utils.fast.image_networks.regions import ViewWindows
from utils.geometry.rays import Rays, Surface, Tracer, TraceResult
from utils.geometry.sdf import gradient
from utils.optimization.finite import FiniteGuard, keeping_statistics, running_statistics
from utils.optimization.parameter_groups import make_optimizer, set_rates
from utils.optimization.weight_average import WeightAverage
from utils.views.pose_refinement import PoseTrainer
from utils.views.step_views import StepViews, along_rays, step_views
from utils.views.surface_buffer import SurfaceBuffer, fill_buffer
from utils.views.surface_diagnostics import SurfaceWatch
from utils.views.target_crops import CropSampler, TargetPixels, touched_pixels
from utils.views.training_views import (
    CAMERA_MATRICES,
    Batch,
    Sources,
    Targets,
    TrainingViews,
    ViewSampler,
    check_cameras,
    check_views,
    with_poses,
)

#: alpha * SDF above which the soft-mask term (under 4e-4) of a ray off the mask may be left out: a
#: third of the points, for 0.1 % of the gradient.
NEGLIGIBLE = 8.0
AVERAGED = ("encoder", "aggregation", "decoder")


class SceneTrainer:
    """One scene's model, views, traced surfaces and optimiser; a `Task` of the loop.

    Args:
        model: `modules_sdf.ImageBasedModel`, trained in place.
        views: on the model's device.
        sampler: draws the views of each step.
        tracer: finds the surface.
        loss: metrics and weights of the losses.
        plan: step number to the settings of that step.
        generator: on the CPU; all that is random in a step comes from it.
        num_eikonal_points: uniform points of [-1, 1]^3 a shape step.
        cloud: points_obj (N, 3) and normals_obj that supervise the shape too, or None.
        average_decay: of the averaged E, G and D that render views; 0: those of the last step.

    Attributes:
        crops: draws the part of each target that a step renders; None: whole targets.
        windows: parts of whole views that a step reads; None: it computes all.
        refiner: trains the cameras; None: they are as given.
        is_refined: the cameras are not those given, from this run or a checkpoint.
        rate_factor: what all rates are multiplied with.
    """

    def __init__(self, model: nn.Module, views: TrainingViews, sampler: ViewSampler,
                 *, tracer: Tracer, loss: LossConfig, plan: Callable[[int], StepPlan],
                 generator: torch.Generator, num_eikonal_points: int = 32768,
                 cloud: Any = None, average_decay: float = 0.0) -> None:
        self.model, self.views, self.sampler = model, views, sampler
        self.tracer, self.loss = tracer, loss
        self.num_eikonal_points, self.cloud = num_eikonal_points, cloud
        self.split: dict[str, list[int]] = {}
        self.loads_poses = False          # take the cameras of the checkpoint that one resumes
        self.crops: CropSampler | None = None
        self.windows: ViewWindows | None = None
        self.refiner: PoseTrainer | None = None
        self.is_refined = False
        self.plan, self.generator = plan, generator
        self.guard, self.rate_factor = FiniteGuard(), 1.0
        self.statistics = running_statistics(model)
        self.watch = SurfaceWatch(views.names, views.images.device)
        self.buffer = SurfaceBuffer(views.cameras)
        self.optimizer = make_optimizer(model)
        self.average = WeightAverage(model, AVERAGED, average_decay)
        self.score: Callable[[int], dict[str, float]] = lambda step: {}
        self.pictures: Callable[[int], dict[str, np.ndarray]] = lambda step: {}

    def trace_first(self, data: DataConfig) -> None:
        """Fill the buffer at the start of a run, from disk where the flags say so.

        With crops there is nothing to fill: each step traces what it needs.
        """
        if self.crops is not None:
            return
        fill_buffer(self.buffer, self.model.sdf, self.views.cameras, self.trace_all, data=data,
                    tracer=type(self.tracer).__name__)

    def trace_all(self) -> None:
        """Fill the buffer: the surface as every training view sees it."""
        self.trace(torch.arange(len(self.views)))

    def trace(self, index: Tensor) -> None:
        """Put the surface as views `index` see it now into the buffer."""
        if len(index):
            self.buffer.mark_traced(index)
            index = to_device(index, self.views.images.device)
            result = self.tracer.trace(self.model.sdf, self.buffer.rays(index))
            self.buffer.store(index, result.t, result.hit_mask)

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step: batch, forward, losses, weighted sum, finite check, backward, clip, update.

        Returns:
            Unweighted losses and the total, detached scalars.
        Raises:
            FloatingPointError: on a CPU, a loss is not finite; nothing was updated. For GPUs see
                `FiniteGuard`.
        """
        plan = self.plan(step).scaled(self.rate_factor)
        try:
            with keeping_statistics(self.statistics):
                losses = self.losses(plan)
                if losses["total"].requires_grad:          # else this step has nothing to train
                    losses["total"] = self.update(losses["total"], plan)
                    self.average.update()
        except FloatingPointError:
            self.buffer.drop_not_finite()
            raise
        return {name: loss.detach() for name, loss in losses.items()}

    def notices(self) -> dict[str, str]:
        """Views that see no surface, and a surface that left the sphere."""
        return self.watch.notices(self.model.sdf)

    def losses(self, plan: StepPlan) -> dict[str, Tensor]:
        """Unweighted losses of a batch drawn now, and their weighted "total" with its graph."""
        drawn, device = self.sampler.draw(self.generator), self.views.images.device
        batch = Batch(to_device(drawn.sources, device), to_device(drawn.targets, device))
        views = self.views_of_step(batch, plan)
        losses, weights = {}, {"image": 1.0}
        if plan.train_shape:
            surface, losses = self.shape_losses(views, plan)
            self.buffer.mark_traced(drawn.targets)
            weights |= {"soft_mask": mask_loss_weight(plan.alpha),
                        "eikonal": self.loss.opt_sdf_eikonal_w, **CLOUD_WEIGHTS}
        if self.crops is None:
            self.trace(self.buffer.untraced(drawn.sources))    # the targets are among the sources
        if not plan.train_shape:
            surface = self.standing_surface(views)
        if self.crops is not None:
            self.trace_seen(views, surface)
        losses["image"] = self.image_loss(views, surface, plan)
        total = sum(weights[name] * loss for name, loss in losses.items())
        self.guard.check_losses(total, losses)
        return losses | {"total": total}

    def update(self, total: Tensor, plan: StepPlan) -> Tensor:
        """Backward, clip, finite check, step of Adam. Returns the total as the check leaves it."""
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if not plan.train_shape:
            self.model.sdf.zero_grad(set_to_none=True)     # Adam's moments must not decay
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        parameters = list(self.model.parameters())
        if self.refiner is not None:
            norm = torch.hypot(norm, self.refiner.norm())
            parameters += self.refiner.poses.parameters()
        total = self.guard.check_gradients(total, norm, parameters)
        set_rates(self.optimizer, plan.lr_sdf, plan.lr)
        self.optimizer.step()
        if self.refiner is not None:
            self.refiner.update(plan.lr_cameras)
        return total

    def views_of_step(self, batch: Batch, plan: StepPlan) -> StepViews:
        """Cameras of a batch, and what of its targets is rendered."""
        windows = None
        if self.crops is not None:
            windows = self.crops.draw(len(batch.targets), self.generator)
            windows = windows.to(self.views.images.device)
        cameras = self.views.cameras
        if self.refiner is not None:
            cameras = self.refiner.cameras(plan.lr_cameras)
        return step_views(batch, cameras, self.buffer, windows,
                          is_refined=self.refiner is not None)

    def shape_losses(self, views: StepViews,
                     plan: StepPlan) -> tuple[Surface, dict[str, Tensor]]:
        """Trace the targets: their differentiable surface, and the losses on the shape."""
        sdf, rays = self.model.sdf, views.target_rays()
        with self.tracer.threads(sdf):
            found = self.tracer.trace(sdf, rays)
            self.watch.note(views.batch.targets, found.hit_mask,
                            views.targets.cut(self.views.masks[views.batch.targets]))
            surface = self.differentiable_surface(views.targets, rays, found)
            losses = {"soft_mask": self.soft_mask_loss(views, rays, found.hit_mask, plan.alpha)}
            if self.loss.opt_sdf_eikonal:
                losses["eikonal"] = self.eikonal_loss()
        if self.cloud is not None:
            losses |= self.cloud_losses()
        return surface, losses

    def standing_surface(self, views: StepViews) -> Surface:
        """The targets' surface in a step that does not train the shape.

        Cameras that are trained move the hits along it; crops are traced, as what the buffer has
        of them may be long out of date.
        """
        targets = views.targets
        if self.crops is not None:
            found = self.tracer.trace(self.model.sdf, views.target_rays())
            targets.store(found.t, found.hit_mask)
        if not views.trains_cameras:
            return targets.surface()
        t, hit_mask = (targets.cut(x[views.batch.targets]).reshape(-1)
                       for x in (self.buffer.t, self.buffer.hit_mask))
        return self.differentiable_surface(targets, views.target_rays(), TraceResult(t, hit_mask))

    def trace_seen(self, views: StepViews, surface: Surface) -> None:
        """Trace the sources where they show the targets' surface: occlusion reads nothing else."""
        with torch.no_grad():
            uv_grid, inside_mask = project_to_sources(surface.points_obj, views.cameras)
            counts = inside_mask & surface.hit_mask[:, 0]
            counts = counts & ~views.own_source_mask[:, :, None, None]             # (K, T, h, w)
            height, width = self.buffer.t.shape[2:]
            pixels = touched_pixels(uv_grid.flatten(1, 3), counts.flatten(1), (width, height))
            view = views.batch.sources[pixels // (height * width)]
            pixels = view * (height * width) + pixels % (height * width)
            found = self.tracer.trace(self.model.sdf, self.buffer.rays_of_pixels(pixels))
            self.buffer.store_pixels(pixels, found.t, found.hit_mask)

    def soft_mask_loss(self, views: StepViews, rays: Rays, hit_mask: Tensor,
                       alpha: float) -> Tensor:
        """Mean over the rays of each target, summed over targets (METHOD 6)."""
        sdf, targets = self.model.sdf, views.targets
        masks = targets.cut(self.views.masks[views.batch.targets]).reshape(-1)
        counts = rays.sphere_mask & ~(hit_mask & masks)
        # off the mask a far ray's term vanishes; on it, it is the greatest of all
        limits = torch.where(masks, torch.inf, NEGLIGIBLE / alpha)
        index, points = self.tracer.least_sdf(sdf, rays, counts, limits)
        weights = counts[index]
        if targets.weight is not None:
            weights = weights * targets.weight.reshape(-1)[index]

        def terms(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
            return soft_mask_terms(values, mask, alpha) * weight

        if views.trains_cameras:               # differentiable in the points, and so in the rays
            points = along_rays(rays[index], points)
            known, _ = self.tracer.value_and_slope(sdf, points.detach(), rays.dirs_obj[index])
            total = terms(self.tracer.values(sdf, points, known), masks[index], weights).sum()
        else:
            total = self.tracer.total_of_values(sdf, terms, points, masks[index], weights)
        return total / len(rays) * len(views.batch.targets)

    def eikonal_loss(self) -> Tensor:
        """Mean over uniform points of [-1, 1]^3."""
        points = torch.rand(self.num_eikonal_points, 3, generator=self.generator) * 2 - 1
        points = self.tracer.eikonal_points(points).to(self.views.images.dtype)
        points = to_device(points, self.views.images.device)
        terms = partial(eikonal_terms, metric=self.loss.loss_eikonal_metric)
        total = self.tracer.total_of_gradients(self.model.sdf, terms, points)
        return total / max(len(points), 1)

    def cloud_losses(self) -> dict[str, Tensor]:
        """Losses at points of the cloud and at uniform points of [-1, 1]^3 (METHOD 6)."""
        cloud, loss, device = self.cloud, self.loss, self.views.images.device
        chosen = torch.randint(len(cloud.points_obj), (self.num_eikonal_points,),
                               generator=self.generator)
        points = to_device(cloud.points_obj[chosen], device)
        sdf, grad = gradient(self.model.sdf, points, create_graph=True)
        terms = {"on_surface": on_surface_loss(sdf)} if loss.opt_sdf_onsurface else {}
        if loss.opt_sdf_offsurface:
            free = torch.rand(self.num_eikonal_points, 3, generator=self.generator) * 2 - 1
            terms["off_surface"] = off_surface_loss(self.model.sdf(to_device(free, device)))
        if loss.opt_sdf_normal and cloud.normals_obj is not None:
            terms["normal"] = normal_loss(grad, to_device(cloud.normals_obj[chosen], device))
        return terms

    def differentiable_surface(self, targets: TargetPixels, rays: Rays,
                               found: TraceResult) -> Surface:
        """Surface of the targets with gradient at the hits; the buffer is refreshed with it."""
        t, hit_mask, tracer = found.t, found.hit_mask, self.tracer
        hits = tracer.rows(hit_mask)                     # with others where tracers do not count
        hit_rays, known = rays[hits], found.tangents and found.tangents[hits]
        at = tracer.tangents(self.model.sdf, hit_rays, t[hits], known)
        sdf = partial(tracer.values, self.model.sdf, known=at.value)
        hit_points = torch.where(hit_mask[hits, None],
                                 differentiable_hits(sdf, hit_rays, at.t, at.slope),
                                 hit_rays.points(t[hits]))
        points = rays.points(t).index_copy(0, hits, hit_points)        # (T * h * w, 3)
        refined = ((hit_points.detach() - hit_rays.origins_obj) * hit_rays.dirs_obj).sum(-1)
        targets.store(t.index_copy(0, hits, refined.detach()), hit_mask)
        hits = targets.cut(self.buffer.hit_mask[targets.index])        # (T, 1, h, w)
        points = points.reshape(len(hits), *hits.shape[2:], 3).permute(0, 3, 1, 2)
        return Surface(points, hits)

    def image_loss(self, views: StepViews, surface: Surface, plan: StepPlan) -> Tensor:
        """Difference of rendered targets and photographs; sources never feed themselves."""
        batch, cut, weight = views.batch, views.targets.cut, views.targets.weight
        sources = Sources(views.cameras, self.views.images[batch.sources],
                          self.views.masks[batch.sources], self.buffer.surface(batch.sources))
        targets = Targets(surface, views.dirs_obj, views.own_source_mask)
        photographs, masks = self.views.images[batch.targets], self.views.masks[batch.targets]
        read = self.windows and self.windows.of(batch.targets, batch.sources)
        prediction = self.model(targets, sources, plan.occ_threshold, read=read,
                                in_windows=self.crops is not None)
        region = self.loss.image_loss_region
        if weight is not None and region == "foreground":      # of the whole image, not the crop
            share = masks.to(weight.dtype).mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
            weight, region = weight / share, "all"
        return image_loss(prediction, cut(photographs), cut(masks), self.loss.color_loss,
                          region=region, weight=weight)

    def current_views(self) -> TrainingViews:
        """The training views with their cameras of this moment."""
        if self.refiner is None:
            return self.views
        return replace(self.views, cameras=self.refiner.poses.refined())

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, traced surfaces and the sampler's random state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(), "surface": self.buffer.state_dict(),
                "generator": self.generator.get_state(),
                "views": list(self.views.names), "photographs": self.views.key, "split": self.split,
                "cameras": {name: getattr(self.current_views().cameras, name)
                            for name in CAMERA_MATRICES},
                **({"poses": self.refiner.state_dict()} if self.refiner else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; CheckpointError when it is another architecture's."""
        check_views(self.views, state)
        if self.refiner is not None:
            self.refiner.load_state_dict(state.get("poses"))
        else:
            self.load_cameras(state)
        load_state(self.model, state["model"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state.get("average"))
        self.buffer.load_state_dict(state["surface"])
        self.generator.set_state(state["generator"].cpu())
        self.guard.forget()

    def load_cameras(self, state: dict[str, Any]) -> None:
        """Take a state's cameras where they were refined, or where the flags ask for them."""
        self.refiner, self.is_refined = None, "poses" in state
        if self.loads_poses or self.is_refined:
            self.views = with_poses(self.views, state)
            self.buffer = SurfaceBuffer(self.views.cameras)
        else:
            check_cameras(self.views, state)
