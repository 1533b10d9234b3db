"""New views that are replayed, from the rays to the image."""
from __future__ import annotations

from dataclasses import fields

from torch import Tensor

from stages.view_rendering import Rendering, ViewRenderer
from utils.fast.replays import Outputs, Replayed
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.geometry.cameras import Cameras
from utils.geometry.rays import Rays, Tracer, camera_rays

MOST_SIZES = 3            # of frames whose recordings are kept: at rest, in motion, one more


class ReplayingRenderer(ViewRenderer):
    """Renders new views as `ViewRenderer` does, each number and size of them recorded once.

    The surface is that of the first frame: weights must not change meanwhile.

    Args:
        renderer: whose model, sources and features are used; nothing is computed again.
    """

    def __init__(self, renderer: ViewRenderer) -> None:
        self.model, self.sources = renderer.model, renderer.sources
        self.occ_threshold, self.features = renderer.occ_threshold, renderer.features
        self.tracer, self.is_dense = own_tracer(renderer.tracer, self.features.is_cuda), True
        self._replayed: dict[tuple, Replayed] = {}

    def frame(self, cameras: Cameras, own: Tensor) -> Rendering:
        """See `ViewRenderer.frame`."""
        key = len(cameras), cameras.resolution
        if key not in self._replayed:
            while len(self._replayed) >= MOST_SIZES:
                self._replayed.pop(next(iter(self._replayed)))
            self._replayed[key] = Replayed(
                lambda *inputs: self._outputs(cameras.resolution, *inputs), own.device)
        rays = camera_rays(cameras)
        parts = [getattr(rays, part.name) for part in fields(Rays)]
        found = self._replayed[key](own, cameras.view, cameras.projection, cameras.model, *parts)
        return Rendering(*(None if part is None else part.clone() for part in found))

    def _outputs(self, resolution: tuple[int, int], own: Tensor, view: Tensor, projection: Tensor,
                 model: Tensor, *rays: Tensor) -> Outputs:
        """Return the fields of the rendering."""
        cameras = Cameras(view, projection, model, resolution)
        found = self.rendering(cameras, own, Rays(*rays))
        return [getattr(found, part.name) for part in fields(Rendering)]


def own_tracer(tracer: Tracer, is_cuda: bool) -> Tracer:
    """Return a tracer like this one, with a grid that no other call replaces.

    A graph reads the grid's memory, which the trainer's tracer would give back. On a CPU it
    evaluates the SDF plainly: threads and compiled loops would go unrecorded.
    """
    if not isinstance(tracer, DeviceTracer):
        return tracer
    found = DeviceTracer(tracer.differentiable_hits, tracer.num_mask_samples,
                         tracer.make_evaluator if is_cuda else lambda sdf: sdf)
    found.uses_kernel = tracer.uses_kernel
    return found
