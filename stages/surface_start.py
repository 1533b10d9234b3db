"""What a scene's surface starts as (`--init`): sphere, visual hull, stereo, or the best of them."""
from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data_processing.matching.pictures import matches_grid
from data_processing.scenes.scene import Scene
from data_processing.scenes.splits import Split
from data_processing.stereo.fusion import ball
from data_processing.stereo.pictures import stereo_grid
from data_processing.stereo.stereo_start import (
    SurfaceChoice,
    choose_surface,
    stereo_surface,
    why_no_stereo,
)
from scheduler import StepPlan, warmup_factor
from stages.shape_fitting import SPHERE_RADIUS, carve_start, fit_hull
from training import SceneTrainer
from utils.checkpoints.checkpoint import Checkpoint
from utils.command_names import typed
from utils.config.parser import Config
from utils.errors import SceneError
from utils.geometry.visual_hull import Hull
from utils.results.pictures import save_png
from utils.views.training_views import TrainingViews, views_of

log = logging.getLogger(__name__)

#: Image grid of the start, in the run's folder of pictures, and its caption in the report.
PICTURE_FILE = "start.png"
PICTURE_CAPTION = "What the surface started as, seen by the training views"
MATCHES_FILE = "matches.png"
MATCHES_CAPTION = "Points at which the training photographs match, before the first step"
KIND_NAMES = {"hull": "visual hull", "stereo": "stereo of the training views"}
KINDS = ("sphere", *KIND_NAMES)
#: Of the steps on the shape alone: first ones, over which the learning rate rises.
NUM_RISING_STEPS = 5
#: Entry of a run's checkpoints that tells its kind, where `--init` does not.
ENTRY = "start"


class SurfaceStart:
    """What a scene's surface starts as, before its first step (`--init`).

    Hull and stereo are computed when this is made, so that input which does not serve is told
    before anything is written. A run that resumes has its surface already: nothing is computed,
    and its kind is the one that it began with.

    Args:
        scene, split: what is carved and matched are the training views.
        config: of a training script.
        resumed: the checkpoint that the run resumes from; None: it is new.
        device: on which stereo is computed.
    Attributes:
        kind: sphere, hull or stereo.
        choice: None for `--init sphere`, and for a run that resumes.
        seconds: that this took; they are part of the training's time.
    Raises:
        SceneError: `--init` is hull or stereo, and the scene has no masks, or none that agree, or
            no two views near enough to each other.
    """

    def __init__(self, scene: Scene, split: Split, config: Config, *,
                 resumed: Checkpoint | None = None, device: torch.device | str = "cpu") -> None:
        begin, self.config = time.perf_counter(), config
        self.choice: SurfaceChoice | None = None
        self.views: TrainingViews | None = None
        init, where = config.sdf.init, str(scene.path or scene.name)
        if init in ("hull", "stereo") and not scene.has_masks:
            raise SceneError(f"{where}: --init {init}: the scene has no masks, need them to "
                             f"carve a hull; add them ({typed('import')} makes them of a plain "
                             "background), or give --init sphere")
        kind = init if resumed is None else stored_kind(resumed.content) or init
        if kind == "auto" or (kind != "sphere" and resumed is None):
            self.views = views_of(scene, split.train, device)
            self.choice = _choice(init, self.views, scene.has_masks, where)
            _tell(self.choice)
            kind = self.choice.kind
        self.kind = kind
        self.seconds = time.perf_counter() - begin

    @property
    def entries(self) -> dict[str, Any]:
        """What checkpoints have to tell of it: its kind, where that is not the flag's value."""
        return {} if self.kind == self.config.sdf.init else {ENTRY: self.kind}

    def adjust(self, plan: StepPlan) -> StepPlan:
        """The plan of a step as a surface from masks needs it (`--start_mask_alpha`)."""
        if self.kind == "sphere":
            return plan
        return replace(plan, alpha=max(plan.alpha, self.config.tracing.start_mask_alpha))

    def begin(self, trainer: SceneTrainer, pictures: Path | None = None) -> None:
        """Fit the surface where it does not start as it is, improve it by the photographs, trace
        it, and draw what it starts as.

        Args:
            trainer: of the run.
            pictures: folder for the image grid; None: none is drawn.
        """
        choice = self.choice
        if choice is not None and choice.kind != "sphere":
            grid = replace(choice.grid, distance=choice.grid.distance.cpu(),
                           center=choice.grid.center.cpu())
            fit_hull(trainer.model.sdf, grid, trainer.generator,
                     kind=KIND_NAMES[choice.kind])
            improve_shape(trainer, self.config.sdf.start_shape_steps,
                          learning_rate=self.config.rates.lr_sdf)
        trainer.trace_first(self.config.data)
        if pictures is not None:
            draw_matches(trainer, pictures)
        views = self.views
        if choice is not None and views is not None and pictures is not None:
            save_png(pictures / PICTURE_FILE, stereo_grid(
                views.cameras, views.images, views.masks, choice.grid, maps=choice.maps,
                names=views.names, title=f"start: {KIND_NAMES.get(choice.kind, choice.kind)}"))


