"""One training run a folder: a lock that the system takes back when its process dies.

The lock is on an open file, not the file's existence: whatever ends the process, `kill -9` among
it, ends the lock. The file says who holds it, and goes when the run ends well.
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
except ImportError:                # there are no such locks on Windows
    fcntl = None

log = logging.getLogger(__name__)

LOCK_NAME = "run.lock"
PATIENCE_SECONDS = 1.0             # others look at a lock for an instant, and so hold it
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
_warned: set[str] = set()


class RunLock:
    """The right to train into a folder, until it is closed or the process is gone.

    Where the file system has no locks, one warning says so and the run goes on.

    Args:
        folder: of the run; it exists.
    Raises:
        ConfigError: another run holds it; says which.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle: int | None = _locked(self.path)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, _own_name().encode())
        _held.add(self)

    def close(self) -> None:
        """Give it back; the file goes first, as nobody may take it who still holds it open."""
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            self.forget()

    def forget(self) -> None:
        """Close the file in a process that was forked; the lock stays with the one that forked."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def check_free(folder: Path) -> None:
    """Raise ConfigError where another process trains into a folder; nothing is written."""
    path = folder / LOCK_NAME
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return                     # no lock there, or none that can be read: RunLock will tell
    try:
        if not _try_lock(handle, path, is_shared=True):
            raise _taken(path)
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """The open file, locked; it is the one that stands under this name."""
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
    """Whether the lock was free; True also where there are no locks."""
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
    """Whether the open file still stands there: its holder may have deleted it meanwhile."""
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
    # a data worker that outlives its killed run for some seconds must not keep the lock
    os.register_at_fork(after_in_child=_forget_all)
