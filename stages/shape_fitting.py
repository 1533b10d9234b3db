"""Phi fitted to known shapes: the sphere that every scene starts from, and a visual hull."""
from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss_functions import (
    CLOUD_WEIGHTS,
    eikonal_terms,
    normal_loss,
    off_surface_loss,
    on_surface_loss,
)
from modules_sdf import build_sdf
from stages.models import sdf_architecture
from utils.checkpoints.storage import load_state
from utils.checkpoints.weights import save_sphere, sphere_asset
from utils.command_names import typed
from utils.config.parser import Config
from utils.config.sections import LossConfig
from utils.config.values import losses_of
from utils.errors import SceneError
from utils.fast.memory import keep_freed_memory
from utils.geometry.cameras import Cameras
from utils.geometry.sdf import gradient
from utils.geometry.visual_hull import Hull, carve
from utils.optimization.finite import check_finite
from utils.optimization.parameter_groups import load_adam
from utils.runs.loop import Loop
from utils.runs.run import start_run
from utils.runs.task import Task, loop_options

log = logging.getLogger(__name__)

SPHERE_RADIUS = 0.5       # object units
FIT_EXTENT = 1.2          # radius within which shapes are fitted: a little past the unit ball
OFF_SURFACE_MARGIN = 0.05  # nearer points are not pushed off the surface

HULL_RESOLUTION = 128     # grid points along a side of [-1, 1]^3: 1/63 apart
HULL_RADIUS = 0.98        # the hull is cut to this ball: views from one side leave it open behind
HULL_BAND = 0.05          # spread of the points near the surface, object units
NUM_HULL_STEPS, NUM_HULL_POINTS, HULL_RATE = 80, 1024, 7e-4
HULL_EIKONAL_WEIGHT = 1.5  # 1/20 of the weight of distances


@dataclass(frozen=True)
class KnownPoints:
    """Points of one step at which the signed distance of a shape is known, object space.

    Attributes:
        surface, normals: (N, 3) points on the surface, and outward unit normals there.
        free: (M, 3) points anywhere.
        distance: (M,) signed distance of the free points.
    """

    surface: Tensor
    normals: Tensor
    free: Tensor
    distance: Tensor


