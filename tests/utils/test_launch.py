"""Several processes of one machine: their places, exit codes and signals."""
from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from utils import launch as launching
from utils.errors import ConfigError
from utils.launch import launch, main


def program(tmp_path, text):
    """Write a script and return its path as text."""
    path = tmp_path / "program.py"
    path.write_text("import os, pathlib, sys, time\n"
                    "rank = int(os.environ['RANK'])\n"
                    f"here = pathlib.Path({str(tmp_path)!r})\n{text}")
    return str(path)


def test_each_process_knows_its_place(tmp_path):
    path = program(tmp_path, "names = 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'\n"
                             "words = [*map(os.environ.get, names), *sys.argv[1:]]\n"
                             "(here / f'{rank}').write_text(' '.join(words))")
    assert launch(3, [path, "--flag", "a b"]) == 0
    assert [(tmp_path / f"{rank}").read_text() for rank in range(3)] == [
        f"3 {rank} 127.0.0.1 --flag a b" for rank in range(3)]


@pytest.mark.parametrize("text, code", [("sys.exit(3 * rank)", 3),
                                        ("os.kill(os.getpid(), 9) if rank else None", 137)])
def test_the_exit_code_is_that_of_the_one_that_failed(tmp_path, text, code):
    assert launch(2, [program(tmp_path, text)]) == code


def test_what_hangs_after_a_failure_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "PATIENCE_SECONDS", 0.1)
    assert launch(2, [program(tmp_path, "time.sleep(600) if rank else sys.exit(2)")]) == 2


def test_a_signal_goes_to_all(tmp_path):
    """They end by themselves with a code of their own; the launcher waits for them."""
    path = program(tmp_path, "import signal\n"
                             "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
                             "(here / f'{rank}').touch()\ntime.sleep(600)\n")

    def send_when_ready():
        while not all((tmp_path / f"{rank}").exists() for rank in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=send_when_ready, daemon=True).start()
    assert launch(2, [path]) == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("argv", [[], ["2"], ["0", "a.py"], ["a.py", "2"], ["-1", "a.py"]])
def test_a_wrong_call_is_told(argv):
    with pytest.raises(ConfigError, match="NUM_PROCESSES SCRIPT"):
        main(argv)
