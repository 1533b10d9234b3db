"""A disk that is really full, in the midst of a run: a small file system of memory.

    python -m pytest tests/trust/test_disk_full.py -m trust -s
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from support.tiny_runs import SCRIPTS, differing, final_state, flags_of

pytestmark = pytest.mark.trust

#: Checkpoints of the tiny runs have 45 MiB: one fits, the next does not.
SIZE = "64m"


def in_a_small_disk(place, *command):
    """Run a command in a namespace where `place` is a file system of SIZE, kept in memory."""
    lines = f'mount -t tmpfs -o size={SIZE} tmpfs "$0" && "$@"; code=$?; ' \
            'cp -r "$0" "$0.left"; exit $code'
    return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", lines, str(place),
                           *map(str, command)], text=True, capture_output=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_full_disk_keeps_the_last_checkpoint_and_is_named(tiny_scene, tiny_sphere, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("unshare") is None or in_a_small_disk(place, "true").returncode:
        pytest.skip("this machine lets no user mount a file system")
    shutil.rmtree(tmp_path / "disk.left")
    flags = flags_of(place, tiny_scene, "--num_steps", 6, "--steps_til_ckpt", 2,
                     sphere=tiny_sphere)
    ended = in_a_small_disk(place, sys.executable, SCRIPTS / "train_sdf_ibr.py", *flags)
    last = ended.stderr.strip().splitlines()[-1]
    print(f"\n{last}")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert last.startswith("error: cannot write") and "is full" in last
    assert str(place / "run" / "checkpoints") in last
    left = tmp_path / "disk.left" / "run"
    assert [path.name for path in (left / "checkpoints").iterdir()] == ["step_000002.pth"]
    assert final_state(left)["step"] == 2
    whole = [sys.executable, SCRIPTS / "train_sdf_ibr.py"]
    for root, name in ((tmp_path / "disk.left", "run"), (tmp_path, "whole")):
        command = [*whole, *flags_of(root, tiny_scene, "--num_steps", 6, "--steps_til_ckpt", 2,
                                     name=name, sphere=tiny_sphere)]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert differing(final_state(left)["task"], final_state(tmp_path / "whole")["task"]) == []
