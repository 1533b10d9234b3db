"""Cameras between and around the training cameras, from which the teacher is looked at."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.geometry.camera_paths import interpolate_cameras
from utils.geometry.cameras import Cameras, rotations

#: A virtual camera lies between a training camera and one of so many nearest ones.
NUM_NEIGHBOURS = 3
#: Turn about the object beside the way between the two: standard deviation as a fraction of the
#: angle between neighbouring cameras.
TURN = 0.35
#: Range of the zoom.
ZOOM = (0.8, 1.25)


def virtual_cameras(cameras: Cameras, count: int, generator: torch.Generator) -> Cameras:
    """Return random cameras that look at the object as the training cameras do, or nearly so.

    Each is taken from the way between a training camera and a near one, turned about the origin of
    object space, and zoomed.

    Args:
        cameras: V training cameras on the CPU; held-out ones are not among them.
        count: how many.
        generator: on the CPU.
    """
    dirs = F.normalize(cameras.centers_obj, dim=-1)
    angles = torch.acos((dirs @ dirs.T).clamp(-1, 1))
    angles.fill_diagonal_(torch.inf)
    nearest = angles.argsort(1)[:, :NUM_NEIGHBOURS]
    spacing = float(angles.amin(1).median()) if len(cameras) > 1 else 0.2
    found = []
    order = torch.randperm(len(cameras), generator=generator)
    for number in range(count):
        first = int(order[number % len(cameras)])
        camera = cameras[first]
        if len(cameras) > 1:
            choices = nearest[first][:len(cameras) - 1]
            second = int(choices[torch.randint(len(choices), (), generator=generator)])
            step = int(torch.randint(1, 8, (), generator=generator))
            camera = interpolate_cameras(cameras[[first, second]], 9)[step]
        found.append(_moved(camera, TURN * spacing, generator))
    return Cameras(torch.cat([camera.view for camera in found]),
                   torch.cat([camera.projection for camera in found]), cameras.model,
                   cameras.resolution)


def _moved(camera: Cameras, turn: float, generator: torch.Generator) -> Cameras:
    """Return one camera turned about the object by some radians, and zoomed."""
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:3, :3] = rotations(turn * torch.randn(3, generator=generator).double())
    model = camera.model.double()
    view = camera.view.double() @ model @ rotation @ torch.linalg.inv(model)
    zoom = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * float(torch.rand((), generator=generator))
    return Cameras(view.to(camera.view), zoomed(camera.projection, zoom), camera.model,
                   camera.resolution)


def zoomed(projection: Tensor, factor: float) -> Tensor:
    """Return projection matrices (V, 4, 4) whose focal lengths are multiplied by a factor."""
    scale = torch.ones_like(projection)
    scale[:, :2, :2] = factor
    return projection * scale
