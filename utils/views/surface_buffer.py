"""The first trace of all training views, kept on disk for runs that start from the same surface."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.config.sections import DataConfig
from utils.errors import CheckpointError, ConfigError, WriteError
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, Surface, make_rays

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
    Raises:
        CheckpointError: the file holds something else.
        ConfigError: it cannot be written.
    """
    place = data.precomputed_3D_point_buffers
    path = _file_at(Path(place), surface_key(sdf, cameras, tracer)) if place else None
    if path and data.load_3D_point_buffers and path.is_file():
        try:
            buffer.load_state_dict(load_checkpoint(path, buffer.t.device))
        except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} holds no traced surface of these views; delete it, or "
                                  "give --load_3D_point_buffers 0") from error
        log.info("hits of %d views: from %s", len(cameras), path)
        return
    if path and data.save_3D_point_buffers:
        with _writing_at(place):                           # before the time is spent
            path.parent.mkdir(parents=True, exist_ok=True)
    trace()
    if path and data.save_3D_point_buffers:
        with _writing_at(place):
            save_checkpoint(path, buffer.state_dict())


def _file_at(place: Path, key: str) -> Path:
    """Return the file of a surface at the place that the flag names.

    In a folder it is KEY.pth. A name of a file, as in the released configs, becomes NAME_KEY.pth
    beside it; what is in a file of that name itself is neither read nor changed.
    """
    if place.is_dir() or (place.suffix != ".pth" and not place.is_file()):
        return place / f"{key}.pth"
    if place.is_file():
        log.info("%s is a file that tells nothing of its surface and cameras: hits are kept beside "
                 "it, in %s_....pth", place, place.stem)
    return place.with_name(f"{place.stem}_{key}.pth")


@contextmanager
def _writing_at(place: str) -> Iterator[None]:
    """Turn errors of writing into a ConfigError with the cure."""
    try:
        yield
    except (OSError, WriteError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--precomputed_3D_point_buffers {place}: cannot be written ({why}); "
                          "give another folder, or --save_3D_point_buffers 0") from error


def surface_key(sdf: nn.Module, cameras: Cameras, tracer: str = "") -> str:
    """A short name of a surface, the cameras that look at it and the tracer that finds it."""
    digest = hashlib.sha256(repr((FORMAT, tracer, cameras.resolution)).encode())
    tensors = [*sdf.state_dict().values(), cameras.view, cameras.projection, cameras.model]
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


class SurfaceBuffer:
    """What every training view saw of the surface when it was last traced.

    Kept as distances along each pixel's ray, so that a checkpoint restores it to the bit. Views
    that never were traced are known, so that a short run need not begin with all of them.
    """

    def __init__(self, cameras: Cameras) -> None:
        self.cameras = cameras
        origins, dirs = cameras.pixel_rays()                           # (V, H, W, 3)
        self.origins = origins.permute(0, 3, 1, 2).contiguous()        # (V, 3, H, W)
        self.dirs = dirs.permute(0, 3, 1, 2).contiguous()
        self.t = torch.zeros_like(self.dirs[:, :1])
        self.hit_mask = torch.zeros_like(self.t, dtype=torch.bool)
        self._is_traced = torch.zeros(len(cameras), dtype=torch.bool)  # on the CPU: no waiting

    def untraced(self, index: Tensor) -> Tensor:
        """Those of views `index` (on the CPU) that were never marked as traced."""
        return index[~self._is_traced[index]]

    def rays(self, index: Tensor) -> Rays:
        """Rays of views `index` (T,), flat: (T * H * W,)."""
        flat = [x[index].permute(0, 2, 3, 1).reshape(-1, 3) for x in (self.origins, self.dirs)]
        return make_rays(*flat)

    def store(self, index: Tensor, t: Tensor, hit_mask: Tensor) -> None:
        """Replace views `index` by (T * H * W,) distances and hits."""
        shape = (len(index), 1, *self.t.shape[2:])
        self.t[index] = t.detach().reshape(shape)
        self.hit_mask[index] = hit_mask.reshape(shape)

    def mark_traced(self, index: Tensor) -> None:
        """Views `index` (on the CPU) were stored."""
        self._is_traced[index] = True

    def rays_of_pixels(self, pixels: Tensor) -> Rays:
        """Rays through pixels (N,), numbers among all V * H * W."""
        height, width = self.t.shape[2:]
        view, place = pixels // (height * width), pixels % (height * width)
        row, column = place // width, place % width
        return make_rays(self.origins[view, :, row, column], self.dirs[view, :, row, column])

    def store_pixels(self, pixels: Tensor, t: Tensor, hit_mask: Tensor) -> None:
        """Replace single pixels (N,), numbers among all V * H * W."""
        self.t.view(-1)[pixels] = t.detach()
        self.hit_mask.view(-1)[pixels] = hit_mask

    def move(self, index: Tensor, origins: Tensor, dirs: Tensor) -> None:
        """Other rays of views `index`: (K, 3, H, W) each; distances stay."""
        self.origins[index], self.dirs[index] = origins.detach(), dirs.detach()

    def drop_not_finite(self) -> None:
        """Distances that are not finite become misses, until they are traced again."""
        bad = ~torch.isfinite(self.t)
        self.t[bad], self.hit_mask[bad] = 0.0, False

    def surface(self, index: Tensor) -> Surface:
        """Surface of views `index`, no gradient."""
        points = self.origins[index] + self.t[index] * self.dirs[index]
        return Surface(points, self.hit_mask[index])

    def state_dict(self) -> dict[str, Tensor]:
        """Return distances and hits, for checkpoints."""
        return {"t": self.t.clone(), "hit_mask": self.hit_mask.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; raises ValueError for other views, sizes or kinds."""
        if state["t"].shape != self.t.shape:
            raise ValueError(f"buffered surface is {tuple(state['t'].shape)}, the training views "
                             f"need {tuple(self.t.shape)}")
        if getattr(state["hit_mask"], "shape", None) != self.hit_mask.shape:  # copy_ takes numbers
            raise ValueError(f"the buffered surface's hits are no mask of {tuple(self.t.shape)}")
        self.t.copy_(state["t"])
        self.hit_mask.copy_(state["hit_mask"])
        self._is_traced[:] = True
