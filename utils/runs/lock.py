"""A lock on a run's folder, so that only one process at a time trains into it.

The lock is on an open file and not the existence of that file: the operating system releases it
when the process exits, even after SIGKILL. The file says which process holds the lock, and is
deleted when the lock is given back.
"""
from __future__ import annotations

import errno
import logging
import os
import platform
import time
import weakref
from pathlib import Path

from utils.errors import ConfigError

try:
    import fcntl
except ImportError:                # Windows has no such locks
    fcntl = None

log = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
PATIENCE_SECONDS = 1.0             # `check_free` of other processes holds a lock for an instant
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
_warned: set[str] = set()


class RunLock:
    """The right to train into a folder, until it is closed or the process exits.

    If the file system has no locks, a warning says so, and training begins without one.

    Args:
        folder: of the run; it exists.
    Raises:
        ConfigError: another run holds the lock; says which.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle: int | None = _locked(self.path)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, _own_name().encode())
        _held.add(self)

    def close(self) -> None:
        """Delete the file, then release the lock; `_is_named` explains the order."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Close the file without deleting it; in a forked process the parent keeps the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def check_free(folder: Path) -> None:
    """Raise ConfigError if another process is training into a folder; nothing is written."""
    if is_held(folder):
        raise _taken(folder / LOCK_NAME)


def is_held(folder: Path) -> bool:
    """Return whether another process is training into a folder; nothing is written."""
    path = folder / LOCK_NAME
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False               # no lock, or one that cannot be read: RunLock will say so
    try:
        return not _try_lock(handle, path, is_shared=True)
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """Open and lock the file of this name; return its handle."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _try_lock(handle, path):
            if _is_named(handle, path):
                return handle
        elif time.monotonic() > give_up:
            os.close(handle)
            raise _taken(path)
        else:
            time.sleep(0.05)
        os.close(handle)


def _try_lock(handle: int, path: Path, *, is_shared: bool = False) -> bool:
    """Lock an open file if that is possible at once; True also if there are no locks."""
    if fcntl is None:
        _warn_once(path, "this system")
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn_once(path, "the file system")
    return True


def _is_named(handle: int, path: Path) -> bool:
    """Whether the path still leads to the open file.

    Its earlier holder may have deleted it, and a third process may have made and locked a new one:
    the lock on a deleted file excludes nobody.
    """
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _warn_once(path: Path, what: str) -> None:
    if what not in _warned:
        _warned.add(what)
        log.warning("%s: %s has no locks; do not start a second run into this folder, nothing "
                    "would stop it", path.parent, what)


def _own_name() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {platform.node()}, since {started}\n"


def _taken(path: Path) -> ConfigError:
    try:
        holder = path.read_text(encoding="utf-8", errors="replace").strip()[:200]
    except OSError:
        holder = ""
    return ConfigError(f"{path.parent}: another run is training into this folder "
                       f"({holder or 'it does not say which'}); wait for its end, stop it, or "
                       "give another --experiment_name")


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    # a data worker that lives some seconds longer than its killed run must not keep the lock
    os.register_at_fork(after_in_child=_forget_all)
