"""Loops in machine code: where they are used, and what happens without numba."""
from __future__ import annotations

import logging
import sys

import pytest
import torch

from utils import compiled
from utils.compiled import loops_for


@pytest.fixture
def forgotten():
    """What was imported before does not count, now and afterwards."""
    compiled._loops.cache_clear()
    yield
    compiled._loops.cache_clear()


@pytest.mark.parametrize("name", ["grid_loops", "row_loops", "sine_loops"])
def test_loops_are_for_float32_on_the_cpu(name):
    pytest.importorskip("numba", reason="compiled loops need numba")
    assert loops_for(torch.zeros(0), name).__name__ == f"utils.{name}"
    assert loops_for(torch.zeros(0, dtype=torch.float64), name) is None
    assert loops_for(torch.zeros(0, device="meta"), name) is None


def test_without_numba_there_are_none_and_the_command_is_told_once(forgotten, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "utils.grid_loops", raising=False)
    with caplog.at_level(logging.INFO):
        assert loops_for(torch.zeros(0), "grid_loops") is None
        assert loops_for(torch.zeros(0), "grid_loops") is None
    assert [record.getMessage().count("pip install numba") for record in caplog.records] == [1]
