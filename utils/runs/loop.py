"""The loop round a training step: checkpoints, resume, time limit, curve, TensorBoard.

It knows nothing of models: a `Task` brings the step.
"""
from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from utils.checkpoints.storage import (
    CHECKPOINT_FORMAT,
    checkpoint_name,
    keep_latest,
    save_checkpoint,
)
from utils.config.saving import config_to_dict
from utils.config.sections import RunConfig, ViewsConfig
from utils.errors import CheckpointError, WriteError
from utils.fast.memory import give_back_freed, pass_over_what_stays
from utils.runs.recovery import MOST_IN_ROW, MOST_TRIES, LostStepsError, Setbacks
from utils.runs.resume import check_changes
from utils.runs.run import Run
from utils.runs.seeds import random_state, set_random_state

log = logging.getLogger(__name__)

CURVE_ROWS = 200          # rows of losses in a curve, beside those with scores
GPU_READ_INTERVAL = 20    # steps, at least: reading a loss makes the host wait for the device
NOTICE_INTERVAL = 50      # steps between looks at whether the task is in trouble


class Task(Protocol):
    """What a loop trains."""

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by a factor, instead of the last."""

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One step; detached scalars by name, "total" among them.

        Raises:
            FloatingPointError: it was not finite, and nothing was changed.
        """

    def notices(self) -> dict[str, str]:
        """What is wrong now, though every number is finite: a short name and a sentence each."""

    def score(self, step: int) -> dict[str, float]:
        """Figures on withheld data after `step` steps; empty where there is none."""

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Picture sheets (H, W, 3) uint8 by name, after `step` steps."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


@dataclass(frozen=True)
class LoopOptions:
    """When a loop stops, saves, scores and draws; intervals in steps, 0 = never.

    Attributes:
        num_steps: steps in all, those before a resume counted.
        time_limit: seconds of training in all, 0 = none.
        save_interval, keep: checkpoints.
        scalar_interval, picture_interval: TensorBoard.
        score_steps, score_interval: withheld views are scored after so many steps.
    """

    num_steps: int
    time_limit: float = 0.0
    save_interval: int = 0
    keep: int = 2
    scalar_interval: int = 1
    picture_interval: int = 0
    score_steps: tuple[int, ...] = ()
    score_interval: int = 0


