"""The first trace of all training views, kept on disk for runs that start from the same surface."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from utils.geometry.cameras import Cameras
from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.config.sections import DataConfig
from utils.errors import CheckpointError
from utils.views.training_views import SurfaceBuffer

FORMAT = 1                # of the files; raise it when tracers find other points

log = logging.getLogger(__name__)


def fill_buffer(buffer: SurfaceBuffer, sdf: nn.Module, cameras: Cameras, trace: Callable[[], None],
                *, data: DataConfig, tracer: str = "") -> None:
    """Fill a buffer from `precomputed_3D_point_buffers`, or by tracing.

    A file's name tells the surface and cameras that it belongs to, so that one of another scene,
    size or network is never taken, nor written over.

    Args:
        buffer: of the training views.
        sdf: the surface.
        cameras: of the training views.
        trace: fills the buffer.
        data: folder, and whether to read and write it.
        tracer: name of what traces; each has files of its own.
    """
    folder = data.precomputed_3D_point_buffers
    path = Path(folder) / f"{surface_key(sdf, cameras, tracer)}.pth" if folder else None
    if path and data.load_3D_point_buffers and path.is_file():
        try:
            buffer.load_state_dict(load_checkpoint(path, buffer.t.device))
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} holds no traced surface of these views; delete it, or "
                                  "give --load_3D_point_buffers 0") from error
        log.info("hits of %d views: from %s", len(cameras), path)
        return
    trace()
    if path and data.save_3D_point_buffers:
        save_checkpoint(path, buffer.state_dict())


def surface_key(sdf: nn.Module, cameras: Cameras, tracer: str = "") -> str:
    """A short name of a surface, the cameras that look at it and the tracer that finds it."""
    digest = hashlib.sha256(repr((FORMAT, tracer, cameras.resolution)).encode())
    tensors = [*sdf.state_dict().values(), cameras.view, cameras.projection, cameras.model]
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
