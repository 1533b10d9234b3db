"""What the machine refuses, in one line with its cure: memory, open files, names, disks.

These errors come from anywhere, Python, numpy, torch or Pillow, and not at all from input that a
reader could have checked. Everything else that is not a `UserError` is a defect and keeps its
traceback.
"""
from __future__ import annotations

import errno
import re

import torch

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
    """Return in a line what the machine refused and how to fix it; None for any other error.

    Args:
        error: with its causes: a reader may have said something else of it.
    """
    if _is_memory(error):
        return f"out of memory ({_first_line(error)}); {MORE_MEMORY}"
    if isinstance(error, OSError) and error.errno in _CURES:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}; {_CURES[error.errno]}"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"{error}; {_CURES[errno.EAGAIN]}"
    return None


def _is_memory(error: BaseException) -> bool:
    """Return whether memory was refused, by the error's class or by what it says."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    speaks = isinstance(error, (RuntimeError, ImportError, OSError)) or \
        type(error).__module__ == "cv2"
    return speaks and bool(_NO_MEMORY.search(str(error)))


def _first_line(error: BaseException) -> str:
    """Return what the error says, as far as a line goes."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
