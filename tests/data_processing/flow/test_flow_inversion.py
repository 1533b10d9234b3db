"""Backward flow derived from forward flow, against pairs whose flow is known both ways."""
from __future__ import annotations

import numpy as np
import pytest
from support.flow_cases import shifted, two_layers

from data_processing.flow.inversion import invert_flow
from data_processing.flow.synthetic_pairs import SyntheticPairs, make_pair

ALL_KNOWN = np.ones((32, 40), bool)


def invert(pair, known=ALL_KNOWN):
    return invert_flow(pair.flow_01, known, pair.image_0, pair.image_1)


@pytest.mark.parametrize("shift", [(3, 0), (-2, 4), (2.5, -1.25), (0, 0)])
def test_a_moved_picture_comes_back_with_holes_at_its_border(shift):
    """One surface: the flow is minus the shift, and hidden is what came in over the border."""
    pair = make_pair(two_layers(shifted(*shift), shifted(*shift))[:1], (40, 32), supersampling=1)
    found = invert(pair)
    assert found.known_mask.all()
    seen = ~found.occluded_mask
    np.testing.assert_allclose(found.flow_10[seen], np.broadcast_to(-np.array(shift), (
        seen.sum(), 2)), atol=1e-5)                       # float32 sums of weights
    differs = found.occluded_mask != pair.occluded_10
    # With a fractional shift the pixels on the border are half covered.
    assert not differs[2:-2, 4:-4].any() and differs.mean() < (0 if shift[0] % 1 == 0 else 0.05) \
        + 1e-9


def test_the_surface_that_looks_right_wins_where_two_land():
    """The diamond moves over ground that stays: the ground it comes to lie on is hidden."""
    pair = make_pair(two_layers(shifted(0, 0), shifted(6, 0)), (40, 32))
    found = invert(pair)
    same = pair.occluded_10 == found.occluded_mask
    both = ~pair.occluded_10 & ~found.occluded_mask
    error = np.abs(found.flow_10 - pair.flow_10).max(-1)
    on_thing = both & (pair.layers_1 == 1)
    assert on_thing.sum() > 80
    # Edges blend two surfaces over a pixel: a twentieth of all pixels are such.
    assert same.mean() > 0.95 and (error[both] < 0.01).mean() > 0.98
    assert (error[on_thing] < 0.01).mean() > 0.9


def test_synthetic_pairs_are_inverted_up_to_edges():
    """Bounds are twice what these three pairs show."""
    for index in range(3):
        pair = SyntheticPairs((96, 72), 3).exact_pair(index)
        found = invert(pair, np.ones((72, 96), bool))
        both = ~pair.occluded_10 & ~found.occluded_mask
        error = np.linalg.norm(found.flow_10 - pair.flow_10, axis=-1)[both]
        assert np.median(error) < 0.02 and (error > 1).mean() < 0.04
        assert (found.occluded_mask != pair.occluded_10).mean() < 0.08


def test_unknown_pixels_stay_unknown_where_they_land():
    pair = make_pair(two_layers(shifted(2, 1), shifted(2, 1))[:1], (40, 32), supersampling=1)
    known = ALL_KNOWN.copy()
    known[10:14, 20:25] = False
    flow = np.where(known[..., None], pair.flow_01, 0)
    found = invert_flow(flow, known, pair.image_0, pair.image_1)
    expected = ALL_KNOWN.copy()
    expected[11:15, 22:27] = False
    assert np.array_equal(found.known_mask, expected)
    assert not (found.occluded_mask & ~found.known_mask).any()
    assert (found.flow_10[~expected] == 0).all()


def test_without_any_known_pixel_nothing_is_known():
    pair = make_pair(two_layers(shifted(0, 0), shifted(0, 0)), (40, 32), supersampling=1)
    found = invert(pair, ~ALL_KNOWN)
    assert not found.known_mask.any() and not found.occluded_mask.any()


def test_images_of_one_pixel_across_are_inverted():
    image = np.full((1, 5, 3), 90, np.uint8)
    found = invert_flow(np.zeros((1, 5, 2), np.float32), np.ones((1, 5), bool), image, image)
    assert not found.occluded_mask.any() and (found.flow_10 == 0).all()
