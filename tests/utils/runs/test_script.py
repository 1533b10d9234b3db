"""What is lacking or refused is one line with its cure, and exit code 2."""
from __future__ import annotations

import errno
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from support.tiny_runs import ROOT, call_as_user

from utils.runs.script import run_script, told

PETABYTE = 1 << 50


def too_much_for_opencv():
    """OpenCV says so with an error of its own; a resize of 2**30 x 2**18 pixels."""
    cv2.resize(np.zeros((1, 1), np.uint8), (1 << 30, 1 << 18))


@pytest.mark.parametrize("take", [
    lambda: torch.empty(PETABYTE), lambda: np.empty(PETABYTE), lambda: bytearray(PETABYTE << 8),
    too_much_for_opencv], ids=["torch", "numpy", "python", "opencv"])
def test_memory_that_is_refused(take, capsys):
    with pytest.raises(SystemExit) as ended:
        run_script(take)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1
    assert lines[0].startswith("error: out of memory (") and "--target_crop" in lines[0]


@pytest.mark.parametrize("number, cure", [
    (errno.EMFILE, "ulimit -n"), (errno.ENAMETOOLONG, "255 bytes"), (errno.ENOSPC, "make room"),
    (errno.EACCES, "mode or owner"), (errno.ENOMEM, "out of memory")])
def test_errors_of_the_system(number, cure):
    line = told(OSError(number, os.strerror(number), "a/file"))
    assert cure in line and os.strerror(number) in line and "\n" not in line


@pytest.mark.parametrize("error", [ValueError("a defect"), RuntimeError("shapes differ"),
                                   OSError(errno.EBADF, "Bad file descriptor"), KeyError("x")])
def test_defects_keep_their_traceback(error):
    def fail():
        raise error

    assert told(error) is None
    with pytest.raises(type(error)):
        run_script(fail)


@pytest.mark.parametrize("flags", [
    ("--experiment_name", "a" * 256, "--dataset_path", "SCENE"),
    ("--experiment_name", "a", "--dataset_path", "a" * 256),
    ("--experiment_name", "a", "--dataset_path", "SCENE", "--logging_root", "a" * 256),
    ("--experiment_name", "a", "--dataset_path", "SCENE", "--checkpoint_path", "a" * 256),
    ("--experiment_name", "a", "--config_filepath", "a" * 256)])
def test_names_that_are_too_long(flags, tiny_scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [str(tiny_scene) if flag == "SCENE" else flag for flag in flags]
    with pytest.raises(SystemExit) as ended:
        call_as_user("train_sdf_ibr", *flags, "--num_steps", 1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and last.startswith("error: ") and "a" * 100 in last


def run_bare(tmp_path, *command):
    """Run a script of the project in a Python without packages; return code and stderr."""
    bare = [sys.executable, "-I", "-S"]                       # no site-packages
    ended = subprocess.run([*bare, *map(str, command)], cwd=tmp_path, capture_output=True,
                           text=True, timeout=60)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "experiment_scripts").glob("*.py")),
                         ids=lambda path: path.stem)
def test_a_python_without_packages_is_told_where_they_are(path, tmp_path):
    code, text = run_bare(tmp_path, path, "--help")
    assert code == 2 and text.count("\n") == 1
    assert text.startswith(f"error: {sys.executable} lacks the package ")
    assert ".venv/bin/activate" in text


def test_the_command_without_packages_lists_its_subcommands(tmp_path):
    assert run_bare(tmp_path, ROOT / "metanlr.py") == (0, "")
    code, text = run_bare(tmp_path, ROOT / "metanlr.py", "train", "--help")
    assert code == 2 and "lacks the package " in text and text.count("\n") == 1


def test_help_needs_no_torch(tmp_path):
    """--help prints at once: what takes seconds is imported after the flags are read."""
    code = ("import runpy, sys; sys.argv = ['train_sdf_ibr.py', '--help']\n"
            "try: runpy.run_path(%r, run_name='__main__')\n"
            "finally: print(sorted({'torch', 'numpy', 'scipy', 'cv2'} & set(sys.modules)))")
    path = str(ROOT / "experiment_scripts" / "train_sdf_ibr.py")
    ended = subprocess.run([sys.executable, "-c", code % path], capture_output=True, text=True,
                           timeout=60)
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "[]"


def test_an_old_python_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9))
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: None)
    assert ended.value.code == 2 and "lacks Python 3.11 or newer" in capsys.readouterr().err