@dataclass
class Progress:
    """How far a loop is: steps done, seconds spent training, and the curve's rows so far.

    `setbacks` are steps that were not finite, `notices` what is wrong now, `seed` is that of a run
    that is over, None while one is going on.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    seed: int | None = None
    setbacks: Setbacks = field(default_factory=Setbacks)
    notices: dict[str, str] = field(default_factory=dict)


def steps_per_epoch(views: ViewsConfig, num_views: int) -> int:
    """An epoch is total_number_source_views draws of a training view; -1: one of each."""
    return views.total_number_source_views if views.total_number_source_views > 0 else num_views


def loop_options(run: RunConfig, epoch: int) -> LoopOptions:
    """The flags of a run as settings of its loop; `epoch` is steps_per_epoch."""
    return LoopOptions(
        num_steps=run.num_steps if run.num_steps >= 0 else run.num_epochs * epoch,
        time_limit=run.time_limit, keep=run.keep_checkpoints,
        save_interval=run.steps_til_ckpt if run.steps_til_ckpt > 0 else run.epochs_til_ckpt * epoch,
        scalar_interval=run.steps_til_summary, picture_interval=run.steps_til_pictures,
        score_steps=run.eval_steps, score_interval=run.eval_interval)


def run_facts(run: Run, progress: Progress) -> dict[str, Any]:
    """What metrics.json says of a run beside its figures."""
    device = str(run.device) if run.device.type == "cpu" else torch.cuda.get_device_name(run.device)
    return {"steps": progress.step, "train_seconds": round(progress.seconds, 3),
            "seed": run.config.run.seed if progress.seed is None else progress.seed,
            "device": device, "threads": torch.get_num_threads(),
            "skipped_steps": progress.setbacks.skipped, "notices": list(progress.notices.values())}


def stored_progress(checkpoint: Checkpoint) -> Progress:
    """How far the run was that wrote a checkpoint; step 0 for files that do not say."""
    stored = checkpoint.content
    try:
        return Progress(int(stored.get("step", 0)), float(stored.get("seconds", 0.0)),
                        list(stored.get("curve", [])),
                        stored.get("config", {}).get("run", {}).get("seed"), Setbacks.of(stored))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: its step, seconds, curve or config is of "
                              f"another kind ({error}); give one that a training script "
                              "wrote") from error


class Loop:
    """Steps a task, and keeps it safe: checkpoints, resume, time limit, curve, TensorBoard.

    Args:
        task: what is trained.
        run: its folder, its configuration for the checkpoints, and where it goes on from.
        options: when to do what.
    """

    def __init__(self, task: Task, run: Run, options: LoopOptions) -> None:
        self.task, self.folder, self.options = task, run.folder, options
        self.start, self.config = run.start, config_to_dict(run.config)
        self.begin = run.begin
        self.progress = Progress()
        self._first: dict[str, Any] | None = None      # the state to go back to before any is saved

    def resume(self, start: Checkpoint) -> None:
        """Go on from a checkpoint of this loop; CheckpointError when it is another's.

        A checkpoint of an earlier version may lack what this one stores: seconds count from 0
        then, the curve begins here, and random numbers are those of the seed.
        """
        stored, path = start.content, start.path
        if "task" not in stored or "step" not in stored:
            found = ", ".join(sorted(map(str, stored))[:5])
            raise CheckpointError(f"{path} is no checkpoint of a training run: it has {found}; "
                                  "needed task and step")
        try:
            check_changes(stored.get("config", {}), self.config, path)
            self._restore(stored)
            self.progress.seconds = stored.get("seconds", 0.0)
            self.progress.setbacks = Setbacks.of(stored)
            self.task.scale_rates(self.progress.setbacks.rate_factor)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            what = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path} is of a run with other flags, or of another script "
                                  f"({what}); give the same, or --restart 1 to delete that "
                                  "run") from error
        log.info("goes on from %s: step %d, %.0f s", path.name, self.progress.step,
                 self.progress.seconds)

    def _restore(self, stored: dict[str, Any]) -> None:
        """Task, random state, step and curve of a checkpoint; time and setbacks stay."""
        self.task.load_state_dict(stored["task"])
        if "random" in stored:
            set_random_state(stored["random"])
        self.progress.step, self.progress.curve = stored["step"], stored.get("curve", [])

    def _state(self) -> dict[str, Any]:
        """What `_restore` takes."""
        return {"task": self.task.state_dict(), "random": random_state(),
                "step": self.progress.step, "curve": self.progress.curve}

    def save(self) -> Path:
        """Write a checkpoint of this moment and prune old ones."""
        path = self.folder.checkpoints / checkpoint_name(self.progress.step)
        save_checkpoint(path, {
            "format": CHECKPOINT_FORMAT, **self._state(), "seconds": self.progress.seconds,
            "setbacks": asdict(self.progress.setbacks), "config": self.config})
        keep_latest(self.folder.checkpoints, self.options.keep)
        self._first = None
        self.progress.setbacks.saved(self.progress.step)
        give_back_freed()
        return path

    def run(self, first: Callable[[], None] | None = None) -> Progress:
        """Train until the last step or the time limit; ends with a checkpoint.

        Args:
            first: called before the first step of a run that does not go on from a checkpoint;
                its time counts as training.
        Raises:
            FloatingPointError: steps are not finite, and going back with smaller rates did not
                help; says at which step, and what was saved last.
        """
        if self.start is not None:
            self.resume(self.start)
            self.start.release()
        self.begin()
        options, progress = self.options, self.progress
        if self.start is None and first is not None:
            start = time.perf_counter()
            first()
            progress.seconds += time.perf_counter() - start
        self._first = copy.deepcopy(self._state()) if self.start is None else None
        with (summary_writer(self.folder.summaries, progress.step + 1) as writer,
              tqdm(total=options.num_steps, initial=progress.step, unit="step",
                   desc=self.folder.path.name, dynamic_ncols=True) as bar):
            if progress.step == 0:
                self._report(writer, {}, is_last=options.num_steps == 0)
            while progress.step < options.num_steps and not self._out_of_time():
                before, losses = progress.step, self._timed_step()
                pass_over_what_stays()
                bar.update(progress.step - bar.n)
                if progress.step <= before:                # went back
                    continue
                if losses and progress.step % options.scalar_interval == 0:
                    bar.set_postfix(loss=f"{losses['total']:.4f}", refresh=False)
                is_last = progress.step == options.num_steps or self._out_of_time()
                self._report(writer, losses, is_last=is_last)
                if is_last or _is_due(progress.step, NOTICE_INTERVAL):
                    self._look_for_trouble()
                is_good = progress.setbacks.in_row == 0
                if _is_due(progress.step, options.save_interval) and is_good and not is_last:
                    self.save()
        self.save()
        return progress

    def _timed_step(self) -> dict[str, float]:
        """One step, and its losses where they are read; waiting for them is part of the step.

        A step that is not finite gives none, and `utils.runs.recovery` says what follows.
        """
        progress, start, before = self.progress, time.perf_counter(), self.progress.seconds
        try:
            losses = self.task.train_step(progress.step)
            progress.step += 1
            if losses["total"].device.type != "cpu":
                progress.seconds = before + time.perf_counter() - start
                if not self._is_read():
                    return {}
            values = {name: float(loss) for name, loss in losses.items()}
            if not math.isfinite(values["total"]):
                raise LostStepsError("a loss or a gradient was not finite in this step or since "
                                     f"the last look, up to {GPU_READ_INTERVAL} before")
            progress.setbacks.in_row = 0
        except FloatingPointError as error:
            self._set_back(error)
            values = {}
        progress.seconds = before + time.perf_counter() - start
        return values

    def _set_back(self, error: FloatingPointError) -> None:
        """Skip the step that raised, or go back to the last good checkpoint with half the rates.

        Raises:
            FloatingPointError: going back did not help.
        """
        progress, setbacks = self.progress, self.progress.setbacks
        setbacks.skip()
        if setbacks.in_row < MOST_IN_ROW and not isinstance(error, LostStepsError):
            log.warning("step %d skipped, %d so far: %s", progress.step, setbacks.skipped, error)
            progress.step += 1
            return
        if setbacks.tries == MOST_TRIES:
            raise FloatingPointError(
                f"step {progress.step}: {error}; so it was after each of {MOST_TRIES} returns to "
                f"an earlier state, at last with {setbacks.rate_factor:g} of the rates; the last "
                f"good state is in {self.folder.checkpoints}. experiment_scripts/check_scene.py "
                "tells whether the scene is at fault; else begin again with smaller --lr and "
                "--lr_sdf") from error
        setbacks.go_back(progress.step)
        found = latest_checkpoint(self.folder.checkpoints)
        self._restore(copy.deepcopy(self._first) if found is None else found.content)
        self.task.scale_rates(setbacks.rate_factor)
        log.warning("step %d: %s; goes back to step %d, with %g of the rates", setbacks.failed_at,
                    error, progress.step, setbacks.rate_factor)

    def _look_for_trouble(self) -> None:
        """Log what the task notices, once as long as it lasts."""
        found = self.task.notices()
        for name, text in found.items():
            if name not in self.progress.notices:
                log.warning("after step %d: %s", self.progress.step, text)
        self.progress.notices = found

    def _is_read(self) -> bool:
        """Whether the losses of the step just done are read from a GPU: only every few steps."""
        options, step = self.options, self.progress.step
        often = (options.scalar_interval, options.num_steps // CURVE_ROWS)
        intervals = (GPU_READ_INTERVAL, *(x for x in often if x >= GPU_READ_INTERVAL),
                     options.save_interval, options.score_interval, options.picture_interval)
        return (step == options.num_steps or step in options.score_steps or self._out_of_time()
                or any(_is_due(step, interval) for interval in intervals))

    def _out_of_time(self) -> bool:
        return 0 < self.options.time_limit <= self.progress.seconds

    def _report(self, writer: SummaryWriter, losses: dict[str, float], *, is_last: bool) -> None:
        """Scalars, scores and pictures that are due after this step; their time is not counted."""
        options, step = self.options, self.progress.step
        is_scored = step in options.score_steps or _is_due(step, options.score_interval) or is_last
        scores = self.task.score(step) if is_scored else {}
        is_drawn = options.picture_interval > 0 and (
            _is_due(step, options.picture_interval) or is_last)
        sheets = self.task.pictures(step) if is_drawn else {}
        with _writing(self.folder.summaries):
            if losses and (_is_due(step, options.scalar_interval) or scores):
                for name, value in losses.items():
                    writer.add_scalar(f"loss/{name}", value, step)
            for name, value in scores.items():
                writer.add_scalar(f"withheld/{name}", value, step)
            for name, sheet in sheets.items():
                writer.add_image(name, sheet, step, dataformats="HWC")
        if scores or is_drawn:
            give_back_freed()
        if scores or (losses and _is_due(step, max(options.num_steps // CURVE_ROWS, 1))):
            row = {"step": step, "seconds": round(self.progress.seconds, 3)}
            row |= {f"loss_{name}": value for name, value in losses.items()}
            self.progress.curve.append(row | scores)


@contextmanager
def summary_writer(folder: Path, first_step: int) -> Iterator[SummaryWriter]:
    """TensorBoard's writer; what earlier runs wrote from `first_step` on is not shown any more.

    Raises:
        WriteError: its file cannot be opened or closed.
    """
    with _writing(folder):
        writer = SummaryWriter(str(folder), purge_step=first_step)
    try:
        yield writer
    finally:
        with _writing(folder):
            writer.close()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """WriteError where the summaries in a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}; make room, or give "
                         "another place with --logging_root") from error


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step > 0 and step % interval == 0
