"""Keeping freed memory; what it brings is measured elsewhere."""
from __future__ import annotations

import sys

import pytest

from utils import memory


def test_both_thresholds_are_set(monkeypatch):
    asked = []

    class Library:
        @staticmethod
        def mallopt(parameter, value):
            asked.append((parameter, value))
            return 1

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    assert memory.keep_freed_memory()
    # malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD is -3.
    assert sorted(asked) == [(-3, memory.KEEP_UP_TO), (-1, memory.KEEP_UP_TO)]
    assert memory.KEEP_UP_TO < 2 ** 31                # mallopt takes an int


def test_other_systems_and_libraries_are_left_alone(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(memory.ctypes, "CDLL", absent)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())     # musl has no mallopt
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has mallopt")
def test_calling_it_again_changes_nothing():
    assert memory.keep_freed_memory() == memory.keep_freed_memory()
