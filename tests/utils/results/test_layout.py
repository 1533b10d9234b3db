"""Labels that do not cover each other; colour bars as pictures."""
from __future__ import annotations

import numpy as np
import pytest

from utils.results.layout import ColourBar, bar_picture, even_rows, label_places


def _covering(places, sizes):
    """Pairs of labels that share pixels."""
    room = (sizes[:, None] + sizes) / 2
    shared = (np.abs(places[:, None] - places) < room).all(-1)
    return (shared.sum() - len(places)) // 2


@pytest.mark.parametrize("count, lengths", [
    (0, []), (1, [1]), (7, [7]), (8, [4, 4]), (12, [6, 6]), (13, [7, 6]), (16, [6, 6, 4])])
def test_rows_are_even(count, lengths):
    """Rows of up to seven; all things in their order."""
    rows = even_rows(count, 7)
    assert [row.stop - row.start for row in rows] == lengths
    assert [i for row in rows for i in range(count)[row]] == list(range(count))


@pytest.mark.parametrize("points", [
    np.stack([np.cos(np.arange(40)), np.sin(np.arange(40))], -1) * 200,        # a ring
    np.stack([np.arange(12) * 6.0, np.zeros(12)], -1),                         # a narrow row
    np.zeros((8, 2))], ids=["ring", "row", "one place"])
def test_labels_cover_neither_each_other_nor_points(points):
    sizes = np.full((len(points), 2), (18.0, 12.0))
    places = label_places(points, sizes, np.zeros((0, 2)), np.array([0.0, -100.0]))
    assert _covering(places, sizes) == 0
    covered = (np.abs(places[:, None] - points) < sizes[:, None] / 2).all(-1)
    assert not covered.any()
    assert np.linalg.norm(places - points, axis=-1).max() <= 100


def test_a_label_that_is_alone_stands_outwards():
    place = label_places(np.array([[10.0, 0]]), np.array([[18.0, 12]]), np.zeros((0, 2)),
                         np.zeros(2))
    assert place[0] == pytest.approx([23, 0], abs=1)


def test_a_bar_as_a_picture_has_its_colours_and_texts():
    found = bar_picture(ColourBar("inferno", "0", "0.2 and more"), "error", (60, 40))
    assert found.shape[0] >= 40 and found.shape[1] > 60         # it grows for the texts
    middle = found[found.shape[0] // 2]
    assert middle[10].sum() < 60 and middle[-10].sum() > 500    # black to pale yellow
    assert (found[:3] == 255).all() and (found < 100).all(-1).sum() > 50