class ShapeFit(Task):
    """Fits Phi to a known shape; a `Task` of the loop. Subclasses draw the points.

    Losses are those for point clouds (docs/method.md, section 6) and, as the distance is known
    everywhere, |Phi - distance| with the weight of the surface term: without it Phi is right at
    the surface and 0.2 off elsewhere. The learning rate falls to 0 along a cosine.

    Args:
        sdf: trained in place.
        num_steps: number of steps over which the learning rate falls.
        lr: initial learning rate.
        loss: which terms count, metric and weight of the eikonal term.
        generator: on the CPU; points are drawn with it.
    """

    def __init__(self, sdf: nn.Module, num_steps: int, lr: float, *, loss: LossConfig,
                 generator: torch.Generator) -> None:
        self.sdf, self.loss, self.generator = sdf, loss, generator
        self.num_steps, self.lr, self.rate_factor = num_steps, lr, 1.0
        self.optimizer = torch.optim.Adam(sdf.parameters(), lr=lr)

    def draw(self) -> KnownPoints:
        """Return the points of one step, on the CPU."""
        raise NotImplementedError

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Take one step of Adam on the weighted sum of the losses; return the unweighted ones."""
        device = next(self.sdf.parameters()).device
        points = self.draw()
        normals, truth = points.normals.to(device), points.distance.to(device)
        sdf_on, grad_on = self.sdf.value_and_gradient(points.surface.to(device))
        sdf_off, grad_off = self.sdf.value_and_gradient(points.free.to(device))
        gradients = torch.cat([grad_on, grad_off])
        terms = {
            "direct": (CLOUD_WEIGHTS["on_surface"], (sdf_off - truth).abs().mean()),
            "on_surface": (CLOUD_WEIGHTS["on_surface"] * self.loss.opt_sdf_onsurface,
                           on_surface_loss(sdf_on)),
            "off_surface": (CLOUD_WEIGHTS["off_surface"] * self.loss.opt_sdf_offsurface,
                            off_surface_loss(sdf_off[truth.abs() > OFF_SURFACE_MARGIN])),
            "normal": (CLOUD_WEIGHTS["normal"] * self.loss.opt_sdf_normal,
                       normal_loss(grad_on, normals)),
            "eikonal": (self.loss.opt_sdf_eikonal_w * self.loss.opt_sdf_eikonal,
                        eikonal_terms(gradients, self.loss.loss_eikonal_metric).mean())}
        losses = {name: value for name, (_, value) in terms.items()}
        losses["total"] = reduce(torch.add, [weight * value for weight, value in terms.values()])
        check_finite(losses["total"], losses)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(step)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: half a period of a cosine, down to 0."""
        fraction = min(step / max(self.num_steps, 1), 1.0)
        return self.lr * self.rate_factor * (1 + math.cos(math.pi * fraction)) / 2

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def _directions(self, count: int) -> Tensor:
        return F.normalize(torch.randn(count, 3, generator=self.generator), dim=-1)

    def _ball(self, count: int) -> Tensor:
        """Return (count, 3) points of the ball of FIT_EXTENT, uniform in direction and radius."""
        directions = self._directions(count)
        return directions * (torch.rand(count, 1, generator=self.generator) * FIT_EXTENT)

    def state_dict(self) -> dict[str, Any]:
        """Return network, optimiser and random state."""
        return {"sdf": self.sdf.state_dict(), "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore network, optimiser and random state from what `state_dict` returned."""
        load_state(self.sdf, state["sdf"], "the run's checkpoint")
        load_adam(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


class SphereTask(ShapeFit):
    """Fits Phi to |x| - SPHERE_RADIUS, the start of every scene (`configs/fit_sphere.txt`).

    Args:
        num_points: points of a step, half of them on the sphere. All other arguments are those of
            `ShapeFit`.
    """

    def __init__(self, sdf: nn.Module, num_steps: int, lr: float, *, num_points: int,
                 loss: LossConfig, generator: torch.Generator) -> None:
        super().__init__(sdf, num_steps, lr, loss=loss, generator=generator)
        self.num_points = num_points

    def draw(self) -> KnownPoints:
        """Draw half of the points on the sphere, and half in the ball of FIT_EXTENT."""
        normals = self._directions(self.num_points // 2)
        free = self._ball(self.num_points - len(normals))
        return KnownPoints(normals * SPHERE_RADIUS, normals, free,
                           free.norm(dim=-1) - SPHERE_RADIUS)

    def score(self, step: int) -> dict[str, float]:
        """Return the maximum and mean error; see `sphere_error`."""
        return sphere_error(self.sdf)


@torch.no_grad()
def sphere_error(sdf: nn.Module, num_points: int = 100_000) -> dict[str, float]:
    """Return the maximum and mean of |Phi(x) - (|x| - SPHERE_RADIUS)|, object units.

    The points are fixed, and uniform in the unit ball.
    """
    generator = torch.Generator().manual_seed(1)
    directions = F.normalize(torch.randn(num_points, 3, generator=generator), dim=-1)
    points = directions * torch.rand(num_points, 1, generator=generator) ** (1 / 3)
    values = sdf(points.to(next(sdf.parameters()).device)).cpu()
    error = (values - (points.norm(dim=-1) - SPHERE_RADIUS)).abs()
    return {"max_error": error.max().item(), "mean_error": error.mean().item()}


class HullTask(ShapeFit):
    """Fits Phi to the signed distance of a visual hull.

    The losses are those of the sphere without `off_surface`, which adds nothing to the distance.

    Args:
        hull: not empty.
        num_points: points of a step: a third on the surface, a third near it, a third in the ball
            of FIT_EXTENT. All other arguments are those of `ShapeFit`.
    """

    def __init__(self, sdf: nn.Module, hull: Hull, *, generator: torch.Generator,
                 num_steps: int = NUM_HULL_STEPS, lr: float = HULL_RATE,
                 num_points: int = NUM_HULL_POINTS) -> None:
        loss = LossConfig(opt_sdf_offsurface=0, opt_sdf_eikonal_w=HULL_EIKONAL_WEIGHT,
                          loss_eikonal_metric="l2")
        super().__init__(sdf, num_steps, lr, loss=loss, generator=generator)
        self.hull, self.num_points = hull, num_points
        self.surface, self.normals = surface_points(hull)

    def draw(self) -> KnownPoints:
        """Draw a third of the points on the surface, a third near it, a third in the ball."""
        third = self.num_points // 3
        chosen, beside = torch.randint(len(self.surface), (2, third), generator=self.generator)
        away = torch.randn(third, 1, generator=self.generator) * HULL_BAND
        near = self.surface[beside] + away * self.normals[beside]
        free = torch.cat([near, self._ball(self.num_points - 2 * third)])
        return KnownPoints(self.surface[chosen], self.normals[chosen], free, self.hull.sdf(free))

    def score(self, step: int) -> dict[str, float]:
        """Return mean |Phi| and mean deviation of |grad Phi| from 1 on the hull's surface."""
        device = next(self.sdf.parameters()).device
        points = self.surface[:: max(1, len(self.surface) // 10_000)]
        with torch.no_grad():
            value, grad = self.sdf.value_and_gradient(points.to(device))
        return {"mean_error": value.abs().mean().item(),
                "gradient_error": (grad.norm(dim=-1) - 1).abs().mean().item()}


def surface_points(hull: Hull) -> tuple[Tensor, Tensor]:
    """Return points (N, 3) of a hull's surface and outward unit normals (N, 3), object space.

    They are the grid points next to the surface, moved along the gradient of the distance. Points
    at creases, where that does not lead to the surface, are left out.
    """
    near = (hull.distance.abs() < hull.cell).nonzero().float() * hull.cell \
        + (hull.center - hull.half)
    for _ in range(2):
        value, normal = _value_and_normal(hull, near)
        near = near - value[:, None] * normal
    value, normal = _value_and_normal(hull, near)
    kept = (value.abs() < 0.25 * hull.cell) & (normal.norm(dim=-1) > 0.5)
    return near[kept], normal[kept]


def _value_and_normal(hull: Hull, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance (N,) of points (N, 3), and its normalised gradient (N, 3)."""
    value, grad = gradient(hull.sdf, points)
    return value, F.normalize(grad, dim=-1)


def carve_start(cameras: Cameras, masks: Tensor, where: str, *,
                resolution: int = HULL_RESOLUTION, init: str = "hull") -> Hull:
    """Return the visual hull that a surface may start as, cut to the ball of HULL_RADIUS.

    Args:
        cameras: those of the V training views.
        masks: (V, 1, H, W) bool.
        where: name of the scene, for messages.
        resolution: grid points along a side.
        init: value of the flag that asks for it, for messages.
    Raises:
        SceneError: the masks agree on no point.
    """
    hull = carve(cameras.to("cpu"), masks.cpu(), resolution=resolution).cut_to_ball(HULL_RADIUS)
    if hull.is_empty or not len(surface_points(hull)[0]):
        raise SceneError(f"{where}: --init {init}: the masks of the {len(cameras)} training views "
                         "agree on no point inside the unit sphere, need an object that all of "
                         f"them show; {typed('check')} says what is wrong with masks or cameras; "
                         "or give --init sphere")
    return hull


def fit_hull(sdf: nn.Module, hull: Hull, generator: torch.Generator, *,
             kind: str = "visual hull") -> None:
    """Fit Phi to a distance grid, starting from its present weights; this takes seconds.

    Args:
        sdf: trained in place.
        hull: not empty.
        generator: on the CPU.
        kind: what the grid is, for the log.
    """
    start = time.perf_counter()
    task = HullTask(sdf, hull, generator=generator)
    for step in range(NUM_HULL_STEPS):
        task.train_step(step)
    errors = task.score(NUM_HULL_STEPS)
    log.info("surface: %s, fitted in %.1f s; mean |SDF| on it %.4f, mean deviation of "
             "its gradient's length from 1 %.3f", kind, time.perf_counter() - start,
             errors["mean_error"], errors["gradient_error"])


def fit_sphere(config: Config) -> str:
    """Fit Phi to the sphere and write it as the start of scenes; an epoch is one batch.

    Args:
        config: of the training script.
    Returns:
        The file, and the errors of the fit.
    """
    run = start_run(config)
    if run.device.type == "cpu":
        keep_freed_memory()
    sdf = build_sdf(sdf_architecture(config.sdf)).to(run.device)
    options = loop_options(config.run, 1)
    task = SphereTask(sdf, options.num_steps, config.rates.lr_sdf,
                      num_points=config.run.batch_size, loss=losses_of(config.loss, config.sdf),
                      generator=run.generator)
    progress = Loop(task, run, options).run()
    errors = task.score(progress.step)
    save_sphere(sphere_asset(config.sdf), sdf, errors)
    return f"{sphere_asset(config.sdf)}: {errors}"
