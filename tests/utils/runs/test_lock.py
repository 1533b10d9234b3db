"""Two runs into one folder: the second is told, whatever became of the first."""
from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.tiny_runs import ROOT, config_of

from utils.checkpoints.storage import save_checkpoint
from utils.errors import ConfigError, WriteError
from utils.runs import lock as run_lock
from utils.runs.lock import LOCK_NAME, RunLock, check_free
from utils.runs.run import start_run

#: Takes the lock of a folder, says so, and waits to be killed.
HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from utils.runs.lock import RunLock
lock = RunLock(Path(sys.argv[2]))
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path/run."""
    (tmp_path / "run").mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, ROOT, tmp_path / "run"],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def begin(root, *flags, **options):
    run = start_run(config_of("--logging_root", root, "--experiment_name", "run", *flags),
                    **options)
    run.begin()
    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_run_is_told_who_holds_the_folder(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 0.1)
    before = contents(tmp_path / "run")
    assert re.fullmatch(rf"process {holder.pid} on \S+, since [-\d]+ [:\d]+\n",
                        before[LOCK_NAME].decode())
    for flags in ([], ["--restart", 1]):
        with pytest.raises(ConfigError) as caught:
            begin(tmp_path, *flags)
        told = str(caught.value)
        assert all(word in told for word in (str(tmp_path / "run"), f"process {holder.pid} on",
                                             "--experiment_name")) and "\n" not in told
    with pytest.raises(ConfigError, match="another run"):
        RunLock(tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_an_evaluation_may_read_while_a_run_trains(holder, tmp_path):
    begin(tmp_path, is_training=False)
    assert (tmp_path / "run" / "train.log").exists()
    with pytest.raises(ConfigError):
        check_free(tmp_path / "run")


def test_only_the_main_rank_looks_at_the_lock(holder, tmp_path):
    run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "run"),
                    is_main=False)
    assert run.start is None


def test_a_kill_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_NAME).exists()
    begin(tmp_path)
    assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK_NAME).read_text()


def test_the_lock_ends_with_the_run(tmp_path):
    first = begin(tmp_path)
    with pytest.raises(ConfigError):
        check_free(tmp_path / "run")
    first.log.close()
    assert not (tmp_path / "run" / LOCK_NAME).exists()
    check_free(tmp_path / "run")
    begin(tmp_path)
    begin(tmp_path, "--restart", 1)              # in one process a run ends where another begins
    with pytest.raises(ConfigError):
        check_free(tmp_path / "run")


def test_a_lock_whose_file_was_deleted_is_not_taken_for_the_new_one(tmp_path):
    first = RunLock(tmp_path)
    late = os.open(first.path, os.O_RDWR)         # opened while the first run was there
    first.close()
    second = RunLock(tmp_path)
    fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not run_lock._is_named(late, second.path)
    with pytest.raises(ConfigError):
        check_free(tmp_path)
    os.close(late)
    second.close()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    """As the data workers of a run that is killed: they live on for some seconds."""
    go_on, done = os.pipe(), os.pipe()
    lock = RunLock(tmp_path)
    worker = os.fork()
    if not worker:
        os.read(go_on[0], 1)
        lock.close()                              # no effect: it is not the worker's
        os.write(done[1], b"x")
        time.sleep(60)
        os._exit(0)
    try:
        os.write(go_on[1], b"x")
        os.read(done[0], 1)
        assert lock.path.exists()
        with pytest.raises(ConfigError):
            check_free(tmp_path)
        lock.forget()                             # as if the run was killed
        check_free(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        for end in (*go_on, *done):
            os.close(end)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_one_warning_says_so(tmp_path, monkeypatch, caplog, number):
    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    monkeypatch.setattr(run_lock, "_warned", set())
    begin(tmp_path)
    begin(tmp_path)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and str(tmp_path / "run") in warned[0] and "second run" in warned[0]


def test_a_lock_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with pytest.raises(WriteError, match=f"{tmp_path / 'run'}.*--logging_root"):
        begin(tmp_path)


def test_checkpoints_that_came_meanwhile_are_not_set_aside(tmp_path):
    """The other run ended between this one's look and its begin."""
    folder = tmp_path / "run" / "checkpoints"
    save_checkpoint(folder / "step_000002.pth", {"step": 2})
    run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "run"))
    save_checkpoint(folder / "step_000004.pth", {"step": 4})
    with pytest.raises(ConfigError, match="start it again"):
        run.begin()
    assert sorted(path.name for path in folder.iterdir()) == ["step_000002.pth", "step_000004.pth"]
    assert begin(tmp_path).start.path == folder / "step_000004.pth"
