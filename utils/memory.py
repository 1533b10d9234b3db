"""Keeping freed memory in the process: page faults cost half of a convolution's time on a CPU."""
from __future__ import annotations

import ctypes
import ctypes.util
import logging
import sys

log = logging.getLogger(__name__)

#: Parameters of glibc's mallopt: when to give memory back, and from what size to map it anew.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_UP_TO = 1 << 30              # bytes; larger blocks are mapped, and go back when freed


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, instead of giving it back to the system each time.

    Convolutions with gradient run about twice as fast for more resident memory. Without effect
    where the C library is not glibc.

    Returns:
        Whether it worked.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(M_MMAP_THRESHOLD, KEEP_UP_TO)) and bool(mallopt(M_TRIM_THRESHOLD,
                                                                        KEEP_UP_TO))
    log.debug("freed memory is %s", "kept" if kept else "given back")
    return kept
