"""Training: a step as a list that reads downwards (METHOD 6 and 7); `utils.loop` repeats it."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loss_functions import (
    CLOUD_WEIGHTS, eikonal_terms, image_loss, normal_loss, off_surface_loss, on_surface_loss,
    soft_mask_terms)
from scheduler import StepPlan, mask_loss_weight, plan_step
from sdf_meshing import Exhibit, mean_figures, picture_sheets
from sdf_rendering import Tracer, differentiable_hits, make_tracer
from utils.averaging import WeightAverage
from utils.cameras import Cameras
from utils.checkpoints import load_state
from utils.config import Config
from utils.config_sections import DataConfig
from utils.config_stages import LossConfig, TrainedPartsConfig
from utils.derivatives import gradient
from utils.devices import to_device
from utils.errors import ConfigError
from utils.finite import FiniteGuard
from utils.loop import steps_per_epoch
from utils.point_buffers import fill_buffer
from utils.rays import Rays, Surface
from utils.views import (
    CAMERA_MATRICES, Batch, Sources, SurfaceBuffer, Targets, TrainingViews, ViewSampler,
    check_views, with_poses)

#: alpha * SDF above which the soft-mask term (under 1e-5) of a ray off the mask may be left out.
NEGLIGIBLE = 12.0
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
        self.plan, self.generator = plan, generator
        self.guard = FiniteGuard()
        self.buffer = SurfaceBuffer(views.cameras)
        self.optimizer = make_optimizer(model)
        self.average = WeightAverage(model, AVERAGED, average_decay)
        self.score: Callable[[int], dict[str, float]] = lambda step: {}
        self.pictures: Callable[[int], dict[str, np.ndarray]] = lambda step: {}

    def trace_first(self, data: DataConfig) -> None:
        """Fill the buffer at the start of a run, from disk where the flags say so."""
        fill_buffer(self.buffer, self.model.sdf, self.views.cameras, self.trace_all, data=data,
                    tracer=type(self.tracer).__name__)

    def trace_all(self) -> None:
        """Fill the buffer: the surface as every training view sees it."""
        self.trace(torch.arange(len(self.views)))

    def trace(self, index: Tensor) -> None:
        """Put the surface as views `index` see it now into the buffer."""
        if len(index):
            index = index.to(self.views.images.device)
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
        plan = self.plan(step)
        losses = self.losses(plan)
        if losses["total"].requires_grad:                  # else this step has nothing to train
            losses["total"] = self.update(losses["total"], plan)
            self.average.update()
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, plan: StepPlan) -> dict[str, Tensor]:
        """Unweighted losses of a batch drawn now, and their weighted "total" with its graph."""
        drawn, device = self.sampler.draw(self.generator), self.views.images.device
        batch = Batch(to_device(drawn.sources, device), to_device(drawn.targets, device))
        losses, weights = {}, {"image": 1.0}
        if plan.train_shape:
            surface, losses = self.shape_losses(batch, plan)
            weights |= {"soft_mask": mask_loss_weight(plan.alpha),
                        "eikonal": self.loss.opt_sdf_eikonal_w, **CLOUD_WEIGHTS}
        self.trace(self.buffer.untraced(drawn.sources))    # the targets are among the sources
        if not plan.train_shape:
            surface = self.buffer.surface(batch.targets)
        losses["image"] = self.image_loss(batch, surface, plan)
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
        total = self.guard.check_gradients(total, norm, self.model.parameters())
        set_rates(self.optimizer, plan)
        self.optimizer.step()
        return total

    def shape_losses(self, batch: Batch,
                     plan: StepPlan) -> tuple[Surface, dict[str, Tensor]]:
        """Trace the targets: their differentiable surface, and the losses on the shape."""
        sdf, rays = self.model.sdf, self.buffer.rays(batch.targets)
        found = self.tracer.trace(sdf, rays)
        surface = self.differentiable_surface(batch, rays, found.t, found.hit_mask)
        losses = {"soft_mask": self.soft_mask_loss(batch, rays, found.hit_mask, plan.alpha)}
        if self.loss.opt_sdf_eikonal:
            losses["eikonal"] = self.eikonal_loss()
        if self.cloud is not None:
            losses |= self.cloud_losses()
        return surface, losses

    def soft_mask_loss(self, batch: Batch, rays: Rays, hit_mask: Tensor, alpha: float) -> Tensor:
        """Mean over the rays of each target, summed over targets (METHOD 6)."""
        sdf, masks = self.model.sdf, self.views.masks[batch.targets].reshape(-1)
        counts = rays.sphere_mask & ~(hit_mask & masks)
        # off the mask a far ray's term vanishes; on it, it is the greatest of all
        limits = torch.where(masks, torch.inf, NEGLIGIBLE / alpha)
        index, points = self.tracer.least_sdf(sdf, rays, counts, limits)

        def sum_of_terms(points: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
            return (soft_mask_terms(sdf(points), mask, alpha) * weight).sum()

        total = self.tracer.total(sdf, sum_of_terms, points, masks[index], counts[index])
        return total / len(rays) * len(batch.targets)

    def eikonal_loss(self) -> Tensor:
        """Mean over uniform points of [-1, 1]^3."""
        sdf, metric = self.model.sdf, self.loss.loss_eikonal_metric
        points = torch.rand(self.num_eikonal_points, 3, generator=self.generator) * 2 - 1
        points = self.tracer.eikonal_points(points).to(self.views.images.dtype)
        points = to_device(points, self.views.images.device)

        def sum_of_terms(points: Tensor) -> Tensor:
            return eikonal_terms(self.tracer.gradients(sdf, points), metric).sum()

        return self.tracer.total(sdf, sum_of_terms, points) / max(len(points), 1)

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

    def differentiable_surface(self, batch: Batch, rays: Rays, t: Tensor,
                               hit_mask: Tensor) -> Surface:
        """Surface of the targets with gradient at the hits; the buffer is refreshed with it."""
        hits = self.tracer.rows(hit_mask)                # with others where tracers do not count
        hit_rays = rays[hits]
        value, slope = self.tracer.value_and_slope(self.model.sdf, hit_rays.points(t[hits]),
                                                   hit_rays.dirs_obj)
        sdf = partial(self.tracer.values, self.model.sdf, known=value)
        hit_points = torch.where(hit_mask[hits, None],
                                 differentiable_hits(sdf, hit_rays, t[hits], slope),
                                 hit_rays.points(t[hits]))
        points = rays.points(t).index_copy(0, hits, hit_points)        # (T * H * W, 3)
        refined = ((hit_points.detach() - hit_rays.origins_obj) * hit_rays.dirs_obj).sum(-1)
        self.buffer.store(batch.targets, t.index_copy(0, hits, refined), hit_mask)
        height, width = self.buffer.t.shape[2:]
        points = points.reshape(-1, height, width, 3).permute(0, 3, 1, 2)
        return Surface(points, self.buffer.hit_mask[batch.targets])

    def image_loss(self, batch: Batch, surface: Surface, plan: StepPlan) -> Tensor:
        """Difference of rendered targets and photographs; sources never feed themselves."""
        sources = Sources(self.views.cameras[batch.sources], self.views.images[batch.sources],
                          self.views.masks[batch.sources], self.buffer.surface(batch.sources))
        own = batch.sources[:, None] == batch.targets[None]            # (K, T)
        targets = Targets(surface, self.buffer.dirs[batch.targets], own)
        prediction = self.model(targets, sources, plan.occ_threshold)
        return image_loss(prediction, self.views.images[batch.targets],
                          self.views.masks[batch.targets], self.loss.color_loss,
                          region=self.loss.image_loss_region)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, traced surfaces and the sampler's random state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "average": self.average.state_dict(), "surface": self.buffer.state_dict(),
                "generator": self.generator.get_state(),
                "views": list(self.views.names), "photographs": self.views.key, "split": self.split,
                "cameras": {name: getattr(self.views.cameras, name) for name in CAMERA_MATRICES}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; CheckpointError when it is another architecture's."""
        check_views(self.views, state)
        if self.loads_poses:
            self.views = with_poses(self.views, state)
            self.buffer = SurfaceBuffer(self.views.cameras)
        load_state(self.model, state["model"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state.get("average"))
        self.buffer.load_state_dict(state["surface"])
        self.generator.set_state(state["generator"].cpu())


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Adam over Phi (group 0) and E, G, D (group 1); rates are set every step."""
    sdf_parameters = list(model.sdf.parameters())
    known = {id(p) for p in sdf_parameters}
    others = [p for p in model.parameters() if id(p) not in known]
    return torch.optim.Adam([{"params": sdf_parameters}, {"params": others}], lr=1e-4)


def set_rates(optimizer: torch.optim.Optimizer, plan: StepPlan) -> None:
    """Write the plan's rates into the two groups of `make_optimizer`."""
    optimizer.param_groups[0]["lr"] = plan.lr_sdf
    optimizer.param_groups[1]["lr"] = plan.lr


def pixels_of(views: TrainingViews) -> int:
    """Pixels of one view."""
    return views.images.shape[2] * views.images.shape[3]


def trained_parts(model: nn.Module, parts: TrainedPartsConfig) -> None:
    """Switch off the gradients, and batch statistics, of the parts that are not to be trained."""
    switches = {"sdf": parts.train_decoder_sdf, "encoder": parts.train_image_encoder,
                "decoder": parts.train_feature_decoder, "aggregation": parts.train_feature_blending}
    for name, is_trained in switches.items():
        network = getattr(model, name)
        network.requires_grad_(bool(is_trained))
        network.train(bool(is_trained))


def build_scene_trainer(model: nn.Module, views: TrainingViews, config: Config,
                        *, generator: torch.Generator, cloud: Any = None) -> SceneTrainer:
    """A trainer by the flags; the surface is not traced yet.

    Args:
        model: on the views' device.
        views: training views.
        config: with the sections of a training script.
        generator: on the CPU.
        cloud: point cloud that may supervise the shape (use_pcd), or None.
    """
    trained_parts(model, config.parts)
    if config.views.source_views_per_target == 1:
        raise ConfigError("--source_views_per_target 1: a target never feeds itself, so it would "
                          "have no source; give 2 or more, or -1 for all")
    sampler = ViewSampler(views.cameras, config.views.source_views_per_target,
                          config.run.image_batch_size,
                          nearest=config.views.source_view_selection_mode == "nearest")
    plan = partial(plan_step, rates=config.rates, tracing=config.tracing,
                   dataset_name=config.data.dataset_name,
                   steps_per_epoch=steps_per_epoch(config.views, len(views)))
    trainer = SceneTrainer(
        model, views, sampler, tracer=make_tracer(config.tracing, pixels_of(views),
                                                   views.images.device),
        loss=config.loss, num_eikonal_points=config.run.batch_size, plan=plan,
        generator=generator, cloud=cloud if config.data.use_pcd else None,
        average_decay=config.rates.average_decay)
    trainer.loads_poses = bool(config.run.load_model_poses)
    return trainer


def exhibit_of(trainer: SceneTrainer, scene: Any, split: Any, *, step: int,
               all_views: bool = False) -> Exhibit:
    """The model as it is after `step` steps, in front of its scene.

    Args:
        trainer: its training views are the scene's views `split.train`.
        scene, split: `data_processing`'s.
        step: tells the occlusion threshold, which is the one training ended with.
        all_views: score every view; else the withheld, or all training views if none is withheld.
    """
    occ_threshold = trainer.plan(max(step - 1, 0)).occ_threshold
    model = trainer.average.averaged_model()
    renderer = model.renderer(trainer.views, occ_threshold=occ_threshold,
                                      tracer=trainer.tracer)
    scored = tuple(range(len(scene))) if all_views else split.test or split.train

    def render(cameras: Cameras, view: int | None) -> Any:
        return renderer(cameras, split.train.index(view) if view in split.train else None)

    return Exhibit(scene, split.train, scored, render, trainer.model.sdf, renderer.visible,
                   trainer.views.images.device)


def watch(trainer: SceneTrainer, scene: Any, split: Any, *, all_views: bool = False) -> None:
    """Let the loop score the scene's withheld views and draw its picture sheets."""

    def exhibit(step: int) -> Exhibit:
        return exhibit_of(trainer, scene, split, step=step, all_views=all_views)

    trainer.split = {"train": list(split.train), "test": list(split.test)}
    trainer.score = lambda step: mean_figures(exhibit(step))
    trainer.pictures = lambda step: picture_sheets(exhibit(step))
