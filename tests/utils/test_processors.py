"""How threads wait, and what is said where other programs use the processors."""
from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
from support.tiny_runs import ROOT

from utils import processors
from utils.processors import NUM_SPINS, Usage, advice_when_busy, limit_spinning


@pytest.mark.parametrize("before, is_loaded, after", [
    ({}, False, NUM_SPINS), ({}, True, None), ({"GOMP_SPINCOUNT": "7"}, False, "7"),
    ({"OMP_WAIT_POLICY": "active"}, False, None)])
def test_waiting_threads_sleep_soon(before, is_loaded, after, monkeypatch):
    """Not against the user's word, and not once torch has read it."""
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}
    monkeypatch.setattr(sys, "modules", modules | ({"torch": torch} if is_loaded else {}))
    monkeypatch.setattr(os, "environ", before)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == after


def test_threads_are_told_before_a_script_loads_torch():
    code = ("import os; from utils.runs.script import run_script\n"
            "run_script(lambda: print(os.environ['GOMP_SPINCOUNT']))")
    bare = {name: value for name, value in os.environ.items()
            if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                           env=bare, timeout=60)
    assert ended.stdout.strip() == NUM_SPINS


BEGIN = Usage(clock=10.0, machine=100.0, process=1.0)


@pytest.mark.parametrize("used, threads, num, advice", [
    (2.0, 2, 2, "--num_threads 1"), (1.0, 2, 2, "--num_threads 1"), (0.2, 2, 2, None),
    (2.0, 1, 2, None), (4.0, 8, 8, "--num_threads 4"), (4.0, 4, 8, None), (0.0, 2, 2, None)])
def test_other_programs_are_told(used, threads, num, advice):
    """In the 5 s the process used 3 s, and others `used` processors."""
    later = Usage(clock=15.0, machine=100.0 + 3 + 5 * used, process=4.0)
    told = advice_when_busy(threads, begin=BEGIN, now=later, processors=num)
    assert (told is None) if advice is None else advice in told


def test_too_short_a_time_tells_nothing():
    assert BEGIN.others(Usage(clock=10.1, machine=110.0, process=1.0)) is None
    assert advice_when_busy(2, begin=BEGIN, now=Usage(10.1, 110.0, 1.0), processors=2) is None


def test_a_system_without_counters(tmp_path, monkeypatch):
    for content in (None, "", "cpu a b c"):
        path = tmp_path / "stat"
        if content is not None:
            path.write_text(content)
        monkeypatch.setattr(processors, "STAT", path)
        assert Usage.now() is None
        assert advice_when_busy(2, begin=None, processors=2) is None


@pytest.mark.skipif(not processors.STAT.exists(), reason="the system has no /proc/stat")
def test_the_counters_know_this_process():
    """Half a second of work is counted for this process, and not for others."""
    begin, stop = Usage.now(), time.process_time() + 0.5
    while time.process_time() < stop:
        pass
    end = Usage.now()
    assert end.process - begin.process >= 0.5
    assert end.machine - begin.machine >= 0.45                   # steps of 0.01 s a processor
    others = begin.others(end)
    assert 0 <= others <= (os.cpu_count() or 1) + 0.1
