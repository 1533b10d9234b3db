"""Coarser hulls for tests of the check, which take a third of the time."""
from __future__ import annotations

import pytest

from data_processing.checks import hypotheses, states

#: Tests that a check has the numbers of a user's: with its own grids.
WITH_OWN_GRIDS = {"test_a_good_scene_has_no_findings", "test_real_scan_is_good",
                  "test_masks_that_leak_over_a_stand"}


@pytest.fixture(autouse=True)
def coarse_hulls(request, monkeypatch):
    """Half the cells along each side."""
    if request.node.name not in WITH_OWN_GRIDS:
        monkeypatch.setattr(states, "HULL_GRID", 48)
        monkeypatch.setattr(hypotheses, "TEST_GRID", 26)
