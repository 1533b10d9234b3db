"""Reader of single arrays of MATLAB files (version 5 to 7.2), checked before they are unpacked."""
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from utils.errors import UserError
from utils.files.limits import MAX_MAT_BYTES, MAX_MAT_NUMBERS, check_size

#: What damaged files raise.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
           MemoryError, NotImplementedError, EOFError, struct.error, zlib.error, MatReadError)


def read_matlab_array(path: Path, name: str, num_dims: int) -> np.ndarray:
    """Return an array of numbers of a file.

    Args:
        path: of the file.
        name: of the array.
        num_dims: dimensions that it must have.
    Raises:
        UserError: missing, damaged, too large, or without such an array.
    """
    check_size(path, MAX_MAT_BYTES, "check that this is the right file", error=UserError)
    try:
        shapes = {found: (shape, kind) for found, shape, kind in whosmat(str(path))}
    except _DAMAGE as problem:
        raise UserError(f"{path}: not readable as a MATLAB file ({problem}), need version 5 to "
                        "7.2; copy it again, or save it with -v7") from problem
    shape, kind = shapes.get(name, ((), "absent"))
    if len(shape) != num_dims or np.prod(shape, dtype=np.float64) > MAX_MAT_NUMBERS or \
            kind in ("absent", "cell", "struct", "object", "char", "function", "opaque"):
        raise UserError(f"{path}: {name} is {kind}, shape {shape}, need numbers in {num_dims} "
                        f"dimensions, at most {MAX_MAT_NUMBERS:,} of them; check that this is the "
                        "right file")
    try:
        array = np.asarray(loadmat(str(path), variable_names=[name])[name])
        if array.dtype.kind not in "biuf" or array.shape != tuple(shape):
            raise ValueError(f"{name} holds {array.dtype}")
    except _DAMAGE as problem:
        raise UserError(f"{path}: {name} cannot be read ({problem}); copy the file again") \
            from problem
    return array
