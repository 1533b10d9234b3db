"""Fits of Phi to shapes that are known: the sphere that every scene starts from."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss_functions import (
    CLOUD_WEIGHTS, eikonal_terms, normal_loss, off_surface_loss, on_surface_loss)
from utils.checkpoints import load_state
from utils.config_stages import LossConfig
from utils.finite import check_finite

SPHERE_RADIUS = 0.5       # object units
FIT_EXTENT = 1.2          # radius within which the sphere is fitted: a little past the unit ball
OFF_SURFACE_MARGIN = 0.05  # nearer points are not pushed off the surface


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
        self.optimizer.step()
        self.schedule.step()
        return {name: value.detach() for name, value in losses.items()}

    def _directions(self, count: int) -> Tensor:
        return F.normalize(torch.randn(count, 3, generator=self.generator), dim=-1)

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

    def pictures(self, step: int) -> dict[str, np.ndarray]:
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
