"""What a loop reports while it trains: TensorBoard's summaries, and the rows of curve.csv."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from utils.errors import WriteError
from utils.runs.progress import Progress
from utils.runs.task import LoopOptions, Task, is_due

NUM_CURVE_ROWS = 200      # rows of losses in a curve, beside those with scores
SCORE_TAG = "withheld"    # of scores in TensorBoard; runs that are resumed continue its curves


class Reporter:
    """Scores a task, draws its pictures, and reports its losses, each when it is due.

    Args:
        task: what is trained.
        options: of the loop.
        progress: of the loop; rows are appended to its curve.
        folder: of the summaries.
        writer: TensorBoard's, for that folder.
    """

    def __init__(self, task: Task, options: LoopOptions, progress: Progress, *, folder: Path,
                 writer: SummaryWriter) -> None:
        self.task, self.options, self.progress = task, options, progress
        self.folder, self.writer = folder, writer

    def report(self, losses: dict[str, float], *, is_last: bool) -> bool:
        """Report whatever is due after this step; the time is not counted as training.

        Args:
            losses: of this step; empty where they were not read.
            is_last: scores and pictures are due in any case.
        Returns:
            Whether views were rendered for it.
        """
        options, step = self.options, self.progress.step
        is_scored = step in options.score_steps or is_due(step, options.score_interval) or is_last
        scores = self.task.score(step) if is_scored else {}
        is_drawn = options.picture_interval > 0 and (
            is_due(step, options.picture_interval) or is_last)
        pictures = self.task.pictures(step) if is_drawn else {}
        with writing_to(self.folder):
            if losses and (is_due(step, options.scalar_interval) or scores):
                self._add_scalars("loss", losses)
            self._add_scalars(SCORE_TAG, scores)
            for name, picture in pictures.items():
                self.writer.add_image(name, picture, step, dataformats="HWC")
        if scores or (losses and is_due(step, max(options.num_steps // NUM_CURVE_ROWS, 1))):
            row = {"step": step, "seconds": round(self.progress.seconds, 3)}
            row |= {f"loss_{name}": value for name, value in losses.items()}
            self.progress.curve.append(row | scores)
        return bool(scores) or is_drawn

    def _add_scalars(self, tag: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{tag}/{name}", value, self.progress.step)


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
