"""Training: a step as a list that reads downwards (METHOD 6 and 7); `utils.loop` repeats it."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss_functions import (
    eikonal_loss, image_loss, normal_loss, off_surface_loss, on_surface_loss, soft_mask_loss)
from scheduler import StepPlan, mask_loss_weight
from sdf_rendering import Tracer, differentiable_hits
from utils.checkpoints import load_state
from utils.config_stages import LossConfig
from utils.derivatives import gradient
from utils.rays import Rays, Surface
from utils.views import Batch, Sources, SurfaceBuffer, Targets, TrainingViews, ViewSampler

SPHERE_RADIUS = 0.5       # object units
FIT_EXTENT = 1.2          # radius within which the sphere is fitted: a little past the unit ball
OFF_SURFACE_MARGIN = 0.05 # nearer points are not pushed off the surface


@dataclass(frozen=True)
class LossOptions:
    """Which losses, their metrics and weights.

    Attributes:
        color_loss: l1, l2 or smooth_l1.
        image_region: "all" or "foreground", see `loss_functions.image_loss`.
        eikonal_weight: 0 switches it off.
        eikonal_metric: l1 or l2.
        num_eikonal_points: uniform points of [-1, 1]^3 a shape step.
    """

    color_loss: str = "l1"
    image_region: str = "all"
    eikonal_weight: float = 3.0
    eikonal_metric: str = "l2"
    num_eikonal_points: int = 32768


class SceneTrainer:
    """One scene's model, views, traced surfaces and optimiser; a `Task` of the loop.

    Args:
        model: `modules_sdf.ImageBasedModel`, trained in place.
        views: on the model's device.
        sampler: draws the views of each step.
        tracer: finds the surface.
        options: losses.
        plan: step number to the settings of that step.
        generator: on the CPU; all that is random in a step comes from it.
    """

    def __init__(self, model: nn.Module, views: TrainingViews, sampler: ViewSampler,
                 *, tracer: Tracer, options: LossOptions, plan: Callable[[int], StepPlan],
                 generator: torch.Generator) -> None:
        self.model, self.views, self.sampler = model, views, sampler
        self.tracer, self.options = tracer, options
        self.plan, self.generator = plan, generator
        self.buffer = SurfaceBuffer(views.cameras)
        self.optimizer = make_optimizer(model)
        self.score: Callable[[], dict[str, float]] = dict
        self.pictures: Callable[[], dict[str, np.ndarray]] = dict

    def trace_all(self) -> None:
        """Fill the buffer: the surface as every training view sees it."""
        index = torch.arange(len(self.views), device=self.views.images.device)
        result = self.tracer.trace(self.model.sdf, self.buffer.rays(index))
        self.buffer.store(index, result.t, result.hit_mask)

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step: batch, forward, losses, weighted sum, finite check, backward, clip, update.

        Returns:
            Unweighted losses and the total, detached scalars.
        Raises:
            FloatingPointError: a loss is not finite; nothing was updated.
        """
        plan = self.plan(step)
        batch = self.sampler.draw(self.generator)
        device = self.views.images.device
        batch = Batch(batch.sources.to(device), batch.targets.to(device))
        losses, weights = {}, {"image": 1.0}
        surface = self.buffer.surface(batch.targets)
        if plan.train_shape:
            surface, losses = self.shape_losses(batch, plan)
            weights |= {"soft_mask": mask_loss_weight(plan.alpha),
                        "eikonal": self.options.eikonal_weight}
        losses["image"] = self.image_loss(batch, surface, plan)
        total = sum(weights[name] * loss for name, loss in losses.items())
        check_finite(total, losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if not plan.train_shape:
            self.model.sdf.zero_grad(set_to_none=True)     # Adam's moments must not decay
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        set_rates(self.optimizer, plan)
        self.optimizer.step()
        return {name: loss.detach() for name, loss in (*losses.items(), ("total", total))}

    def shape_losses(self, batch: Batch,
                     plan: StepPlan) -> tuple[Surface, dict[str, Tensor]]:
        """Trace the targets: their differentiable surface, and the losses on the shape."""
        sdf, rays = self.model.sdf, self.buffer.rays(batch.targets)
        found = self.tracer.trace(sdf, rays)
        surface = self.differentiable_surface(batch, rays, found.t, found.hit_mask)
        masks = self.views.masks[batch.targets].reshape(-1)
        counts = rays.sphere_mask & ~(found.hit_mask & masks)
        t_least = self.tracer.least_sdf(sdf, rays, counts)
        least = sdf(rays.points(t_least))
        mean_loss = soft_mask_loss(least, masks, counts, plan.alpha)
        losses = {"soft_mask": mean_loss * len(batch.targets)}         # summed over targets
        if self.options.eikonal_weight > 0:
            points = torch.rand(self.options.num_eikonal_points, 3, generator=self.generator)
            _, grad = gradient(sdf, (points * 2 - 1).to(rays.t_near), create_graph=True)
            losses["eikonal"] = eikonal_loss(grad, self.options.eikonal_metric)
        return surface, losses

    def differentiable_surface(self, batch: Batch, rays: Rays, t: Tensor,
                               hit_mask: Tensor) -> Surface:
        """Surface of the targets with gradient at the hits; the buffer is refreshed with it."""
        hits = hit_mask.nonzero()[:, 0]
        hit_rays = rays[hits]
        _, grad = gradient(self.model.sdf, hit_rays.points(t[hits]), create_graph=False)
        slope = (grad * hit_rays.dirs_obj).sum(-1)
        hit_points = differentiable_hits(self.model.sdf, hit_rays, t[hits], slope)
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
                          self.views.masks[batch.targets], self.options.color_loss,
                          region=self.options.image_region)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, traced surfaces and the sampler's random state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "surface": self.buffer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; CheckpointError when it is another architecture's."""
        load_state(self.model, state["model"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
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


def check_finite(total: Tensor, losses: dict[str, Tensor]) -> None:
    """Raise FloatingPointError that names the losses which are not finite."""
    if not torch.isfinite(total):
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        raise FloatingPointError(f"loss not finite: {', '.join(bad) or 'their sum'}")


class SphereTask:
    """Fits Phi to |x| - RADIUS, the start of every scene (`configs/fit_sphere.txt`); a `Task`.

    Three losses as for point clouds (METHOD 6), and as the true distance is known everywhere,
    |Phi - (|x| - RADIUS)| with the weight of the surface term: without it Phi is right at the
    sphere and 0.2 off elsewhere. The rate falls to 0 along a cosine.

    Args:
        sdf: trained in place.
        num_steps: over which the rate falls.
        lr: first rate.
        num_points: a step, half of them on the sphere.
        loss: which terms count, the eikonal term's metric and weight.
        generator: on the CPU.
    """

    def __init__(self, sdf: nn.Module, num_steps: int, lr: float, *, num_points: int,
                 loss: LossConfig, generator: torch.Generator) -> None:
        self.sdf, self.loss, self.generator = sdf, loss, generator
        self.num_points = num_points
        self.optimizer = torch.optim.Adam(sdf.parameters(), lr=lr)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer,
                                                                   max(num_steps, 1))

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of Adam on the sum of the weighted terms."""
        device = next(self.sdf.parameters()).device
        normals = self._directions(self.num_points // 2).to(device)
        free = self._directions(self.num_points - len(normals))
        radius = torch.rand(len(free), 1, generator=self.generator) * FIT_EXTENT
        free = (free * radius).to(device)
        sdf_on, grad_on = self.sdf.value_and_gradient(normals * SPHERE_RADIUS)
        sdf_off, grad_off = self.sdf.value_and_gradient(free)
        truth = free.norm(dim=-1) - SPHERE_RADIUS
        gradients = torch.cat([grad_on, grad_off])
        terms = {
            "direct": (60.0, (sdf_off - truth).abs().mean()),
            "on_surface": (60.0 * self.loss.opt_sdf_onsurface, on_surface_loss(sdf_on)),
            "off_surface": (2.0 * self.loss.opt_sdf_offsurface,
                            off_surface_loss(sdf_off[truth.abs() > OFF_SURFACE_MARGIN])),
            "normal": (2.0 * self.loss.opt_sdf_normal, normal_loss(grad_on, normals)),
            "eikonal": (self.loss.opt_sdf_eikonal_w * self.loss.opt_sdf_eikonal,
                        eikonal_loss(gradients, self.loss.loss_eikonal_metric))}
        losses = {name: value for name, (_, value) in terms.items()}
        losses["total"] = sum(weight * value for weight, value in terms.values())
        check_finite(losses["total"], losses)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        self.optimizer.step()
        self.schedule.step()
        return {name: value.detach() for name, value in losses.items()}

    def _directions(self, count: int) -> Tensor:
        return F.normalize(torch.randn(count, 3, generator=self.generator), dim=-1)

    def score(self) -> dict[str, float]:
        """max and mean |Phi(x) - (|x| - RADIUS)| over the unit ball, on fixed points."""
        generator = torch.Generator().manual_seed(1)
        directions = F.normalize(torch.randn(100_000, 3, generator=generator), dim=-1)
        points = directions * torch.rand(100_000, 1, generator=generator)
        with torch.no_grad():
            device = next(self.sdf.parameters()).device
            sdf = self.sdf(points.to(device)).cpu()
        error = (sdf - (points.norm(dim=-1) - SPHERE_RADIUS)).abs()
        return {"max_error": error.max().item(), "mean_error": error.mean().item()}

    def pictures(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, schedule and random state."""
        return {"sdf": self.sdf.state_dict(), "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        load_state(self.sdf, state["sdf"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"].cpu())
