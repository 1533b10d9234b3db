"""What a loop reports: TensorBoard's scalars and pictures, rows of the curve, full disks."""
from __future__ import annotations

import errno
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from utils.errors import WriteError
from utils.runs import reporting
from utils.runs.task import LoopOptions


def test_scalars_and_pictures_are_in_tensorboard(make_loop):
    made, _ = make_loop(LoopOptions(num_steps=4, scalar_interval=2, picture_interval=4))
    made.run()
    events = EventAccumulator(str(made.folder.summaries)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/image", "loss/total", "withheld/psnr"}
    found = [(event.step, event.value) for event in events.Scalars("loss/image")]
    assert found == [(2, 1.0), (4, 3.0)]
    assert [event.step for event in events.Images("views")] == [4]


def test_summaries_that_cannot_be_written_are_told(make_loop, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summaries").write_text("a file in place of the folder")
    made, _ = make_loop(LoopOptions(num_steps=1))
    with pytest.raises(WriteError, match="summaries"):
        made.run()


def test_errors_of_a_step_are_not_taken_for_those_of_the_summaries(make_loop):
    made, task = make_loop(LoopOptions(num_steps=3))
    task.fails_at = {1: OSError("a photograph is gone")}
    with pytest.raises(OSError, match="a photograph is gone") as caught:
        made.run()
    assert not isinstance(caught.value, WriteError)


def test_summaries_that_fail_later_are_told(make_loop, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made, _ = make_loop(LoopOptions(num_steps=2))
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.raises(WriteError, match="summaries: No space left"):
        made.run()


def test_long_curves_are_thinned_but_keep_scored_rows(make_loop, monkeypatch):
    monkeypatch.setattr(reporting, "NUM_CURVE_ROWS", 5)
    made, _ = make_loop(LoopOptions(num_steps=20, score_steps=(7,)))
    assert [row["step"] for row in made.run().curve] == [4, 7, 8, 12, 16, 20]
