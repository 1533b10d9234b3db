"""Signals that stop a run: the step is finished and saved; a second signal ends it at once."""
from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from support.tiny_runs import config_of, final_state

from utils.checkpoints.storage import checkpoints_in
from utils.runs.loop import Loop
from utils.runs.run import start_run
from utils.runs.stopping import SIGNALS, RunStopped, stop_requests, stopping_at_once
from utils.runs.task import LoopOptions, Task


@pytest.fixture(autouse=True)
def signals_count():
    """SIGHUP and SIGINT do what they do by default, also where nohup or `&` started the tests."""
    earlier = {signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
               signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


class Signalled(Task):
    """Adds random numbers; is sent signals in a step."""

    def __init__(self, signals=()):
        self.total, self.signals = torch.zeros(()), signals
        self.is_half_done = False

    def scale_rates(self, factor):
        pass

    def train_step(self, step):
        if step == 3:
            self.is_half_done = True
            for number in self.signals:
                send(number)
            self.is_half_done = False
        self.total = self.total + torch.rand(())
        return {"total": self.total}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def loop_of(root, task, *, name="run", num_steps=6):
    run = start_run(config_of("--logging_root", root, "--experiment_name", name))
    return Loop(task, run, LoopOptions(num_steps=num_steps))


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                          (signal.SIGHUP, 129)])
def test_a_stopped_run_resumes_as_one_never_stopped(tmp_path, capfd, number, code):
    """Before the first regular checkpoint, too."""
    with pytest.raises(RunStopped) as caught:
        loop_of(tmp_path, Signalled([number])).run()
    path = tmp_path / "run" / "checkpoints" / "step_000004.pth"
    assert caught.value.exit_code == code
    assert f"4 steps are saved in {path}" in caught.value.message
    assert checkpoints_in(tmp_path / "run" / "checkpoints") == [path]
    assert f"{signal.Signals(number).name}: finishes this step" in capfd.readouterr().err
    stopped, whole = Signalled(), Signalled()
    assert loop_of(tmp_path, stopped).run().step == 6
    loop_of(tmp_path, whole, name="whole").run()
    assert torch.equal(stopped.total, whole.total)
    curves = [[row["loss_total"] for row in final_state(tmp_path / name)["curve"]]
              for name in ("run", "whole")]
    assert curves[0] == curves[1] and len(curves[0]) == 6


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    task = Signalled([signal.SIGTERM, signal.SIGTERM])
    with stopping_at_once(), pytest.raises(RunStopped) as caught:
        loop_of(tmp_path, task).run()
    assert task.is_half_done and caught.value.message == ""
    assert checkpoints_in(tmp_path / "run" / "checkpoints") == []
    with pytest.raises(KeyboardInterrupt):
        loop_of(tmp_path, Signalled([signal.SIGHUP, signal.SIGINT])).run()


def test_outside_of_training_a_signal_ends_the_script():
    with pytest.raises(RunStopped) as caught, stopping_at_once():
        send(signal.SIGHUP)
    assert caught.value.exit_code == 129


def test_handlers_are_restored_and_ignored_signals_stay_ignored():
    before = [signal.getsignal(number) for number in SIGNALS]
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)           # as nohup does
    try:
        with stopping_at_once(), stop_requests() as stop:
            send(signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, earlier)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_leave_signals_alone():
    found = []

    def work():
        with stopping_at_once(), stop_requests() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
