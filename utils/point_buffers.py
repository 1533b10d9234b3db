"""The first trace of all training views, kept on disk for runs that start from the same surface."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from utils.cameras import Cameras
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.config_sections import DataConfig
from utils.views import SurfaceBuffer

log = logging.getLogger(__name__)


def fill_buffer(buffer: SurfaceBuffer, sdf: nn.Module, cameras: Cameras, trace: Callable[[], None],
                *, data: DataConfig) -> None:
    """Fill a buffer from `precomputed_3D_point_buffers`, or by tracing.

    A file's name tells the surface and cameras that it belongs to, so that one of another scene,
    size or network is never taken, nor written over.

    Args:
        buffer: of the training views.
        sdf: the surface.
        cameras: of the training views.
        trace: fills the buffer.
        data: folder, and whether to read and write it.
    """
    folder = data.precomputed_3D_point_buffers
    path = Path(folder) / f"{surface_key(sdf, cameras)}.pth" if folder else None
    if path and data.load_3D_point_buffers and path.is_file():
        buffer.load_state_dict(load_checkpoint(path, buffer.t.device))
        log.info("hits of %d views: from %s", len(cameras), path)
        return
    trace()
    if path and data.save_3D_point_buffers:
        save_checkpoint(path, buffer.state_dict())


def surface_key(sdf: nn.Module, cameras: Cameras) -> str:
    """A short name of a surface and the cameras that look at it: equal only for equal ones."""
    digest = hashlib.sha256(repr(cameras.resolution).encode())
    tensors = [*sdf.state_dict().values(), cameras.view, cameras.projection, cameras.model]
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
