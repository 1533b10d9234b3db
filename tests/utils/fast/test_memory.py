"""Keeping freed memory, whose worth is measured elsewhere; sources that cannot fit are told."""
from __future__ import annotations

import sys

import pytest
from support.tiny_runs import call, flags_of

from utils.errors import ConfigError
from utils.fast import memory


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


def test_freed_memory_goes_back_where_the_library_can(monkeypatch):
    class Library:
        @staticmethod
        def malloc_trim(pad):
            return int(pad == 0)

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    assert memory.give_back_freed() is True
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())     # musl has no malloc_trim
    assert memory.give_back_freed() is False
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.give_back_freed() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has mallopt")
def test_calling_it_again_changes_nothing():
    assert memory.keep_freed_memory() == memory.keep_freed_memory()


def test_sources_that_cannot_fit_are_told_with_a_scale_that_does(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 24 * 10**9)
    memory.check_encoder_memory(7, (1500, 1500), is_bf16=True)           # 23.6 GB at least
    with pytest.raises(ConfigError, match="2 source views of 4000x3000 .* 72 GB .* has 24; .*0.58"):
        memory.check_encoder_memory(2, (4000, 3000), is_bf16=False)
    memory.check_encoder_memory(2, (4000 * 57 // 100, 3000 * 57 // 100), is_bf16=False)
    monkeypatch.setattr(memory, "machine_memory", lambda: None)
    memory.check_encoder_memory(49, (4000, 3000), is_bf16=False)


def test_a_run_that_cannot_fit_writes_nothing(tiny_scene, tiny_sphere, tmp_path, monkeypatch):
    """3 sources of 32x24 pixels: 3.5 MB at least; plain colours need no encoder."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**6)
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", 0, sphere=tiny_sphere)
    with pytest.raises(ConfigError, match="3 source views of 32x24"):
        call("train_sdf_ibr", *flags)
    assert not (tmp_path / "run").exists()
    call("train_sdf_ibr", *flags, "--feature_type", "rgb")
    assert (tmp_path / "run" / "metrics.json").exists()


def test_the_memory_of_this_machine_is_known():
    assert 10**9 < memory.machine_memory() < 10**14
