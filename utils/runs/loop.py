"""The loop round a training step: checkpoints, resume, time limit, recovery, reports.

It knows nothing of models: a `Task` brings the step.
"""
from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.checkpoints.checkpoint import Checkpoint, latest_checkpoint, of_a_run
from utils.checkpoints.storage import (
    CHECKPOINT_FORMAT,
    checkpoint_name,
    keep_latest,
    save_checkpoint,
)
from utils.command_names import typed
from utils.config.saving import config_to_dict
from utils.errors import CheckpointError
from utils.fast.memory import give_back_freed
from utils.runs.progress import Progress, entry_of
from utils.runs.recovery import MAX_SKIPPED_IN_ROW, MAX_TRIES, LostStepsError, RecoveryState
from utils.runs.reporting import NUM_CURVE_ROWS, ProgressLine, Reporter, summary_writer
from utils.runs.resume import check_changes
from utils.runs.run import Run
from utils.runs.seeds import random_state, set_random_state
from utils.runs.stopping import (
    PAUSE_NAME,
    RunStopped,
    StopRequest,
    is_paused,
    set_paused,
    stop_requests,
    wait_while_paused,
)
from utils.runs.task import LoopOptions, Task, is_due

log = logging.getLogger(__name__)

GPU_READ_INTERVAL = 20    # steps, at least: reading a loss makes the host wait for the device
WARNING_INTERVAL = 50     # steps between looks at whether the task has warnings


