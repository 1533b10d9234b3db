"""What tests of the loop share."""
from __future__ import annotations

from pathlib import Path

import pytest
from support.counting import MakeLoop


@pytest.fixture
def make_loop(tmp_path: Path) -> MakeLoop:
    """Makes loops round a task that counts, whose runs are in tmp_path."""
    return MakeLoop(tmp_path)
