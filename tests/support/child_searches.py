"""Functions for processes of their own: one that aborts, one that fails, one that ends well."""
from __future__ import annotations

import os
from pathlib import Path

from utils.errors import SceneError


def abort(work: Path, names: list[str], num_threads: int) -> Path:
    """End as native code does that meets what it did not expect."""
    os.abort()


def fail(work: Path, names: list[str], num_threads: int) -> Path:
    """Find no cameras."""
    raise SceneError("no two photographs")


def find(work: Path, names: list[str], num_threads: int) -> Path:
    """End well."""
    return work / f"models_{num_threads}"
