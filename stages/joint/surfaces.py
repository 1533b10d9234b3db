"""The surfaces that the runs of many scenes start from, as all views of each scene see them."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_processing.scenes.pool import PoolScene
from stages.models import model_of
from stages.scene import build_scene_trainer
from stages.surface_start import SurfaceStart
from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.config.parser import Config
from utils.errors import CheckpointError
from utils.geometry.cameras import Cameras
from utils.views.regions import Region, ViewRegions, mask_regions
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.training_views import TrainingViews, views_of

log = logging.getLogger(__name__)

#: Fills the buffer of all views of a scene.
FillSurface = Callable[[PoolScene, SurfaceBuffer], None]
#: Regions have sides of multiples of this fraction of the longer side of the image: few shapes, as
#: a convolution's first call for a shape takes milliseconds.
SHAPE_UNIT = 0.25


@dataclass(frozen=True)
class StartedScene:
    """A scene whose surface is known in all of its views.

    Attributes:
        name: of its folder.
        views: all views.
        sources: numbers of the training views, which the surface was made of.
        scored: numbers of the held-out views.
        surface: of all views.
        regions: what of each view is read; None: all of it.
    """

    name: str
    views: TrainingViews
    sources: tuple[int, ...]
    scored: tuple[int, ...]
    surface: SurfaceBuffer
    regions: ViewRegions | None = None


def started_scene(scene: PoolScene, trace: FillSurface,
                  device: torch.device) -> StartedScene:
    """Return a scene with its surface.

    Args:
        scene: with held-out views.
        trace: fills the buffer of all views.
        device: of the views.
    """
    assert scene.scene is not None and scene.split is not None, "the pool keeps whole scenes"
    views = views_of(scene.scene, range(len(scene.scene)), device)
    surface = SurfaceBuffer(views.cameras)
    trace(scene, surface)
    surface.mark_traced(torch.arange(len(views)))
    regions = _regions(views) if device.type == "cpu" else None
    return StartedScene(scene.name, views, scene.split.train, scene.split.test, surface, regions)


def _regions(views: TrainingViews) -> ViewRegions:
    """Return what is read of each view, in few shapes."""
    unit = max(1, round(SHAPE_UNIT * max(views.cameras.resolution)))

    def rounded(regions: list[Region]) -> list[Region]:
        return [region.rounded(unit) for region in regions]

    tight = mask_regions(views.masks)
    return ViewRegions(rounded(tight), rounded([region.grown(1) for region in tight]))


class StartSurfaces:
    """Computes what `--init` starts a scene from, and keeps it in a folder.

    Args:
        config: of the meta-training script.
        device: on which surfaces are computed.
        folder: of the kept surfaces.
    """

    def __init__(self, config: Config, device: torch.device, folder: Path) -> None:
        self.config, self.device, self.folder = config, device, folder

    def __call__(self, scene: PoolScene, surface: SurfaceBuffer) -> None:
        """Fill the buffer of all views of a scene.

        Raises:
            SceneError: the scene does not serve for `--init`, see `SurfaceStart`.
            CheckpointError: what is kept is of something else.
        """
        path = self.folder / f"{scene.name}_{self._key(scene, surface.cameras)}.pth"
        if path.is_file():
            try:
                surface.load_state_dict(load_checkpoint(path, surface.t.device))
            except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as error:
                raise CheckpointError(f"{path} holds no surface of {scene.name}; delete it, and it "
                                      "is computed again") from error
            return
        kind = self._compute(scene, surface)
        log.info("%s: the surface starts as %s", scene.name, kind)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, surface.state_dict())

    def _compute(self, scene: PoolScene, surface: SurfaceBuffer) -> str:
        """Fit Phi to the scene's start as its own run would, and trace it in all views."""
        config, whole, split = self.config, scene.scene, scene.split
        assert whole is not None and split is not None, "the pool keeps whole scenes"
        start = SurfaceStart(whole, split, config, device=self.device)
        model = model_of(config, self.device, is_trained=False)          # but for its Phi
        trainer = build_scene_trainer(model, scene.views.to(self.device), config,
                                      generator=torch.Generator().manual_seed(0),
                                      adjust=start.adjust)
        start.begin(trainer)
        for view in torch.arange(len(surface.cameras)).split(1):
            found = trainer.tracer.trace(trainer.model.sdf, surface.rays(view))
            surface.store(view, found.t, found.hit_mask)
        return start.kind

    def _key(self, scene: PoolScene, cameras: Cameras) -> str:
        """Return a short name of all that the surface depends on."""
        matrices = (cameras.view, cameras.projection, cameras.model)
        run, views = self.config.run, self.config.views                # what a step draws
        facts: list[Any] = [self.config.sdf, self.config.rates, self.config.loss,
                            self.config.tracing, run.batch_size, run.image_batch_size,
                            views.source_views_per_target, views.source_view_selection_mode,
                            cameras.resolution, scene.views.key,
                            *(matrix.cpu().numpy().tobytes() for matrix in matrices)]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
