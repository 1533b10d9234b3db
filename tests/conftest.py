"""What all tests share: the project root on the path, one thread count, logging as it was."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Sums of floats depend on how they are split over threads: one thread gives the same everywhere.
torch.set_num_threads(1)


@pytest.fixture
def project_root() -> Path:
    """The folder that holds the project."""
    return ROOT


@pytest.fixture
def real_scene() -> Path:
    """The folder of the real DTU scan; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data" / "small" / "dtu_scan65"
    if not folder.is_dir():
        pytest.skip(f"the real scan is not at {folder}")
    return folder
