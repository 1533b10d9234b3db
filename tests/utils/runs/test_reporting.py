"""What a loop reports: TensorBoard's scalars and pictures, rows of the curve, full disks."""
from __future__ import annotations

import errno
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from utils.errors import WriteError
from utils.runs import reporting
from utils.runs.reporting import ProgressLine
from utils.runs.task import LoopOptions


def test_scalars_and_pictures_are_in_tensorboard(make_loop):
    made, _ = make_loop(LoopOptions(num_steps=4, scalar_interval=2, picture_interval=4))
    made.run()
    events = EventAccumulator(str(made.folder.summaries)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/image", "loss/total", "withheld/psnr",
                                             "rates/lr", "time/seconds_per_step"}
    assert [(event.step, event.value) for event in events.Scalars("rates/lr")] == [
        (2, 0.25), (4, 0.0625)]
    assert [event.step for event in events.Scalars("time/seconds_per_step")] == [2, 4]
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


def line_of(num_steps=100, step=0):
    """Return a line whose every fourth step is of the shape."""
    return ProgressLine("run", num_steps, step, lambda at: "shape" if at % 4 == 0 else "image")


@pytest.mark.parametrize("num_steps", [50, 1000])
def test_the_time_left_knows_two_kinds_of_steps(num_steps):
    """Shape steps of 9 s, image steps of 1 s: 3 s a step, whichever kind came last."""
    with line_of(num_steps) as line:
        for step in range(21):
            line.end_step(step + 1, 9.0 if step % 4 == 0 else 1.0)
            if step > 1:                           # both kinds were seen
                left = num_steps - step - 1
                # 64 steps of a quarter of shape steps: 0.43 s of 3 are one standard deviation
                assert abs(line.seconds_left(step + 1) / left - 3.0) < 3 * 0.43
        assert line.seconds_left(num_steps) == 0.0


def test_the_line_says_stage_time_and_scores(make_loop, capsys):
    """One line: what is done now, PSNR, time left; pictures are named as soon as they are there."""
    with line_of() as line:
        line.begin_step(4)
        line.show(loss="0.5000", PSNR="20.00")
        line.end_step(5, 2.0)
        shown = str(line.bar)
        assert shown.startswith("run, shape step: 5/100") and "left=03:10" in shown
        assert "PSNR=20.00" in shown and "loss=0.5000" in shown
        line.stage("scoring")
    assert "run, scoring" in capsys.readouterr().err


def test_pictures_are_files_as_soon_as_they_are_drawn(make_loop, caplog):
    made, task = make_loop(LoopOptions(num_steps=4, picture_interval=2))
    caplog.set_level("INFO")
    made.run()
    path = made.folder.pictures / "views.png"
    assert path.is_file() and task.drawn == [2, 4]
    told = [text for text in caplog.messages if "first pictures" in text]
    assert told == [f"after step 2: first pictures, {path}"]


def test_the_first_scoring_draws_too(make_loop, caplog):
    """What can be seen before the first step need not wait for the first interval."""
    made, task = make_loop(LoopOptions(num_steps=4, picture_interval=4, score_steps=(0, 3)))
    caplog.set_level("INFO")
    made.run()
    assert task.drawn == [0, 4]
    assert [text for text in caplog.messages if "first pictures" in text] == [
        f"after step 0: first pictures, {made.folder.pictures / 'views.png'}"]


def test_no_pictures_where_none_are_wanted(make_loop):
    made, task = make_loop(LoopOptions(num_steps=4, picture_interval=0, score_steps=(0, 3)))
    made.run()
    assert task.drawn == []
