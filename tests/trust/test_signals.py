"""Signals to all processes of a run in the midst of training, as terminals send them.

    python -m pytest tests/trust/test_signals.py -m trust -s

Pre-training with a data worker is the hardest case: the worker gets the signal too.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from support.tiny_runs import SCRIPTS, final_state, start

pytestmark = pytest.mark.trust

FLAGS = ("--crop_size 24x16 --precision fp32 --model_image_encoder_depth 1 --num_threads 1 "
         "--batch_size 2 --steps_til_pictures 0 --device cpu --num_workers 1").split()
MANY = 10 ** 6


def as_from_a_terminal():
    """No signal is ignored, as SIGHUP may be where these tests run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                          (signal.SIGHUP, 129)])
def test_a_signal_to_all_processes_of_a_run_saves_it(tmp_path, number, code):
    flags = [SCRIPTS / "pretrain_features.py", *FLAGS, "--logging_root", tmp_path,
             "--experiment_name", "run"]
    output = tmp_path / "output.txt"
    with open(output, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, flags), "--num_steps", str(MANY)], cwd=tmp_path,
            stdout=file, stderr=file, start_new_session=True, preexec_fn=as_from_a_terminal,
            env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(lambda: "loss=" in output.read_text() or process.poll() is not None)
    os.killpg(process.pid, number)
    process.wait(120)
    text = output.read_text()
    print(f"\n{text.splitlines()[-1]}")
    assert process.returncode == code, text[-2000:]
    assert "Traceback" not in text and "stopped; " in text.splitlines()[-1]
    step = final_state(tmp_path / "run")["step"]
    assert 0 < step < MANY and f"{step} steps are saved in" in text
    assert not (tmp_path / "run" / "run.lock").exists()
    ended = start(*flags, "--num_steps", step + 1, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert final_state(tmp_path / "run")["step"] == step + 1
