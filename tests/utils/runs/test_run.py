"""One run, one folder."""
from __future__ import annotations

import logging
import os
import random
import signal
import subprocess

import numpy as np
import pytest
import torch
from support.tiny_runs import config_of

from utils.checkpoints.storage import save_checkpoint
from utils.config.parser import TRAIN_SECTIONS, parse_config
from utils.devices import pick_device
from utils.errors import ConfigError, WriteError
from utils.runs import run as run_module
from utils.runs.folder import RUN_FILES, RunFolder
from utils.runs.lock import LOCK_NAME
from utils.runs.run import revision, start_run
from utils.runs.script import run_script
from utils.runs.stopping import RunStopped


def begin(root, *flags, is_training=True):
    config = config_of("--logging_root", root, "--experiment_name", "run", *flags)
    run = start_run(config, is_training=is_training)
    run.begin()
    return run


def fill(folder):
    """All that a run writes, and two files of the user's."""
    folder.mkdir(parents=True)
    for name in RUN_FILES:
        if "." in name:
            (folder / name).write_text("of the run")
        else:
            (folder / name).mkdir()
            (folder / name / "inside.bin").write_text("of the run")
    (folder / "notes.txt").write_text("mine")
    (folder / "mine").mkdir()
    (folder / "mine" / "metrics.json").write_text("mine")


def test_begin_writes_a_configuration_that_loads_again(tmp_path):
    run = begin(tmp_path, "--lr", 0.25, "--eval_steps", "1,2")
    config = parse_config(TRAIN_SECTIONS, ["--config_filepath",
                                           str(run.folder.path / "config.txt")])
    assert config == run.config
    assert run.start is None


def test_nothing_is_touched_before_begin(tmp_path):
    fill(tmp_path / "run")
    start_run(config_of("--logging_root", tmp_path, "--experiment_name", "run", "--restart", 1))
    assert all((tmp_path / "run" / name).exists() for name in RUN_FILES)
    assert (tmp_path / "run" / "config.txt").read_text() == "of the run"


