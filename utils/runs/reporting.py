"""What a loop reports while it trains: TensorBoard's summaries, and the rows of curve.csv."""
from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.errors import WriteError
from utils.files.text import visible
from utils.results.pictures import save_png
from utils.runs.folder import RunFolder
from utils.runs.progress import Progress
from utils.runs.task import LoopOptions, Task, is_due

NUM_SAMPLED = 64          # steps to come whose kinds are looked at for the time that is left
KIND_SMOOTHING = 0.3      # weight of the last step in the time that steps of its kind take
NUM_CURVE_ROWS = 200      # rows of losses in a curve, beside those with scores
log = logging.getLogger(__name__)

SCORE_TAG = "withheld"    # of scores in TensorBoard; runs that are resumed continue its curves


class Reporter:
    """Scores a task, draws its pictures, and reports its losses, each when it is due.

    Args:
        task: what is trained.
        options: of the loop.
        progress: of the loop; rows are appended to its curve.
        folder: of the run.
        writer: TensorBoard's, for the run's summaries.
        line: shows what is reported, and the last scores.
    """

    def __init__(self, task: Task, options: LoopOptions, progress: Progress, *, folder: RunFolder,
                 writer: SummaryWriter, line: ProgressLine) -> None:
        self.task, self.options, self.progress = task, options, progress
        self.folder, self.writer, self.line = folder, writer, line
        self._has_drawn = False

    def report(self, losses: dict[str, float], *, is_last: bool,
               seconds: float | None = None) -> bool:
        """Report whatever is due after this step; the time is not counted as training.

        Args:
            losses: of this step; empty where they were not read.
            is_last: scores and pictures are due in any case.
            seconds: that this step took; None: there was none.
        Returns:
            Whether views were rendered for it.
        """
        options, step = self.options, self.progress.step
        is_scored = step in options.score_steps or is_due(step, options.score_interval) or is_last
        if is_scored:
            self.line.stage("scoring")
        scores = self.task.score(step) if is_scored else {}
        if "psnr" in scores:
            self.line.show(PSNR=f"{scores['psnr']:.2f}")
        is_drawn = options.picture_interval > 0 and (
            is_due(step, options.picture_interval) or is_last
            or (bool(scores) and not self._has_drawn))       # the first as soon as views are there
        pictures = self.task.pictures(step) if is_drawn else {}
        self._write(pictures)
        with writing_to(self.folder.summaries):
            if losses and (is_due(step, options.scalar_interval) or scores):
                self._add_scalars("loss", losses)
                found = self.task.scalars(step)
                if seconds is not None:
                    found |= {"time/seconds_per_step": seconds}
                for tag, value in found.items():
                    self.writer.add_scalar(tag, value, step)
            self._add_scalars(SCORE_TAG, scores)
            for name, picture in pictures.items():
                self.writer.add_image(name, picture, step, dataformats="HWC")
        if scores or (losses and is_due(step, max(options.num_steps // NUM_CURVE_ROWS, 1))):
            row = {"step": step, "seconds": round(self.progress.seconds, 3)}
            row |= {f"loss_{name}": value for name, value in losses.items()}
            self.progress.curve.append(row | scores)
        return bool(scores) or is_drawn

    def _write(self, pictures: dict[str, np.ndarray]) -> None:
        """Write image grids to the run's pictures, where those of its end take their places."""
        paths = [self.folder.pictures / f"{name}.png" for name in pictures]
        for path, picture in zip(paths, pictures.values()):
            save_png(path, picture)
        if paths and not self._has_drawn:
            log.info("after step %d: first pictures, %s", self.progress.step, paths[0])
            self._has_drawn = True

    def _add_scalars(self, tag: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{tag}/{name}", value, self.progress.step)


class ProgressLine:
    """The one line of a training run: what it does now, how long it will take, its last scores.

    Steps of different kinds take differently long; the time that is left is the sum over those to
    come, sampled where they are many, each as long as the last few of its kind.

    Args:
        name: of the run.
        num_steps: in all.
        step: where it begins.
        kind_of: number of a step to its kind.
    """

    def __init__(self, name: str, num_steps: int, step: int, kind_of: Callable[[int], str]) -> None:
        self.name, self.num_steps, self.kind_of = visible(name), num_steps, kind_of
        self.bar = tqdm(total=num_steps, initial=step, unit="step", desc=self.name,
                        dynamic_ncols=True, bar_format="{desc}: {n_fmt}/{total_fmt} "
                        "{percentage:3.0f}%|{bar:12}| {elapsed}{postfix}")
        self._seconds: dict[str, float] = {}
        self._known: dict[str, str] = {}

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def stage(self, word: str) -> None:
        """Show at once what begins now: tracing, scoring, saving."""
        self.bar.set_description_str(f"{self.name}, {word}", refresh=True)

    def begin_step(self, step: int) -> None:
        """Show the kind of the step that begins, when the line is drawn next."""
        self.bar.set_description_str(f"{self.name}, {self.kind_of(step)} step", refresh=False)

    def end_step(self, step: int, seconds: float) -> None:
        """Count a step; `step` steps are done now, and the last took so many seconds."""
        kind = self.kind_of(max(step - 1, 0))
        before = self._seconds.get(kind, seconds)
        self._seconds[kind] = before + KIND_SMOOTHING * (seconds - before)
        self._known["left"] = tqdm.format_interval(self.seconds_left(step))
        self.bar.set_postfix(self._known, refresh=False)
        self.bar.update(step - self.bar.n)

    def show(self, **known: str) -> None:
        """Show values by name from now on."""
        self._known |= known
        self.bar.set_postfix(self._known, refresh=False)

    def seconds_left(self, step: int) -> float:
        """Return how long the steps after the first `step` take, by those that were seen."""
        left = range(step, self.num_steps)
        sampled = left if len(left) <= NUM_SAMPLED else \
            random.Random(step).sample(left, NUM_SAMPLED)
        if not sampled or not self._seconds:
            return 0.0
        usual = sum(self._seconds.values()) / len(self._seconds)
        mean = sum(self._seconds.get(self.kind_of(one), usual) for one in sampled) / len(sampled)
        return mean * len(left)


@contextmanager
def summary_writer(folder: Path, first_step: int) -> Iterator[SummaryWriter]:
    """Open TensorBoard's writer; earlier entries from `first_step` on are shown no more.

    Raises:
        WriteError: its file cannot be opened or closed.
    """
    with writing_to(folder):
        writer = SummaryWriter(str(folder), purge_step=first_step)
    try:
        yield writer
    finally:
        with writing_to(folder):
            writer.close()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise WriteError where the block cannot write the summaries in a folder."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}; make room, or give "
                         "another place with --logging_root") from error
