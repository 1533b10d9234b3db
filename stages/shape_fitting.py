"""Fits of Phi to shapes that are known: the sphere that scenes start from, and the visual hull."""
from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_processing.scenes.scene import Scene
from data_processing.scenes.splits import Split
from loss_functions import (
    CLOUD_WEIGHTS,
    eikonal_terms,
    normal_loss,
    off_surface_loss,
    on_surface_loss,
)
from training import SceneTrainer
from utils.checkpoints.storage import load_state
from utils.config.parser import Config
from utils.config.sections import LossConfig
from utils.errors import SceneError
from utils.geometry.cameras import Cameras
from utils.geometry.visual_hull import Hull, carve
from utils.optimization.finite import check_finite

log = logging.getLogger(__name__)

SPHERE_RADIUS = 0.5       # object units
FIT_EXTENT = 1.2          # radius within which shapes are fitted: a little past the unit ball
OFF_SURFACE_MARGIN = 0.05  # nearer points are not pushed off the surface

HULL_RESOLUTION = 128     # grid points along a side of [-1, 1]^3: 1/63 apart
HULL_RADIUS = 0.98        # the hull is cut to this ball: views from one side leave it open behind
HULL_BAND = 0.05          # spread of the points near the surface, object units
NUM_HULL_STEPS, NUM_HULL_POINTS, HULL_RATE = 150, 1536, 7e-4
HULL_EIKONAL_WEIGHT = 3.0  # that of a scene's training (METHOD 6)


@dataclass(frozen=True)
class KnownPoints:
    """Points of a step at which a shape is known.

    Attributes:
        surface, normals: (N, 3), on the surface.
        free: (M, 3) anywhere.
        distance: (M,) signed distance there.
    """

    surface: Tensor
    normals: Tensor
    free: Tensor
    distance: Tensor


