"""Runs that wait while a file is in their folder: what is saved, counted, and ends the wait."""
from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from support.browser_session import until
from support.counting import steps_of

from utils.errors import WriteError
from utils.runs.lock import RunLock
from utils.runs.stopping import PAUSE_NAME, RunStopped, is_paused, is_training, set_paused
from utils.runs.task import LoopOptions


def at_step(task, number: int, act: Callable[[], object]) -> None:
    """Let something happen during a step of the counting task."""
    step = task.train_step

    def train_step(now: int):
        if now == number:
            act()
        return step(now)
    task.train_step = train_step


def test_a_paused_run_saves_waits_and_goes_on(make_loop):
    """The pause is made during step 3; it is over as soon as the checkpoint is seen."""
    made, task = make_loop(LoopOptions(num_steps=6))
    folder = made.folder.path
    seen = []

    def end_pause() -> None:
        until(lambda: steps_of(made) == [3])
        seen.append((len(task.tried), is_paused(folder)))
        set_paused(folder, False)

    helper = threading.Thread(target=end_pause)
    at_step(task, 2, lambda: (set_paused(folder, True), helper.start()))
    progress = made.run()
    helper.join()
    assert seen == [(3, True)] and progress.step == 6 and steps_of(made) == [3, 6]
    assert not (folder / PAUSE_NAME).exists()


def test_time_in_a_pause_is_no_training(make_loop, monkeypatch):
    """The wait takes a simulated hour; the limit of ten seconds does not notice."""
    clock = {"now": 0.0}
    monkeypatch.setattr("utils.runs.loop.time.perf_counter", lambda: clock["now"])
    made, task = make_loop(LoopOptions(num_steps=4, time_limit=10))

    def wait(folder, is_stopped) -> None:
        clock["now"] += 3600
        set_paused(folder, False)

    monkeypatch.setattr("utils.runs.loop.wait_while_paused", wait)
    at_step(task, 1, lambda: set_paused(made.folder.path, True))
    progress = made.run()
    assert progress.step == 4 and progress.seconds < 1


def test_a_signal_ends_a_paused_run(make_loop):
    made, task = make_loop(LoopOptions(num_steps=5))

    def stop() -> None:
        until(lambda: steps_of(made) == [2])
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=stop)
    at_step(task, 1, lambda: (set_paused(made.folder.path, True), helper.start()))
    with pytest.raises(RunStopped):
        made.run()
    helper.join()
    assert len(task.tried) == 2 and steps_of(made) == [2]


def test_a_pause_does_not_outlive_its_process(make_loop):
    """One that is left from a killed run does not wait."""
    made, _ = make_loop(LoopOptions(num_steps=2))
    made.folder.path.mkdir()
    set_paused(made.folder.path, True)
    assert made.run().step == 2


def test_a_run_of_several_processes_ends_a_pause(make_loop, caplog):
    """Before its next step, so that no viewer calls it paused."""
    made, task = make_loop(LoopOptions(num_steps=4, may_pause=False))
    seen = []
    at_step(task, 1, lambda: set_paused(made.folder.path, True))
    at_step(task, 2, lambda: seen.append(is_paused(made.folder.path)))
    assert made.run().step == 4 and seen == [False]
    assert "several processes cannot be paused" in caplog.text


def test_who_trains_is_known(tmp_path):
    assert not is_training(tmp_path)
    lock = RunLock(tmp_path)
    assert is_training(tmp_path)
    lock.close()
    assert not is_training(tmp_path)


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(WriteError, match="cannot be made.*need write permission"):
        set_paused(tmp_path / "none", True)
    set_paused(tmp_path / "none", False)
