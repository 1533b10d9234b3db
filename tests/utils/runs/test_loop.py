"""The loop round a step: when it scores, draws, saves and stops, and how it resumes."""
from __future__ import annotations

import errno
import os
import signal

import pytest
import torch
from support.counting import RemoteCounter, steps_of
from support.tiny_runs import final_state

from utils.checkpoints import storage as checkpoints
from utils.checkpoints.storage import checkpoints_in, load_checkpoint, save_checkpoint
from utils.errors import CheckpointError, WriteError
from utils.runs import loop
from utils.runs.seeds import random_state
from utils.runs.stopping import RunStopped
from utils.runs.task import LoopOptions


def test_everything_is_done_at_its_steps(make_loop):
    made, task = make_loop(LoopOptions(num_steps=7, save_interval=2, keep=2, picture_interval=3,
                                       score_steps=(0, 1, 5), score_interval=4))
    firsts = []
    progress = made.run(lambda: firsts.append(made.progress.step))
    assert firsts == [0] and progress.step == 7
    assert task.scored == [0, 1, 4, 5, 7]         # the last step is always scored
    assert task.drawn == [0, 3, 6, 7]             # the first scores have pictures
    assert steps_of(made) == [6, 7]               # 2 and 4 were pruned
    assert [row["step"] for row in progress.curve] == list(range(8))
    assert [row["step"] for row in progress.curve if "psnr" in row] == [0, 1, 4, 5, 7]
    row = progress.curve[5]
    assert set(row) == {"step", "seconds", "loss_image", "loss_total", "psnr"}
    assert (row["loss_image"], row["psnr"]) == (4.0, 15.0)


def test_interval_zero_is_never(make_loop):
    made, task = make_loop(LoopOptions(num_steps=3, scalar_interval=0))
    made.run()
    assert task.drawn == [] and task.scored == [3] and steps_of(made) == [3]


def test_no_steps_leave_a_scored_checkpoint(make_loop):
    made, task = make_loop(LoopOptions(num_steps=0, picture_interval=1))
    assert made.run().step == 0
    assert task.scored == [0] and task.drawn == [0] and steps_of(made) == [0]


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


def test_a_warning_is_logged_once_for_as_long_as_it_lasts(make_loop, caplog, monkeypatch):
    monkeypatch.setattr(loop, "WARNING_INTERVAL", 2)
    made, task = make_loop(LoopOptions(num_steps=8))
    plain = task.train_step

    def train_step(step):
        task.trouble = {"no_hits": "no ray meets the surface"} if step in (1, 2, 3, 7) else {}
        return plain(step)

    task.train_step = train_step
    progress = made.run()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"after step {step}: no ray meets the surface" for step in (2, 8)]
    assert progress.warnings == {"no_hits": "no ray meets the surface"}


@pytest.mark.parametrize("content, words", [
    ({"sdf": {"w": torch.ones(1)}}, ["step_000009.pth", "sdf", "needed task and step"]),
    ({"task": {}, "step": 9, "seconds": 0.0, "curve": []}, ["other flags", "--restart 1"]),
    ({"task": {}, "step": 9, "config": 3}, ["other flags", "--restart 1"]),
    ({"task": [1], "step": "nine"}, ["other flags", "--restart 1"]),
    ({"task": {"total": torch.ones(())}, "step": -1}, ["step is -1", "--restart 1"]),
    ({"task": {"total": torch.ones(())}, "step": 9.5}, ["step is 9.5", "--restart 1"]),
    ({"task": {"total": torch.ones(())}, "step": 9, "seconds": float("nan")}, ["seconds is nan"]),
    ({"task": {"total": torch.ones(())}, "step": 9, "curve": [1]}, ["curve is [1]"]),
    ({"task": {"total": torch.ones(())}, "step": 9, "random": random_state() | {
        "torch": torch.zeros(3, dtype=torch.uint8)}}, ["other flags", "--restart 1"]),
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


def test_checkpoints_hold_the_configuration(make_loop):
    made, _ = make_loop(LoopOptions(num_steps=1), "--lr", 0.125)
    made.run()
    stored = load_checkpoint(checkpoints_in(made.folder.checkpoints)[-1])
    assert stored["config"]["rates"]["lr"] == 0.125
    assert {"task", "random", "step", "seconds", "curve"} <= set(stored)


def test_losses_on_a_gpu_are_read_every_few_steps(make_loop, monkeypatch):
    monkeypatch.setattr(loop, "GPU_READ_INTERVAL", 5)
    made, task = make_loop(LoopOptions(num_steps=23, score_steps=(7,), save_interval=9),
                           task=RemoteCounter())
    progress = made.run()
    assert task.reads == [4, 6, 8, 9, 14, 17, 19, 22]      # counted from 0, read after the step
    assert [row["step"] for row in progress.curve] == [5, 7, 9, 10, 15, 18, 20, 23]
    assert all("loss_total" in row for row in progress.curve)
    assert task.scored == [7, 23]


def test_time_that_is_up_on_a_gpu_reads_the_losses(make_loop, monkeypatch):
    ticks = iter(range(0, 1000, 1))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))
    made, task = make_loop(LoopOptions(num_steps=50, time_limit=3), task=RemoteCounter())
    progress = made.run()
    assert progress.step == 3 and task.reads == [2] and progress.curve[-1]["loss_total"] == 2.0


def test_a_run_on_a_gpu_stops_after_a_step_whose_losses_were_read(make_loop):
    """Steps that were not read could be lost; here the signal comes after the look at step 3."""
    made, task = make_loop(LoopOptions(num_steps=50), task=RemoteCounter())
    plain = made._is_read

    def is_read():
        found = plain()
        if made.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    made._is_read = is_read
    with pytest.raises(RunStopped):
        made.run()
    assert steps_of(made) == [4] and task.reads == [3]
