"""The loop round a step, with a task that counts; utils/runs/run.py has tests of its own."""
from __future__ import annotations

import errno
import os

import pytest
import torch
from support.tiny_runs import config_of, final_state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from utils.checkpoints import storage as checkpoints
from utils.checkpoints.checkpoint import latest_checkpoint, open_checkpoint
from utils.checkpoints.storage import checkpoints_in, load_checkpoint, save_checkpoint
from utils.errors import CheckpointError, WriteError
from utils.runs import loop
from utils.runs.loop import Loop, LoopOptions, run_facts, stored_progress
from utils.runs.recovery import Setbacks
from utils.runs.run import start_run


class Counter:
    """A task whose state is a sum of random numbers; remembers what it was asked for."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.scored, self.drawn, self.fails_at = [], [], {}
        self.rate_factor, self.trouble, self.tried = 1.0, {}, []

    def train_step(self, step):
        self.tried.append((step, self.rate_factor))
        if step in self.fails_at:
            raise self.fails_at[step]
        self.total = self.total + torch.rand(())
        return {"image": torch.tensor(float(step)), "total": self.total}

    def score(self, step):
        self.scored.append(step)
        return {"psnr": 10.0 + step}

    def notices(self):
        return self.trouble

    def pictures(self, step):
        self.drawn.append(step)
        return {"views": torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


@pytest.fixture
def make_loop(tmp_path):
    def make(options, *flags, task=None):
        config = config_of("--logging_root", tmp_path, "--experiment_name", "run", *flags)
        task = task or Counter()
        return Loop(task, start_run(config), options), task
    return make


def steps_of(loop_):
    return [int(path.stem.split("_")[1]) for path in checkpoints_in(loop_.folder.checkpoints)]


def test_everything_is_done_at_its_steps(make_loop):
    made, task = make_loop(LoopOptions(num_steps=7, save_interval=2, keep=2, picture_interval=3,
                                       score_steps=(0, 1, 5), score_interval=4))
    firsts = []
    progress = made.run(lambda: firsts.append(made.progress.step))
    assert firsts == [0] and progress.step == 7
    assert task.scored == [0, 1, 4, 5, 7]         # the last step is always scored
    assert task.drawn == [3, 6, 7]
    assert steps_of(made) == [6, 7]               # 2 and 4 were pruned
    assert [row["step"] for row in progress.curve] == list(range(8))
    assert [row["step"] for row in progress.curve if "psnr" in row] == [0, 1, 4, 5, 7]
    row = progress.curve[5]
    assert set(row) == {"step", "seconds", "loss_image", "loss_total", "psnr"}
    assert (row["loss_image"], row["psnr"]) == (4.0, 15.0)


def test_interval_zero_is_never(make_loop):
    made, task = make_loop(LoopOptions(num_steps=3))
    made.run()
    assert task.drawn == [] and task.scored == [3] and steps_of(made) == [3]


def test_no_steps_leave_a_scored_checkpoint(make_loop):
    made, task = make_loop(LoopOptions(num_steps=0, picture_interval=1))
    assert made.run().step == 0
    assert task.scored == [0] and task.drawn == [0] and steps_of(made) == [0]


def test_scalars_and_pictures_are_in_tensorboard(make_loop):
    made, _ = make_loop(LoopOptions(num_steps=4, scalar_interval=2, picture_interval=4))
    made.run()
    events = EventAccumulator(str(made.folder.summaries)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/image", "loss/total", "withheld/psnr"}
    found = [(event.step, event.value) for event in events.Scalars("loss/image")]
    assert found == [(2, 1.0), (4, 3.0)]
    assert [event.step for event in events.Images("views")] == [4]


def test_long_curves_are_thinned_but_keep_scored_rows(make_loop, monkeypatch):
    monkeypatch.setattr(loop, "CURVE_ROWS", 5)
    made, _ = make_loop(LoopOptions(num_steps=20, score_steps=(7,)))
    assert [row["step"] for row in made.run().curve] == [4, 7, 8, 12, 16, 20]


def test_time_limit_counts_training_alone(make_loop, monkeypatch):
    ticks = iter(range(0, 1000, 1))

    def clock():
        return float(next(ticks))                 # each look takes a second: a step has two looks

    monkeypatch.setattr(loop.time, "perf_counter", clock)
    made, task = make_loop(LoopOptions(num_steps=50, time_limit=3))
    progress = made.run()
    assert progress.step == 3 and progress.seconds == 3
    assert task.scored == [3] and steps_of(made) == [3]
    again, task = make_loop(LoopOptions(num_steps=50, time_limit=5))
    assert again.run().step == 5                  # seconds before the resume count


def test_stopped_and_started_again_is_as_never_stopped(make_loop, tmp_path):
    options = LoopOptions(num_steps=6, save_interval=2)
    whole, task = make_loop(options)
    whole.run()
    other, stopped = make_loop(options, "--logging_root", tmp_path / "other")
    stopped.fails_at[5] = RuntimeError("pulled the plug")
    with pytest.raises(RuntimeError, match="plug"):
        other.run()
    assert steps_of(other) == [2, 4]
    again, task_again = make_loop(options, "--logging_root", tmp_path / "other")
    firsts = []
    assert again.run(lambda: firsts.append(1)).step == 6
    assert firsts == []                           # what comes before the first step was done
    assert torch.equal(task_again.total, task.total)
    assert [row["loss_total"] for row in again.progress.curve] == \
        [row["loss_total"] for row in whole.progress.curve]


def test_a_run_that_is_complete_is_left_as_it_is(make_loop):
    options = LoopOptions(num_steps=2)
    first, task = make_loop(options)
    first.run()
    again, other = make_loop(options)
    assert again.run().step == 2
    assert torch.equal(other.total, task.total) and other.scored == []


def test_a_step_that_is_not_finite_is_skipped_and_counted(make_loop, caplog):
    made, task = make_loop(LoopOptions(num_steps=6, save_interval=2))
    task.fails_at[3] = FloatingPointError("loss not finite: image")
    progress = made.run()
    assert progress.step == 6 and task.tried == [(step, 1.0) for step in range(6)]
    assert (progress.setbacks.skipped, progress.setbacks.returns) == (1, 0)
    assert [row["step"] for row in progress.curve if "loss_total" in row] == [1, 2, 3, 5, 6]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == \
        ["step 3 skipped, 1 so far: loss not finite: image"]


class Fragile(Counter):
    """Fails at some steps while the rates are above a bound."""

    def __init__(self, steps, bound):
        super().__init__()
        self.steps, self.bound = steps, bound

    def train_step(self, step):
        losses = super().train_step(step)
        if step in self.steps and self.rate_factor > self.bound:
            raise FloatingPointError("loss not finite: image")
        return losses


def test_three_in_a_row_go_back_with_half_the_rates(make_loop, caplog):
    """The numbers drawn after the return are those that were drawn before."""
    options = LoopOptions(num_steps=9, save_interval=4)
    made, task = make_loop(options, task=Fragile({5, 6, 7}, 0.5))
    progress = made.run()
    assert [step for step, _ in task.tried] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8]
    assert [factor for _, factor in task.tried] == [1.0] * 8 + [0.5] * 5
    assert progress.step == 9 and progress.setbacks.returns == 1
    assert [row["step"] for row in progress.curve] == list(range(1, 10))
    assert "goes back to step 4, with 0.5 of the rates" in caplog.text
    plain, twin = make_loop(options, "--experiment_name", "plain")
    plain.run()
    assert torch.equal(task.total, twin.total)
    again, other = make_loop(LoopOptions(num_steps=10), task=Fragile(set(), 0))
    again.run()
    assert other.tried == [(9, 0.5)]              # a resumed run keeps the smaller rates


def test_before_the_first_checkpoint_it_goes_back_to_the_start(make_loop):
    made, task = make_loop(LoopOptions(num_steps=6), task=Fragile({1, 2, 3}, 0.25))
    progress = made.run(lambda: setattr(task, "total", torch.ones(())))
    assert [step for step, _ in task.tried] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert progress.setbacks.rate_factor == 0.25 and progress.setbacks.skipped == 6
    assert task.total >= 1 and steps_of(made) == [6]


def test_a_run_that_going_back_does_not_help_ends_with_what_was_tried(make_loop):
    made, task = make_loop(LoopOptions(num_steps=9, save_interval=2), task=Fragile({3, 4, 5}, 0))
    with pytest.raises(FloatingPointError) as caught:
        made.run()
    for word in ("step 5", "loss not finite: image", "3 returns", "0.125 of the rates",
                 str(made.folder.checkpoints), "--lr"):
        assert word in str(caught.value)
    assert steps_of(made) == [2]                  # none in the midst of what fails
    assert [step for step, _ in task.tried] == [0, 1] + [2, 3, 4, 5] * 4


def test_setbacks_that_were_overcome_do_not_add_up(make_loop):
    """Each place needs one return; there are more places than tries."""
    made, task = make_loop(LoopOptions(num_steps=40, save_interval=4))
    plain = task.train_step

    def train_step(step):
        losses = plain(step)
        if step % 8 >= 5 and task.rate_factor > 0.5 ** (step // 8 + 1):
            raise FloatingPointError("loss not finite: image")
        return losses

    task.train_step = train_step
    progress = made.run()
    assert progress.step == 40 and progress.setbacks.returns == 5


@pytest.mark.parametrize("stored", [{}, {"setbacks": None}, {"setbacks": {"other": 1}},
                                    {"setbacks": {"skipped": "many"}}])
def test_setbacks_of_other_versions_are_new(stored):
    assert Setbacks.of(stored) == Setbacks()
    assert Setbacks.of({"setbacks": {"skipped": 3, "returns": 1, "other": 2}}) == \
        Setbacks(skipped=3, returns=1)


def test_trouble_is_named_once_as_long_as_it_lasts(make_loop, caplog, monkeypatch):
    monkeypatch.setattr(loop, "NOTICE_INTERVAL", 2)
    made, task = make_loop(LoopOptions(num_steps=8))
    plain = task.train_step

    def train_step(step):
        task.trouble = {"no_hits": "no ray meets the surface"} if step in (1, 2, 3, 7) else {}
        return plain(step)

    task.train_step = train_step
    progress = made.run()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"after step {step}: no ray meets the surface" for step in (2, 8)]
    assert progress.notices == {"no_hits": "no ray meets the surface"}


@pytest.mark.parametrize("content, words", [
    ({"sdf": {"w": torch.ones(1)}}, ["step_000009.pth", "sdf", "needed task and step"]),
    ({"task": {}, "step": 9, "seconds": 0.0, "curve": []}, ["other flags", "--restart 1"]),
    ({"task": {}, "step": 9, "config": 3}, ["other flags", "--restart 1"]),
    ({"task": [1], "step": "nine"}, ["other flags", "--restart 1"]),
])
def test_checkpoints_of_something_else_are_refused(make_loop, tmp_path, content, words):
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step_000009.pth", content)
    made, _ = make_loop(LoopOptions(num_steps=12))
    with pytest.raises(CheckpointError) as caught:
        made.run()
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "run" / "config.txt").exists()


def test_flags_that_change_at_a_resume_are_named(make_loop, caplog):
    made, _ = make_loop(LoopOptions(num_steps=1), "--num_steps", 1)
    made.run()
    again, _ = make_loop(LoopOptions(num_steps=2), "--num_steps", 2, "--lr", 0.25)
    again.run()
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "lr 0.0001 -> 0.25" in warned[0]
    assert "num_steps" not in warned[0]           # going on for longer is what a resume is for


def test_a_full_disk_leaves_the_last_checkpoint(make_loop, monkeypatch):
    made, task = make_loop(LoopOptions(num_steps=6, save_interval=2))
    fsync = os.fsync

    def full(handle):
        if made.progress.step >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(WriteError, match="disk of .*checkpoints is full"):
        made.run()
    assert steps_of(made) == [2] and final_state(made.folder.path)["step"] == 2
    assert sorted(p.name for p in made.folder.checkpoints.iterdir()) == ["step_000002.pth"]


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


def test_facts_and_progress_of_a_run(make_loop, tmp_path):
    made, _ = make_loop(LoopOptions(num_steps=2), "--seed", 5, "--device", "cpu")
    run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "other", "--seed",
                              5, "--device", "cpu"))
    progress = made.run()
    facts = run_facts(run, progress)
    assert facts == {"steps": 2, "train_seconds": round(progress.seconds, 3), "seed": 5,
                     "device": "cpu", "threads": torch.get_num_threads(), "skipped_steps": 0,
                     "notices": []}
    stored = stored_progress(latest_checkpoint(made.folder.checkpoints))
    assert (stored.step, stored.curve) == (2, progress.curve)
    save_checkpoint(tmp_path / "release.pth", {"enc_net.encs.0.weight": torch.ones(1)})
    assert stored_progress(open_checkpoint(tmp_path / "release.pth")).step == 0


@pytest.mark.parametrize("content", [{"step": None}, {"config": 3}, {"curve": 5}])
def test_progress_of_other_kinds_is_refused(tmp_path, content):
    save_checkpoint(tmp_path / "odd.pth", {"task": {}} | content)
    with pytest.raises(CheckpointError, match=r"odd\.pth.*another kind"):
        stored_progress(open_checkpoint(tmp_path / "odd.pth"))


def test_checkpoints_hold_the_configuration(make_loop):
    made, _ = make_loop(LoopOptions(num_steps=1), "--lr", 0.125)
    made.run()
    stored = load_checkpoint(checkpoints_in(made.folder.checkpoints)[-1])
    assert stored["config"]["rates"]["lr"] == 0.125
    assert {"task", "random", "step", "seconds", "curve"} <= set(stored)


class Remote:
    """A loss on a GPU: counts how often it is read."""

    def __init__(self, value, reads):
        self.value, self.reads, self.device = value, reads, torch.device("cuda")

    def __float__(self):
        self.reads.append(self.value)
        return float(self.value)


class RemoteCounter(Counter):
    """A task whose losses are on a GPU; the total is NaN from step `bad` on."""

    def __init__(self, bad=10 ** 9):
        super().__init__()
        self.reads, self.bad = [], bad

    def train_step(self, step):
        super().train_step(step)
        value = step if step < self.bad else float("nan")
        return {"total": Remote(value, self.reads)}


def test_losses_on_a_gpu_are_read_every_few_steps(make_loop, monkeypatch):
    monkeypatch.setattr(loop, "GPU_READ_INTERVAL", 5)
    made, task = make_loop(LoopOptions(num_steps=23, score_steps=(7,), save_interval=9),
                           task=RemoteCounter())
    progress = made.run()
    assert task.reads == [4, 6, 8, 9, 14, 17, 19, 22]      # counted from 0, read after the step
    assert [row["step"] for row in progress.curve] == [5, 7, 9, 10, 15, 18, 20, 23]
    assert all("loss_total" in row for row in progress.curve)
    assert task.scored == [7, 23]


def test_a_total_on_a_gpu_that_is_not_finite_is_never_saved(make_loop):
    """It is seen at the next look, and the run goes back at once."""
    made, task = make_loop(LoopOptions(num_steps=50, save_interval=4), task=RemoteCounter(bad=5))
    with pytest.raises(FloatingPointError, match="step 8: .*3 returns.*last good state"):
        made.run()
    assert steps_of(made) == [4]
    assert [step for step, _ in task.tried] == list(range(8)) + [4, 5, 6, 7] * 3


def test_time_that_is_up_on_a_gpu_reads_the_losses(make_loop, monkeypatch):
    ticks = iter(range(0, 1000, 1))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))
    made, task = make_loop(LoopOptions(num_steps=50, time_limit=3), task=RemoteCounter())
    progress = made.run()
    assert progress.step == 3 and task.reads == [2] and progress.curve[-1]["loss_total"] == 2.0
