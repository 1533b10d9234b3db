"""Training cameras that are trained too: a small rotation and translation, zero at the start.

Camera v sees a point x of camera space, with the origin of object space at c, at

    x' = R(w_v) (x - c) + c + |c| s_v

so that rotations w_v (radians) and translations s_v (fractions of the distance) move the image
alike, and do not stand in for each other: a rotation about the camera itself would look like a
translation. The first view is fixed, as otherwise all could rotate together.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoints.storage import load_state
from utils.devices import numbers_like
from utils.errors import CheckpointError
from utils.geometry.cameras import Cameras, rotations
from utils.optimization.parameter_groups import load_adam

PROBE_REACH = 0.5         # object units: how far from the origin frames are compared
NUM_NEWTON_STEPS = 5


class PoseRefinement(nn.Module):
    """V cameras and their corrections.

    Args:
        cameras: as they are given; kept, so that a run resumes from them.
    """

    def __init__(self, cameras: Cameras) -> None:
        super().__init__()
        like = cameras.view
        for name in ("view", "projection", "model"):
            self.register_buffer(name, getattr(cameras, name).detach().clone())
        self.resolution = cameras.resolution
        self.turn = nn.Parameter(like.new_zeros(len(cameras), 3))
        self.shift = nn.Parameter(like.new_zeros(len(cameras), 3))
        free = like.new_ones(len(cameras), 1)
        free[0] = 0
        self.register_buffer("free", free, persistent=False)           # (V, 1), 0: fixed

    @property
    def given(self) -> Cameras:
        """Return the cameras as they were given."""
        return Cameras(self.view, self.projection, self.model, self.resolution)

    def forward(self) -> Cameras:
        """The refined cameras, differentiable in rotations and translations."""
        center = self.given.object_to_camera[:, :3, 3]                 # (V, 3)
        distance = center.norm(dim=-1, keepdim=True)
        rotation = rotations(self.turn * self.free)                    # (V, 3, 3)
        translation = center - (rotation @ center[..., None])[..., 0] \
            + distance * self.shift * self.free
        last = numbers_like(self.view, 0.0, 0.0, 0.0, 1.0).expand(len(rotation), 1, 4)
        change = torch.cat([torch.cat([rotation, translation[..., None]], -1), last], 1)
        return replace(self.given, view=change @ self.view)

    def refined(self) -> Cameras:
        """Return the refined cameras as constants."""
        with torch.no_grad():
            return self()


class PoseTrainer:
    """The refinement with its optimiser.

    The gradients of the networks are clipped without those of the cameras, which Adam scales by
    themselves: networks learn as fast as with fixed cameras.

    Args:
        cameras: the training views', on their device.
    """

    def __init__(self, cameras: Cameras) -> None:
        self.poses = PoseRefinement(cameras)
        self.optimizer = torch.optim.Adam(self.poses.parameters(), lr=0.0)

    def cameras(self, rate: float) -> Cameras:
        """The refined cameras, with their graph in a step of some rate."""
        return self.poses() if rate > 0 else self.poses.refined()

    def norm(self) -> Tensor:
        """Scalar, of the gradient of the last backward pass; 0 where there is none."""
        grads = [p.grad.norm() for p in self.poses.parameters() if p.grad is not None]
        return torch.stack(grads).norm() if grads else self.poses.view.new_zeros(())

    def update(self, rate: float) -> None:
        """A step of Adam, where the last backward pass reached the cameras; forgets gradients."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Given cameras, corrections and optimiser."""
        return {"poses": self.poses.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore what `state_dict` gave; CheckpointError where there is nothing."""
        if state is None:
            raise CheckpointError("the run was trained without --refine_cameras 1; go on without "
                                  "it, or give --restart 1 to delete that run")
        load_state(self.poses, state["poses"], "cameras of the run's checkpoint")
        load_adam(self.optimizer, state["optimizer"])


def moved_along(cameras: Cameras, given: Cameras, refined: Cameras) -> Cameras:
    """Other cameras in the frame of the refined ones.

    Refined cameras may differ from the given ones as a whole by a similarity, which no photograph
    tells. Without it, held-out views would be rendered from the wrong place.

    Args:
        cameras: any, which belong to `given`.
        given, refined: V cameras each, the same views.
    """
    motion = similarity_between(given, refined)
    world = given.model.double().cpu()
    view = cameras.view.double().cpu() @ world @ torch.linalg.inv(motion) @ torch.linalg.inv(world)
    # camera space measures as before, so that the view matrix stays rigid
    view[:, :3] *= torch.linalg.det(motion[:3, :3]) ** (1 / 3)
    return replace(cameras, view=view.to(cameras.view))


def similarity_between(given: Cameras, refined: Cameras) -> Tensor:
    """(4, 4) float64, S: the refined cameras see S x where the given ones see x, object space.

    Least squares over images of points about the origin, by Gauss-Newton. Rotations and centres of
    the cameras would not do: errors that cancel in the image, as of depth against scale, count
        there.
    """
    given, refined = (cameras.to("cpu", torch.float64) for cameras in (given, refined))
    ticks = torch.tensor([-PROBE_REACH, 0.0, PROBE_REACH], dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks, ticks)                 # (27, 3)
    seen, _ = given.project(points)                                    # (V, 27, 2)

    def misses(parameters: Tensor) -> Tensor:
        motion = _similarity(parameters)
        moved = points @ motion[:3, :3].T + motion[:3, 3]
        return (refined.project(moved)[0] - seen).reshape(-1)

    parameters = torch.zeros(7, dtype=torch.float64)
    for _ in range(NUM_NEWTON_STEPS):
        slopes = torch.autograd.functional.jacobian(misses, parameters)             # (V * 54, 7)
        change = torch.linalg.lstsq(slopes, misses(parameters)[:, None], driver="gelsd").solution
        parameters = parameters - change[:, 0]
    return _similarity(parameters)


def _similarity(parameters: Tensor) -> Tensor:
    """(4, 4), the exponential of the sum of rotation (3), translation (3), logarithm of scale."""
    x, y, z, *shift, scale = parameters
    zero = torch.zeros_like(x)
    rows = [scale, -z, y, shift[0], z, scale, -x, shift[1], -y, x, scale, shift[2], *[zero] * 4]
    return torch.linalg.matrix_exp(torch.stack(rows).reshape(4, 4))