class Loop:
    """Steps a task, and keeps it safe: checkpoints, resume, time limit, recovery, reports.

    Args:
        task: what is trained.
        run: its folder, its configuration for the checkpoints, and the checkpoint to resume from.
        options: when to do what.
        entries: further entries of all its checkpoints, by name.

    Attributes:
        progress: how far the training is.
    """

    def __init__(self, task: Task, run: Run, options: LoopOptions, *,
                 entries: Mapping[str, Any] | None = None) -> None:
        self.entries = dict(entries or {})
        self.task, self.folder, self.options = task, run.folder, options
        self.start, self.config = run.start, config_to_dict(run.config)
        self.begin = run.begin
        self.progress = Progress()
        self._first: dict[str, Any] | None = None      # what to return to before any is saved
        self._stop = StopRequest()
        self._is_unread = False                        # the last step's losses are on a GPU

    def run(self, first: Callable[[], None] | None = None) -> Progress:
        """Train until the last step or the time limit, and save a checkpoint at the end.

        Args:
            first: called before the first step, unless the run resumes from a checkpoint; its time
                counts as training.
        Returns:
            How far the training came.
        Raises:
            FloatingPointError: steps are not finite, and returns with smaller learning rates did
                not help; says at which step, and what was saved last.
            RunStopped: a signal asked for it; the checkpoint is saved.
        """
        if self.start is not None:
            self.resume(self.start)
            self.start.release()
        self.begin()
        set_paused(self.folder.path, False)            # a pause ends with its process
        if self.start is None:
            if first is not None:
                start = time.perf_counter()
                first()
                self.progress.seconds += time.perf_counter() - start
            self._first = copy.deepcopy(self._state())
        with stop_requests() as self._stop:
            self._train()
            path = self.save()
        if self._stop.number is not None:
            raise RunStopped(self._stop.number, f"{self.progress.step} steps are saved in {path}; "
                             "the same command without --restart resumes from there")
        return self.progress

    def _train(self) -> None:
        """Take steps until the last one, the time limit, or a signal."""
        options, progress, folder = self.options, self.progress, self.folder
        with (summary_writer(folder.summaries, progress.step + 1) as writer,
              ProgressLine(folder.path.name, options.num_steps, progress.step,
                           self.task.step_kind) as line):
            reporter = Reporter(self.task, options, progress, folder=folder, writer=writer,
                                line=line)
            if progress.step == 0:
                self._report(reporter, {}, is_last=options.num_steps == 0)
            while progress.step < options.num_steps and not self._is_out_of_time() \
                    and not self._is_stopped():
                if self._is_paused():
                    self._pause(line)
                    continue
                line.begin_step(progress.step)
                before, seconds, losses = progress.step, progress.seconds, self._timed_step()
                if losses and progress.step % (options.scalar_interval or 1) == 0:
                    line.show(loss=f"{losses['total']:.4f}")
                line.end_step(progress.step, progress.seconds - seconds)
                if progress.step > before:                 # else it returned to a checkpoint
                    self._finish_step(reporter, losses, progress.seconds - seconds)

    def _is_paused(self) -> bool:
        """Whether to wait now; on a GPU only after a step whose losses were read.

        A pause that the run cannot follow is ended, so that nobody takes it for one.
        """
        if not is_paused(self.folder.path):
            return False
        if not self.options.may_pause:
            log.warning("a run of several processes cannot be paused: it goes on, %s is deleted",
                        self.folder.path / PAUSE_NAME)
            set_paused(self.folder.path, False)
        return self.options.may_pause and not self._is_unread

    def _pause(self, line: ProgressLine) -> None:
        """Save the present step, and wait until the pause ends or a signal comes."""
        if self.progress.recovery.in_row == 0:
            self.save()
        log.info("paused after step %d; delete %s, or resume in the live viewer, to go on",
                 self.progress.step, self.folder.path / PAUSE_NAME)
        line.stage("paused")
        wait_while_paused(self.folder.path, lambda: bool(self._stop))
        log.info("goes on after step %d", self.progress.step)

    def _finish_step(self, reporter: Reporter, losses: dict[str, float], seconds: float) -> None:
        """Report, warn and save, each if it is due after this step, which took so long."""
        step = self.progress.step
        is_last = step == self.options.num_steps or self._is_out_of_time()
        self._report(reporter, losses, is_last=is_last, seconds=seconds)
        if is_last or is_due(step, WARNING_INTERVAL):
            self._warn()
        is_good = self.progress.recovery.in_row == 0
        if is_due(step, self.options.save_interval) and is_good and not is_last:
            self.save()

    def _report(self, reporter: Reporter, losses: dict[str, float], *, is_last: bool,
                seconds: float | None = None) -> None:
        """Report what is due; memory that renderings took is given back to the system."""
        if reporter.report(losses, is_last=is_last, seconds=seconds):
            give_back_freed()

    def _timed_step(self) -> dict[str, float]:
        """Take one step; return its losses where they are read.

        Waiting for the losses counts as part of the step. A step that is not finite has none, and
        `utils.runs.recovery` says what follows.
        """
        progress, start, before = self.progress, time.perf_counter(), self.progress.seconds
        self._is_unread = False
        try:
            losses = self.task.train_step(progress.step)
            progress.step += 1
            if losses["total"].device.type != "cpu":
                progress.seconds = before + time.perf_counter() - start
                if not self._is_read():
                    self._is_unread = True
                    return {}
            values = {name: float(loss) for name, loss in losses.items()}
            if not math.isfinite(values["total"]):
                raise LostStepsError("a loss or a gradient was not finite in this step or in one "
                                     f"of up to {GPU_READ_INTERVAL} steps before it")
            progress.recovery.in_row = 0
        except FloatingPointError as error:
            self._recover(error)
            values = {}
        progress.seconds = before + time.perf_counter() - start
        return values

    def _is_read(self) -> bool:
        """Whether the losses of the step just done are read from a GPU: only every few steps."""
        options, step = self.options, self.progress.step
        often = (options.scalar_interval, options.num_steps // NUM_CURVE_ROWS)
        intervals = (GPU_READ_INTERVAL, *(x for x in often if x >= GPU_READ_INTERVAL),
                     options.save_interval, options.score_interval, options.picture_interval)
        return (step == options.num_steps or step in options.score_steps
                or self._is_out_of_time() or bool(self._stop) or is_paused(self.folder.path)
                or any(is_due(step, interval) for interval in intervals))

    def _is_out_of_time(self) -> bool:
        return 0 < self.options.time_limit <= self.progress.seconds

    def _is_stopped(self) -> bool:
        """Whether to stop now; on a GPU only after a step whose losses were read."""
        return bool(self._stop) and not self._is_unread

    def _recover(self, error: FloatingPointError) -> None:
        """Skip the step that raised, or return to the last checkpoint with half the rates.

        Raises:
            FloatingPointError: earlier returns did not help.
        """
        progress, recovery = self.progress, self.progress.recovery
        recovery.skip()
        if recovery.in_row < MAX_SKIPPED_IN_ROW and not isinstance(error, LostStepsError):
            log.warning("step %d skipped, %d so far: %s", progress.step, recovery.skipped, error)
            progress.step += 1
            return
        if recovery.tries == MAX_TRIES:
            raise FloatingPointError(
                f"step {progress.step}: {error}; this happened again after each of {MAX_TRIES} "
                f"returns to an earlier state, at last with {recovery.rate_factor:g} of the "
                f"learning rates; the last good state is in {self.folder.checkpoints}. "
                f"{typed('check')} tells whether the scene is at fault; otherwise "
                "start again with smaller --lr and --lr_sdf") from error
        self._return_to_checkpoint(error)

    def _return_to_checkpoint(self, error: FloatingPointError) -> None:
        """Restore the last checkpoint, or the start if none is saved yet, with half the rates."""
        progress, recovery = self.progress, self.progress.recovery
        recovery.go_back(progress.step)
        found = latest_checkpoint(self.folder.checkpoints)
        state = copy.deepcopy(self._first) if found is None else found.content
        if state is None:
            raise CheckpointError(f"step {progress.step}: {error}; the run should return to its "
                                  f"last checkpoint, but none can be read in "
                                  f"{self.folder.checkpoints} any more; start it again") from error
        self._restore(state)
        self.task.scale_rates(recovery.rate_factor)
        log.warning("step %d: %s; returns to step %d, with %g of the learning rates",
                    recovery.failed_at, error, progress.step, recovery.rate_factor)

    def _warn(self) -> None:
        """Log the task's warnings, each once for as long as it lasts."""
        found = self.task.warnings()
        for name, text in found.items():
            if name not in self.progress.warnings:
                log.warning("after step %d: %s", self.progress.step, text)
        self.progress.warnings = found

    def resume(self, start: Checkpoint) -> None:
        """Continue from a checkpoint of this loop.

        A checkpoint of an earlier version may lack entries: then seconds count from 0, the curve
        begins here, and random numbers are those of the seed.

        Raises:
            CheckpointError: it is of a run with other flags, or of another script.
        """
        stored, path = start.content, start.path
        if "task" not in stored or "step" not in stored:
            found = ", ".join(sorted(map(str, stored))[:5])
            raise CheckpointError(f"{path} is no checkpoint of a training run: it has {found}; "
                                  "needed task and step")
        with of_a_run(path, "give the same, or --restart 1 to delete that run"):
            check_changes(stored.get("config", {}), self.config, path)
            self.progress.seconds = entry_of(stored, "seconds", float, 0.0)
            self._restore(stored)
            self.progress.recovery = RecoveryState.of(stored)
            self.task.scale_rates(self.progress.recovery.rate_factor)
        log.info("resumes from %s: step %d, %.0f s", path.name, self.progress.step,
                 self.progress.seconds)

    def save(self) -> Path:
        """Write a checkpoint of the present state, and delete old ones."""
        path = self.folder.checkpoints / checkpoint_name(self.progress.step)
        self.progress.checkpoint_sha256 = save_checkpoint(path, {
            "format": CHECKPOINT_FORMAT, **self._state(), "seconds": self.progress.seconds,
            **self.progress.recovery.as_entry(), "config": self.config, **self.entries})
        keep_latest(self.folder.checkpoints, self.options.keep)
        self._first = None
        self.progress.recovery.saved(self.progress.step)
        give_back_freed()
        return path

    def _state(self) -> dict[str, Any]:
        """Return the state of task, random numbers, step and curve, which `_restore` takes."""
        return {"task": self.task.state_dict(), "random": random_state(),
                "step": self.progress.step, "curve": self.progress.curve}

    def _restore(self, stored: dict[str, Any]) -> None:
        """Restore task, random state, step and curve; time and recovery state stay."""
        self.task.load_state_dict(stored["task"])
        if "random" in stored:
            set_random_state(stored["random"])
        self.progress.step = entry_of(stored, "step", int)
        self.progress.curve = entry_of(stored, "curve", list, [])