class ShapeFit:
    """Fits Phi to a known shape; a `Task`. Subclasses draw the points.

    Losses are those for point clouds (METHOD 6), and as the distance is known everywhere,
    |Phi - distance| with the weight of the surface term: without it Phi is right at the surface
    and 0.2 off elsewhere. The rate falls to 0 along a cosine.

    Args:
        sdf: trained in place.
        num_steps: over which the rate falls.
        lr: first rate.
        loss: which terms count, the eikonal term's metric and weight.
        generator: on the CPU.
    """

    def __init__(self, sdf: nn.Module, num_steps: int, lr: float, *, loss: LossConfig,
                 generator: torch.Generator) -> None:
        self.sdf, self.loss, self.generator = sdf, loss, generator
        self.num_steps, self.lr, self.rate_factor = num_steps, lr, 1.0
        self.optimizer = torch.optim.Adam(sdf.parameters(), lr=lr)

    def draw(self) -> KnownPoints:
        """Points of one step, on the CPU."""
        raise NotImplementedError

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step of Adam on the sum of the weighted terms."""
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
        losses["total"] = sum(weight * value for weight, value in terms.values())
        check_finite(losses["total"], losses)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        self.optimizer.param_groups[0]["lr"] = self.rate_at(step)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def rate_at(self, step: int) -> float:
        """The rate of a step: half of a cosine's period down to 0."""
        share = min(step / max(self.num_steps, 1), 1.0)
        return self.lr * self.rate_factor * (1 + math.cos(math.pi * share)) / 2

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""
        self.rate_factor = factor

    def notices(self) -> dict[str, str]:
        """None."""
        return {}

    def _directions(self, count: int) -> Tensor:
        return F.normalize(torch.randn(count, 3, generator=self.generator), dim=-1)

    def _ball(self, count: int) -> Tensor:
        """(count, 3) points of the ball in which shapes are fitted, more of them inwards."""
        directions = self._directions(count)
        return directions * (torch.rand(count, 1, generator=self.generator) * FIT_EXTENT)

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and random state."""
        return {"sdf": self.sdf.state_dict(), "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        load_state(self.sdf, state["sdf"], "the run's checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


class SphereTask(ShapeFit):
    """Fits Phi to |x| - RADIUS, the start of every scene (`configs/fit_sphere.txt`).

    Args:
        num_points: a step, half of them on the sphere; the others as `ShapeFit` takes them.
    """

    def __init__(self, sdf: nn.Module, num_steps: int, lr: float, *, num_points: int,
                 loss: LossConfig, generator: torch.Generator) -> None:
        super().__init__(sdf, num_steps, lr, loss=loss, generator=generator)
        self.num_points = num_points

    def draw(self) -> KnownPoints:
        """Half of the points on the sphere, half in the ball."""
        normals = self._directions(self.num_points // 2)
        free = self._ball(self.num_points - len(normals))
        return KnownPoints(normals * SPHERE_RADIUS, normals, free,
                           free.norm(dim=-1) - SPHERE_RADIUS)

    def score(self, step: int) -> dict[str, float]:
        """max and mean |Phi(x) - (|x| - RADIUS)| over the unit ball, on fixed points."""
        generator = torch.Generator().manual_seed(1)
        directions = F.normalize(torch.randn(100_000, 3, generator=generator), dim=-1)
        points = directions * torch.rand(100_000, 1, generator=generator)
        with torch.no_grad():
            device = next(self.sdf.parameters()).device
            sdf = self.sdf(points.to(device)).cpu()
        error = (sdf - (points.norm(dim=-1) - SPHERE_RADIUS)).abs()
        return {"max_error": error.max().item(), "mean_error": error.mean().item()}


class HullTask(ShapeFit):
    """Fits Phi to the signed distance of a visual hull.

    The terms are those of the sphere but for `off_surface`, which says less than the distance does.

    Args:
        hull: not empty.
        num_points: a step: a third on the surface, a third near it, a third in the ball.
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
        """See the class."""
        third = self.num_points // 3
        chosen, beside = torch.randint(len(self.surface), (2, third), generator=self.generator)
        away = torch.randn(third, 1, generator=self.generator) * HULL_BAND
        near = self.surface[beside] + away * self.normals[beside]
        free = torch.cat([near, self._ball(self.num_points - 2 * third)])
        return KnownPoints(self.surface[chosen], self.normals[chosen], free, self.hull.sdf(free))

    def score(self, step: int) -> dict[str, float]:
        """Mean |Phi| on the hull's surface, and mean deviation of |grad Phi| from 1 near it."""
        device = next(self.sdf.parameters()).device
        points = self.surface[:: max(1, len(self.surface) // 10_000)]
        with torch.no_grad():
            value, grad = self.sdf.value_and_gradient(points.to(device))
        return {"mean_error": value.abs().mean().item(),
                "slope_error": (grad.norm(dim=-1) - 1).abs().mean().item()}


def surface_points(hull: Hull) -> tuple[Tensor, Tensor]:
    """Points (N, 3) of a hull's surface and their outward unit normals (N, 3), object space.

    They are the grid's points next to the surface, moved along the gradient of the distance; those
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
    points = points.detach().requires_grad_(True)
    value = hull.sdf(points)
    (slope,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), F.normalize(slope, dim=-1)


def carve_start(cameras: Cameras, masks: Tensor, where: str, *,
                resolution: int = HULL_RESOLUTION) -> Hull:
    """The visual hull that a surface may start as, cut to the ball of HULL_RADIUS.

    Args:
        cameras, masks: (V, 1, H, W) bool, of the training views.
        where: the scene, for messages.
        resolution: of the grid.
    Raises:
        SceneError: the masks agree on no point.
    """
    hull = carve(cameras.to("cpu"), masks.cpu(), resolution=resolution)
    ticks = torch.linspace(-hull.half, hull.half, len(hull.distance))
    x, y, z = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    radius = (x.square() + y.square() + z.square()).sqrt()
    hull = replace(hull, distance=torch.maximum(hull.distance, radius - HULL_RADIUS))
    if hull.is_empty or not len(surface_points(hull)[0]):
        raise SceneError(f"{where}: --init hull: the masks of the {len(cameras)} training views "
                         "agree on no point inside the unit sphere, need an object that all of "
                         "them show; experiment_scripts/check_scene.py says what is wrong with "
                         "masks or cameras; or give --init sphere")
    return hull


def fit_hull(sdf: nn.Module, hull: Hull, generator: torch.Generator) -> None:
    """Fit Phi to a hull from the weights that it has; seconds."""
    start = time.perf_counter()
    task = HullTask(sdf, hull, generator=generator)
    for step in range(NUM_HULL_STEPS):
        task.train_step(step)
    figures = task.score(NUM_HULL_STEPS)
    log.info("surface: visual hull, fitted in %.1f s; mean |SDF| on it %.4f, mean deviation of "
             "its slope from 1 %.3f", time.perf_counter() - start, figures["mean_error"],
             figures["slope_error"])


class SurfaceStart:
    """What a scene's surface starts as, before its first step (`--init`).

    The hull is carved when this is made, so that masks which do not serve are told before anything
    is written; a run that goes on has its surface already.

    Args:
        scene, split: the hull is that of the training views.
        config: of a training script.
        is_new: the run does not go on from a checkpoint.
    Raises:
        SceneError: a hull is asked for, and the scene has no masks, or none that agree.
    """

    def __init__(self, scene: Scene, split: Split, config: Config, *, is_new: bool) -> None:
        begin, self.config, self.hull = time.perf_counter(), config, None
        if config.sdf.init == "hull":
            where = scene.path or scene.name
            if not scene.has_masks:
                raise SceneError(f"{where}: --init hull: the scene has no masks, need them to "
                                 "carve a hull; add them (experiment_scripts/import_scene.py "
                                 "makes them of a plain background), or give --init sphere")
            if is_new:
                train = list(split.train)
                self.hull = carve_start(scene.cameras[train], scene.masks[train], where)
        self.seconds = time.perf_counter() - begin     # part of the training's time

    def begin(self, trainer: SceneTrainer) -> None:
        """Fit the surface where it does not start as it is, and trace it."""
        if self.hull is not None:
            fit_hull(trainer.model.sdf, self.hull, trainer.generator)
        trainer.trace_first(self.config.data)