def draw_matches(trainer: SceneTrainer, pictures: Path) -> None:
    """Draw the points at which the training photographs match, where they supervise the shape."""
    found = trainer.shape.matches and trainer.shape.matches.points
    if not found:
        return
    with torch.no_grad():
        distances = trainer.model.sdf(found.points_obj(trainer.current_views().cameras))
    save_png(pictures / MATCHES_FILE, matches_grid(
        trainer.views, found, distances, title=f"{len(found)} points of matching photographs"))


def improve_shape(trainer: SceneTrainer, num_steps: int, *, learning_rate: float) -> None:
    """Train the shape alone, by photo-consistency, masks and eikonal term; no network is run.

    The learning rate rises over the first steps and Adam is a new one. Where a step is not finite,
    the shape stays as it was before all of them.

    Args:
        trainer: of the run; its plan of the first step tells the sharpness of the soft mask.
        num_steps: 0: nothing is done, nor where Phi is not trained.
        learning_rate: of Phi.
    """
    begin, sdf, plan = time.perf_counter(), trainer.model.sdf, trainer.plan(0)
    if num_steps == 0 or not all(parameter.requires_grad for parameter in sdf.parameters()):
        return
    before = {name: value.clone() for name, value in sdf.state_dict().items()}
    optimizer = torch.optim.Adam(sdf.parameters(), learning_rate)
    trainer.trace_all()
    for step in tqdm(range(num_steps), desc="shape of the start", unit="step", leave=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warmup_factor(step, NUM_RISING_STEPS)
        optimizer.zero_grad(set_to_none=True)
        _shape_loss(trainer, plan).backward()
        norm = torch.nn.utils.clip_grad_norm_(sdf.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            log.warning("surface: step %d on the shape alone is not finite; it stays as it was "
                        "fitted", step)
            sdf.load_state_dict(before)
            break
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    log.info("surface: %d steps on the shape alone in %.1f s", num_steps,
             time.perf_counter() - begin)


def _shape_loss(trainer: SceneTrainer, plan: StepPlan) -> Tensor:
    """Return the weighted losses on the shape in views drawn now; photo-consistency has weight 1.
    """
    views = trainer.sampled.draw(trainer.generator, trainer.buffer, trainer.refined_cameras(plan))
    surface, losses = trainer.shape_losses(views, plan)
    losses["photo_consistency"] = trainer.photo_consistency(views, surface, plan)
    weights = trainer.weights(plan) | {"photo_consistency": 1.0}
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def stored_kind(content: dict[str, Any]) -> str | None:
    """The kind that a run began with, from its checkpoint; None where that does not tell it.

    Args:
        content: of the checkpoint.
    """
    sections = content.get("config")
    section = sections.get("sdf") if isinstance(sections, dict) else None
    init = section.get("init") if isinstance(section, dict) else None
    return next((kind for kind in (content.get(ENTRY), init) if kind in KINDS), None)


def _choice(init: str, views: TrainingViews, has_masks: bool, where: str) -> SurfaceChoice:
    """What `--init` hull, stereo or auto starts from."""
    if init == "hull":
        return SurfaceChoice("hull", carve_start(views.cameras, views.masks, where))
    hull, reason = None, "the scene has no masks"
    if has_masks:
        try:
            hull = _on_device(carve_start(views.cameras, views.masks, where, init=init), views)
        except SceneError:
            if init == "stereo":
                raise
            reason = "the masks of the training views agree on no point inside the unit sphere"
    if init == "auto":
        like = hull or _on_device(Hull(torch.zeros(64, 64, 64), torch.zeros(3), 1.0), views)
        return choose_surface(views.cameras, views.images, views.masks, hull,
                              sphere=ball(SPHERE_RADIUS, like), reason=reason)
    assert hull is not None, "a scene without masks, or with none that agree, was refused"
    reason = why_no_stereo(views.cameras, hull)
    if reason:
        raise SceneError(f"{where}: --init stereo: {reason}, need sources that show the same "
                         "patches; give more training views, or --init auto, which takes the "
                         "visual hull then")
    found = stereo_surface(views.cameras, views.images, views.masks, hull)
    if not bool((found.grid.distance <= 0).any()):
        raise SceneError(f"{where}: --init stereo: nothing is left of the surface, need "
                         "photographs that agree with each other; give --init auto")
    return SurfaceChoice("stereo", found.grid, maps=found.maps)


def _on_device(hull: Hull, views: TrainingViews) -> Hull:
    """The hull where the views are."""
    device = views.images.device
    return replace(hull, distance=hull.distance.to(device), center=hull.center.to(device))


def _tell(choice: SurfaceChoice) -> None:
    """Log what the surface starts as, and why it is not a better kind."""
    tested = ", ".join(f"{kind} {value:.1f}" for kind, value in choice.psnr.items())
    if choice.reason:
        log.warning("surface: starts as the %s, as %s", KIND_NAMES.get(choice.kind, choice.kind),
                    choice.reason)
    if tested:
        log.info("surface: %s (training views rendered from each other, dB: %s)",
                 KIND_NAMES.get(choice.kind, choice.kind), tested)
