"""What a script does round its main: one line for all that the user can fix, and exit codes.

A script imports this module alone at its top, and all else in its main: `--help` then prints
without waiting for torch, and a package that is absent is one line too. What the machine refuses
(memory, open files, names, disks) comes from anywhere, Python, numpy, torch or OpenCV. Everything
else that is not a `UserError` is a defect and keeps its traceback.
"""
from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from utils.errors import UserError
from utils.files.text import VisibleFormatter, visible_message
from utils.heartbeat import PATIENCE_SECONDS, Heartbeat
from utils.paths import PROJECT_ROOT
from utils.processors import limit_spinning
from utils.runs.stopping import RunStopped, stopping_at_once

log = logging.getLogger(__name__)
STOPPED = ("started again without --restart, a training run resumes from its last checkpoint, if "
           "it has one")
OLDEST_PYTHON = (3, 11)
#: The project's own modules; an import of anything else that fails lacks a package.
_OWN = ("commands", "utils", "stages", "data_processing", "modules", "training", "sdf", "loss",
        "scheduler", "meta")
#: What torch, OpenCV and OpenBLAS say where memory is refused; they have no class for it.
_NO_MEMORY = re.compile(r"can't allocate memory|cannot allocate memory|out of memory|bad_alloc|"
                        r"insufficient memory|failed to map segment|CUDNN_STATUS_ALLOC_FAILED",
                        re.IGNORECASE)
#: What is to be done about errors of the system, by number.
_CURES = {
    errno.ENAMETOOLONG: "give a shorter name: file systems take 255 bytes",
    errno.EMFILE: "allow more open files (`ulimit -n 1024`)",
    errno.ENFILE: "close other programs: the machine has too many files open",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "change its mode or owner, or give another place",
    errno.EPERM: "change its mode or owner, or give another place",
    errno.EROFS: "give another place",
    errno.EIO: "look after the disk",
    errno.ELOOP: "its links lead in a circle; give the real path",
    errno.ENOTDIR: "a part of its path is a file; give another place",
    errno.EISDIR: "it is a folder; give a file",
    errno.EAGAIN: "too many threads or processes; give fewer with --num_threads, or raise "
                  "`ulimit -u`"}
MORE_MEMORY = ("give smaller images (--load_im_scale), fewer views at a time (--image_batch_size, "
               "--source_views_per_target) or crops (--target_crop), or a machine with more memory")


def told(error: BaseException) -> str | None:
    """Return in a line what is lacking or refused and how to fix it; None for any other error."""
    if _is_memory(error):
        return f"out of memory ({_first_line(error)}); {MORE_MEMORY}"
    if isinstance(error, OSError) and error.errno in _CURES:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}; {_CURES[error.errno]}"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(_OWN):
        return _lacks(f"the package {error.name}")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"{error}; {_CURES[errno.EAGAIN]}"
    return None


def _lacks(what: str) -> str:
    """Return that this Python lacks something, and how to get to one that has it."""
    activate = PROJECT_ROOT / ".venv" / "bin" / "activate"
    cure = f"run `. {activate}` first" if activate.is_file() else \
        f"run `make install` in {PROJECT_ROOT}, then `. .venv/bin/activate`"
    return f"{sys.executable} lacks {what}; {cure}, or `pip install .` into an environment of yours"


def _is_memory(error: BaseException) -> bool:
    """Return whether memory was refused, by the error's class or by what it says."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    speaks = isinstance(error, (RuntimeError, ImportError, OSError)) or \
        type(error).__module__ == "cv2"
    return speaks and bool(_NO_MEMORY.search(str(error)))


def _first_line(error: BaseException) -> str:
    """Return what the error says, as far as a line goes."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; an error that the user can fix is one line on stderr, exit code 2.

    So are what the machine refuses (memory, open files, long names) and packages that are absent. A
    signal that stops the script is one line too; for its exit code see `utils.runs.stopping`.
    """
    beat = Heartbeat(sys.stderr, PATIENCE_SECONDS)
    _make_printable(beat)
    if sys.version_info < OLDEST_PYTHON:
        sys.stderr.write(f"error: {_lacks('Python 3.11 or newer')}\n")
        sys.exit(2)
    limit_spinning()
    try:
        with stopping_at_once(), beat.beating():
            main()
            sys.stdout.flush()
    except BrokenPipeError:                                # `| head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, FloatingPointError) as error:
        sys.stderr.write(visible_message(f"error: {error}") + "\n")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, RunStopped) else RunStopped(signal.SIGINT)
        sys.stderr.write(f"stopped; {stopped.message or STOPPED}\n")
        sys.exit(stopped.exit_code)
    except Exception as error:
        refused = told(error)
        if refused is None:
            raise
        sys.stderr.write(visible_message(f"error: {refused}") + "\n")
        sys.exit(2)


class _AboveProgress(logging.StreamHandler):
    """Writes above the line of progress, if there is one, and leaves that whole.

    Args:
        beat: hears what is written.
    """

    def __init__(self, stream: TextIO, beat: Heartbeat) -> None:
        super().__init__(stream)
        self.beat = beat

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record above the line of progress."""
        self.beat.hears(self.format(record))
        bars = sys.modules.get("tqdm")
        if bars is None:
            super().emit(record)
        else:
            with bars.tqdm.external_write_mode(file=self.stream):
                super().emit(record)


def _make_printable(beat: Heartbeat) -> None:
    """Log to stderr and to the heartbeat; no character that a terminal cannot show ends a script.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = _AboveProgress(sys.stderr, beat)
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
