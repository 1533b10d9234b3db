"""Memory on a CPU: freed blocks stay in the process, and what cannot fit is told beforehand.

Page faults cost half of a convolution's time. A process that asks for more than there is gets
killed without a word.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import gc
import logging
import os
import sys
from collections.abc import Callable

from utils.errors import ConfigError

log = logging.getLogger(__name__)

#: Parameters of glibc's mallopt: when to give memory back, and from what size to map it anew.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_UP_TO = 1 << 30              # bytes; larger blocks are mapped, and go back when freed
#: Least that a training step needs for each pixel of its sources, bytes in bf16: what E keeps for
#: its gradient. 1,750 were measured at 641x479.
ENCODER_BYTES = 1500


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, instead of giving it back to the system each time.

    Convolutions with gradient run about twice as fast for more resident memory. Without effect
    where the C library is not glibc.

    Returns:
        Whether it worked.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None:
        return False
    kept = bool(mallopt(M_MMAP_THRESHOLD, KEEP_UP_TO)) and bool(mallopt(M_TRIM_THRESHOLD,
                                                                        KEEP_UP_TO))
    log.debug("freed memory is %s", "kept" if kept else "given back")
    return kept


def give_back_freed() -> bool:
    """Collect garbage, and give what malloc keeps of freed memory back, at moments that are rare.

    A checkpoint or a picture sheet leaves blocks of other sizes than a step's between those that
    are in use, some in cycles that Python finds hundreds of steps later; a run of hours would keep
    more and more of them. The next step takes its pages anew, which costs less than the checkpoint
    did.

    Returns:
        Whether there was something to give; False where the C library is not glibc.
    """
    gc.collect()
    trim = _of_c_library("malloc_trim")
    return trim is not None and bool(trim(0))


def _of_c_library(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where the C library is another."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6"), name)
    except (OSError, AttributeError):
        return None


def machine_memory() -> int | None:
    """Bytes of this machine's memory, None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def check_encoder_memory(num_sources: int, resolution: tuple[int, int], *, is_bf16: bool) -> None:
    """Raise ConfigError where a step certainly needs more memory than the machine has.

    Args:
        num_sources: that a step encodes.
        resolution: (W, H) of each in pixels.
        is_bf16: of the convolutions; fp32 takes twice as much.
    """
    width, height = resolution
    needed = num_sources * width * height * ENCODER_BYTES * (1 if is_bf16 else 2)
    there = machine_memory()
    if there is not None and needed > there:
        share = (there / needed) ** 0.5
        raise ConfigError(
            f"{num_sources} source views of {width}x{height} pixels need {needed / 1e9:.0f} GB in "
            f"a training step at least, this machine has {there / 1e9:.0f}; give --target_crop "
            f"256, or a --load_im_scale that is {share:.2f} of the present one or less")
