"""Signs of life at known times, and in a script that says nothing."""
from __future__ import annotations

import io
import logging
import time

import pytest
from tqdm import tqdm

from utils import heartbeat
from utils.heartbeat import Heartbeat
from utils.runs import script


def test_signs_come_after_silence_with_what_was_said_and_since_when(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    beat = Heartbeat(io.StringIO(), patience=5.0)
    assert beat.due(200.0) is None                        # nothing was said yet
    beat.hears("results: mesh\nof the surface")
    assert beat.due(104.9) is None
    assert beat.due(105.0) == "... results: mesh (5 s)"
    assert beat.due(109.0) is None
    assert beat.due(111.0) == "... results: mesh (11 s)"
    clock[0] = 112.0
    beat.hears("results: pictures")
    assert beat.due(116.0) is None and beat.due(117.0) == "... results: pictures (5 s)"


@pytest.mark.parametrize("has_bar", [False, True])
def test_a_line_of_progress_is_a_sign_of_life(has_bar):
    stream = io.StringIO()
    beat = Heartbeat(stream, patience=0.02)
    beat.hears("tracing")
    with beat.beating(), tqdm(total=2, file=io.StringIO(), disable=not has_bar):
        time.sleep(0.2)
    assert ("... tracing" in stream.getvalue()) != has_bar


def test_a_line_of_progress_is_drawn_again_in_a_long_step():
    """Its clock goes on: a step of a minute does not look like one that hangs."""
    screen = io.StringIO()
    with Heartbeat(io.StringIO(), patience=0.02).beating(), \
            tqdm(total=2, file=screen, bar_format="{elapsed}") as line:
        line.start_t -= 75                                 # as if the step had begun then
        time.sleep(0.2)
    assert screen.getvalue().count("01:15") > 1


def test_a_script_that_is_silent_shows_what_it_does(monkeypatch, capsys):
    monkeypatch.setattr(script, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(logging.root, "handlers", [])     # as in a process of its own
    monkeypatch.setattr(logging.root, "level", logging.root.level)

    def main():
        script.log.info("fitting the surface")
        time.sleep(0.3)

    script.run_script(main)
    assert "... fitting the surface (0 s)" in capsys.readouterr().err
