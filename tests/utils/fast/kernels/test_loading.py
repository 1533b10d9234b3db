"""Loops in machine code: where they are used, and what happens without numba."""
from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.fast.kernels import loading as compiled
from utils.fast.kernels.loading import loops_for

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def forgotten():
    """What was imported before does not count, now and afterwards."""
    compiled._loops.cache_clear()
    yield
    compiled._loops.cache_clear()


@pytest.mark.parametrize("name", ["convolutions", "grid", "rows", "scene_views", "sines",
                                  "triangles"])
def test_loops_are_for_float32_on_the_cpu(name):
    pytest.importorskip("numba", reason="compiled loops need numba")
    assert loops_for(torch.zeros(0), name).__name__ == f"utils.fast.kernels.{name}"
    assert loops_for(torch.zeros(0, dtype=torch.float64), name) is None
    assert loops_for(torch.zeros(0, device="meta"), name) is None


SINE_LAYER = """
import logging
import torch
logging.basicConfig(level=logging.INFO)
from utils.fast.siren.evaluator import sine_layer

hidden, weight = torch.rand(5, 4), torch.rand(4, 4)
found = sine_layer(hidden, weight, torch.zeros(4), out=torch.empty(5, 4))
torch.testing.assert_close(found, (hidden @ weight).sin())
"""


def call_with_cache(folder, before=""):
    """A sine layer in a process that keeps what it compiles in a folder; its log."""
    result = subprocess.run([sys.executable, "-c", before + SINE_LAYER], cwd=ROOT, text=True,
                            capture_output=True, env=dict(os.environ, NUMBA_CACHE_DIR=str(folder)))
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_broken_cache_is_told_and_plain_forms_are_used(tmp_path):
    """As a power cut leaves it: the files are there, and empty."""
    pytest.importorskip("numba", reason="compiled loops need numba")
    assert "NUMBA_CACHE_DIR" not in call_with_cache(tmp_path)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".nbi" for path in kept)
    for path in kept:
        path.write_bytes(b"")
    assert "sines: plain forms are used" in (told := call_with_cache(tmp_path))
    assert told.count("NUMBA_CACHE_DIR") == 1 and "pip install" not in told


def test_a_disk_that_is_full_is_told_and_plain_forms_are_used(tmp_path):
    """Files may not grow beyond a kilobyte here."""
    pytest.importorskip("numba", reason="compiled loops need numba")
    pytest.importorskip("resource", reason="files are limited on Unix alone")
    told = call_with_cache(tmp_path, "import resource\n"
                                     "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n")
    assert "plain forms are used" in told and told.count("NUMBA_CACHE_DIR") == 1


def test_without_numba_there_are_none_and_the_command_is_told_once(forgotten, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "utils.fast.kernels.grid", raising=False)
    with caplog.at_level(logging.INFO):
        assert loops_for(torch.zeros(0), "grid") is None
        assert loops_for(torch.zeros(0), "grid") is None
    assert [record.getMessage().count("pip install numba") for record in caplog.records] == [1]