def test_restart_deletes_the_runs_files_and_no_others(tmp_path):
    fill(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("mine")
    (tmp_path / "run" / "views" / "inside.bin").unlink()
    (tmp_path / "run" / "views").rmdir()
    (tmp_path / "run" / "views").symlink_to(outside)
    begin(tmp_path, "--restart", 1)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["config.txt", "mine", "notes.txt", LOCK_NAME, "train.log"]
    assert (tmp_path / "run" / "mine" / "metrics.json").read_text() == "mine"
    assert (outside / "kept.txt").read_text() == "mine"           # the link went, not its aim
    assert "of the run" not in (tmp_path / "run" / "train.log").read_text()


def test_halves_that_a_killed_process_left_are_deleted(tmp_path):
    """Not those of a process that lives, such as an evaluation, nor what is not a run's."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    run = tmp_path / "run"
    dead, alive = [
        [run / f".metrics.{process}.part.json", run / "views" / f".002_error.{process}.part.png",
         run / "video_frames" / f".0001.{process}.part.png"] for process in (gone.pid, os.getpid())]
    dead += [run / ".config.txt.abcd_123.tmp",
             run / "checkpoints" / ".step_000002.pth.abcdefgh.tmp"]
    kept = [*alive, run / f".notes.{gone.pid}.part.txt", run / ".mine.txt.abcdefgh.tmp",
            run / "metrics.json"]
    for path in (*dead, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    begin(tmp_path, is_training=False)
    assert all(path.exists() for path in (*dead, *kept))
    begin(tmp_path)
    assert not any(path.exists() for path in dead) and all(path.exists() for path in kept)


def test_resume_finds_the_latest_sound_checkpoint(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (2, 10):
        save_checkpoint(folder / f"step_{step:06d}.pth", {"step": step})
    (folder / "step_000012.pth").write_bytes(b"PK cut off")
    assert begin(tmp_path).start.path == folder / "step_000010.pth"
    assert begin(tmp_path, "--restart", 1).start is None


def test_an_earlier_run_without_resume_or_restart_is_an_error(tmp_path):
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step_000002.pth", {"step": 2})
    with pytest.raises(ConfigError, match="--restart 1.*--resume 1.*--experiment_name"):
        begin(tmp_path, "--resume", 0)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints"]


def test_an_evaluation_keeps_run_and_configuration(tmp_path):
    run = begin(tmp_path, "--lr", 0.25)
    save_checkpoint(run.folder.checkpoints / "step_000002.pth", {"step": 2})
    again = begin(tmp_path, "--lr", 0.5, "--restart", 1, "--resume", 0, is_training=False)
    assert again.start.path == run.folder.checkpoints / "step_000002.pth"
    assert "lr = 0.25" in (run.folder.path / "config.txt").read_text()


@pytest.mark.parametrize("where", ["root", "run", "checkpoints"])
def test_places_that_cannot_be_written_are_named(tmp_path, where):
    """Root may write everywhere, so a file stands where a folder is needed."""
    if where == "checkpoints":
        run = begin(tmp_path)
        (tmp_path / "run" / "checkpoints").write_text("")
        with pytest.raises(WriteError, match="checkpoints.*--logging_root"):
            save_checkpoint(run.folder.checkpoints / "step_000001.pth", {})
        return
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "run" if where == "run" else tmp_path / "logs" / "root"
    path.write_text("a file")
    root = tmp_path / "logs" if where == "run" else path
    with pytest.raises(WriteError, match=f"{path}.*--logging_root"):
        begin(root)
    assert path.read_text() == "a file"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "/tmp"])
def test_experiment_names_are_no_paths(tmp_path, name):
    with pytest.raises(ConfigError, match="experiment_name"):
        RunFolder(tmp_path, name)


def test_the_log_has_what_came_before_the_folder_and_one_run_only(tmp_path):
    log = logging.getLogger("somewhere")
    run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "one"))
    log.info("before the folder")
    run.begin()
    log.info("after it")
    begin(tmp_path)
    log.info("of another run")
    lines = (tmp_path / "one" / "train.log").read_text().splitlines()
    assert [line.split(" INFO ")[1].split(":")[0] for line in lines] == [
        str(tmp_path / "one"), "before the folder", "after it"]
    assert "seed 0" in lines[0] and "cpu" in lines[0] and torch.__version__ in lines[0]
    other = (tmp_path / "run" / "train.log").read_text()
    assert "of another run" in other and "after it" not in other


def test_one_seed_for_everything_random(tmp_path):
    def draw(seed):
        run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "run",
                                  "--seed", seed))
        return (torch.rand(1).item(), np.random.rand(), random.random(),
                torch.rand(1, generator=run.generator).item())

    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4)))


def test_threads_and_log_level_are_those_of_the_flags(tmp_path):
    before = torch.get_num_threads()
    try:
        begin(tmp_path, "--num_threads", 2, "--verbose_logging", 1)
        assert torch.get_num_threads() == 2
        assert logging.getLogger().level == logging.DEBUG
        start_run(config_of("--experiment_name", "run", "--verbose_logging", 1), is_main=False)
        assert logging.getLogger().level == logging.WARNING
    finally:
        torch.set_num_threads(before)


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_the_revision_is_unknown_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert revision() == "unknown"


@pytest.mark.parametrize("error, code, words", [
    (ConfigError("lr is odd"), 2, "error: lr is odd\n"),
    (WriteError("full"), 2, "error: full\n"),
    (KeyboardInterrupt(), 130, "resumes from its last checkpoint, if it has one"),
    (RunStopped(signal.SIGTERM), 143, "resumes from its last checkpoint, if it has one"),
    (RunStopped(signal.SIGHUP, "saved in here"), 129, "stopped; saved in here\n"),
])
def test_what_users_can_fix_is_one_line(capsys, error, code, words):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main)
    told = capsys.readouterr().err
    assert caught.value.code == code
    assert words in told and told.count("\n") == 1


def test_our_own_bugs_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(main)
