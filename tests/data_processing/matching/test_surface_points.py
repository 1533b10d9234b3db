"""Matched points of a textured ball lie on it, and what is mistaken stays out."""
from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from support.ball_scene import ball_scene
from support.tracing_cases import cameras_at

from data_processing.matching.features import Features
from data_processing.matching.guided_matches import (
    distances_from_lines,
    fundamental_matrix,
    guided_matches,
    pairs_by_angle,
)
from data_processing.matching.pictures import matches_grid
from data_processing.matching.surface_points import (
    MatchSearch,
    find_points,
    inside_hull,
    points_at,
    within_gates,
)
from data_processing.matching.tracks import extended, pair_table, without_repeats
from utils.geometry.cameras import Cameras
from utils.views.matched_points import MatchedPoints
from utils.views.training_views import TrainingViews

RADIUS = 0.6
EYES = [(0.0, 0.2, 3.0), (1.0, 0.1, 2.8), (-0.9, -0.3, 2.9), (0.1, 1.2, 2.7)]


@cache
def ball_views(num_views: int = 5) -> TrainingViews:
    """The ball, from cameras on one side."""
    scene = ball_scene(RADIUS, resolution=(128, 96), num_views=20, arrangement="dtu")
    chosen = [4, 5, 6, 9, 10][:num_views]
    return TrainingViews(scene.images[chosen], scene.masks[chosen], scene.cameras[chosen],
                         tuple("abcde"[:num_views]))


def off_the_ball(found: MatchedPoints, views: TrainingViews) -> torch.Tensor:
    return (found.points_obj(views.cameras).norm(dim=-1) - RADIUS).abs()


def test_points_lie_on_the_ball():
    """A pixel is 0.02 object units; features are placed to a third of a pixel, and views 20 degrees
    apart triple that along the rays."""
    views = ball_views()
    found = find_points(views)
    away = off_the_ball(found, views)
    assert len(found) > 60 and found.seen_mask.shape == (len(found), 5)
    assert float(away.median()) < 0.008 and float(away.quantile(0.95)) < 0.03
    assert int((found.seen_mask.sum(1) >= 3).sum()) > 10


def test_the_same_photographs_give_the_same_points():
    one, other = find_points(ball_views()), find_points(ball_views())
    assert torch.equal(one.xy_ndc, other.xy_ndc) and torch.equal(one.seen_mask, other.seen_mask)


def test_two_views_are_enough():
    views = ball_views(2)
    found = find_points(views)
    assert len(found) > 15 and float(off_the_ball(found, views).median()) < 0.015


def test_one_wrong_camera_takes_no_part_and_spoils_nothing():
    """The camera is turned about its axis by 20 degrees, so that its lines are elsewhere."""
    views = ball_views()
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.94, -0.342], [0.342, 0.94]])
    view = views.cameras.view.clone()
    view[2] = turn @ view[2]
    wrong = replace(views, cameras=replace(views.cameras, view=view))
    good, found = find_points(views), find_points(wrong)
    away = off_the_ball(found, wrong)
    assert float(away.median()) < 0.01
    assert int(found.seen_mask[:, 2].sum()) < 0.2 * int(good.seen_mask[:, 2].sum())
    assert int((away < 0.03).sum()) > 0.4 * len(good)


@pytest.mark.parametrize("spoil", ["no texture", "far apart", "one view"])
def test_without_points_it_is_said_once(spoil, caplog):
    views = ball_views()
    if spoil == "no texture":
        views = replace(views, images=torch.full_like(views.images, 0.5))
    elif spoil == "one view":
        views = ball_views(1)
    else:
        scene = ball_scene(RADIUS, resolution=(64, 48), num_views=3, arrangement="sphere")
        views = TrainingViews(scene.images, scene.masks, scene.cameras, tuple("abc"))
    search = MatchSearch(views)
    with caplog.at_level(logging.WARNING):
        assert len(search.points) == 0 and len(search.points) == 0
    assert caplog.text.count("no point in common") == 1
    assert search.points.points_obj(views.cameras).shape == (0, 3)


def test_a_search_that_resumes_does_not_match_again(monkeypatch):
    search = MatchSearch(ball_views())
    assert search.state_dict() == {}
    found = search.points
    again = MatchSearch(ball_views())
    monkeypatch.setattr("data_processing.matching.surface_points.find_points",
                        lambda _: pytest.fail("matched again"))
    again.load_state_dict(search.state_dict())
    assert torch.equal(again.points.xy_ndc, found.xy_ndc)
    assert torch.equal(again.points.seen_mask, found.seen_mask)


def cameras_and_places(count: int = 40) -> tuple[Cameras, torch.Tensor, torch.Tensor]:
    """Cameras, points (N, 3) near the centre and their places (N, V, 2)."""
    cameras = cameras_at(EYES, (96, 72))
    points = 0.2 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0),
                               dtype=torch.float64)
    return cameras, points, cameras.project(points)[0].transpose(0, 1)


def test_points_lie_on_their_epipolar_lines():
    """And a place off its line is as far from it as it was moved across; both places share it."""
    cameras, _, xy_ndc = cameras_and_places()
    size = torch.tensor([96.0, 72.0], dtype=torch.float64)
    places = ((xy_ndc * torch.tensor([1.0, -1.0]) + 1) * size - 1).numpy() / 2
    lines = fundamental_matrix(cameras, 0, 1, (96, 72))
    assert np.abs(np.diag(distances_from_lines(lines, places[:, 0], places[:, 1]))).max() < 1e-9
    across = (np.c_[places[:, 0], np.ones(40)] @ lines.T)[:, :2]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    moved = distances_from_lines(lines, places[:, 0], places[:, 1] + 0.1 * across)
    # equal weights of the two views' lines, whose slopes differ by some per cent
    np.testing.assert_allclose(np.diag(moved), 0.1 / np.sqrt(2), rtol=0.15)


def features_at(places, descriptors) -> Features:
    table = np.zeros((len(places), 128), np.float32)
    for row, (axis, share) in enumerate(descriptors):
        table[row, axis], table[row, 100] = share, np.sqrt(1 - share ** 2)
    return Features(np.array(places, float).reshape(-1, 2), table, np.ones(len(places), np.float32))


def test_a_match_lies_on_the_line_and_is_better_than_others_there():
    """Three features of the first view. The first has its like on the line; the second has it off
    the line; the third has two alike, at two places. A double at the same place is no rival."""
    first = features_at([(0, 0), (10, 0), (20, 0)], [(0, 1.0), (1, 1.0), (2, 1.0)])
    second = features_at([(0, 1), (1, 1), (30, 9), (50, 1), (60, 1)],
                         [(0, 0.99), (0, 0.985), (1, 1.0), (2, 0.99), (2, 0.988)])
    on_line = np.array([[0, 0, 9, 0, 0]] * 3, float)
    assert guided_matches(first, second, on_line).tolist() == [[0, 0]]
    assert guided_matches(first, features_at([], []), np.zeros((3, 0))).shape == (0, 2)


def test_features_near_the_projections_confirm_a_match():
    """Of the third view: for the first match the second nearest feature, which is more like it; for
    the second none, as what is near is unlike; for the third none, as what is like is too far."""
    first = features_at([(0, 0), (30, 0), (60, 0)], [(0, 0.9), (1, 0.9), (2, 0.9)])
    third = features_at([(1, 1), (2, 1), (31, 1), (64, 1)],
                        [(5, 0.9), (0, 0.9), (6, 0.9), (2, 0.9)])
    table = pair_table({(0, 1): np.array([(0, 0), (1, 1), (2, 2)])}, 3)
    assert table.tolist() == [[0, 0, -1], [1, 1, -1], [2, 2, -1]]
    projected = np.repeat(first.places[:, None], 3, 1)
    assert extended(table, [first, first, third], projected).tolist() == [
        [0, 0, 1], [1, 1, -1], [2, 2, -1]]
    nothing = features_at([], [])
    assert np.array_equal(extended(table, [first, first, nothing], projected), table)
    assert pair_table({}, 3).shape == (0, 3)


def test_of_tracks_that_share_a_feature_the_longest_stays():
    """And of those of one length that of the least error."""
    table = np.array([[0, 1, -1], [0, 1, 2], [3, -1, 5], [4, -1, 5], [6, -1, -1]])
    kept = without_repeats(table, np.array([0.0, 0.5, 0.4, 0.3, 1.0]))
    assert kept.tolist() == [1, 3, 4]
    assert without_repeats(table[:0], np.zeros(0)).shape == (0,)


def test_places_of_features_become_points():
    """Of photographs of 48x36 pixels in working images twice as large: the middle is NDC 0."""
    table = np.array([[0, 1], [1, -1]])
    found = points_at(table, [features_at([(47.5, 35.5), (95.5, -0.5)], [(0, 1.0)] * 2)] * 2,
                      (96, 72))
    assert found.xy_ndc.tolist() == [[[0, 0], [1, 1]], [[1, 1], [0, 0]]]
    assert found.seen_mask.tolist() == [[True, True], [True, False]]


def test_gates_leave_out_views_and_points():
    """The third view of the first point is 9 pixels off: the other views keep the point. Two views
    that disagree keep none, nor does a point outside the sphere, or with rays that are nearly
    parallel."""
    cameras, points, xy_ndc = cameras_and_places(5)
    outside = torch.tensor([[0.0, 1.2, 0.0]], dtype=torch.float64)
    xy_ndc = torch.cat([xy_ndc, cameras.project(outside)[0].transpose(0, 1)])
    seen = torch.ones(6, 4, dtype=torch.bool)
    seen[1, 2:] = False
    xy_ndc[0, 2, 0] += 2 * 9 / 96
    xy_ndc[1, 1, 1] += 2 * 9 / 72
    masks = torch.ones(4, 1, 72, 96, dtype=torch.bool)
    found, errors = within_gates(MatchedPoints(xy_ndc, seen), cameras, masks, max_error=0.5,
                                 least_views=3)
    assert found.tolist() == [[True, True, False, True], [False] * 4, *[[True] * 4] * 3,
                              [False] * 4]
    assert float(errors[[0, 2, 3, 4]].max()) < 1e-6
    near = cameras_at([EYES[0], (0.05, 0.2, 3.0)], (96, 72))
    both = MatchedPoints(near.project(points)[0].transpose(0, 1), torch.ones(5, 2).bool())
    assert not within_gates(both, near, masks[:2], max_error=0.5, least_views=2)[0].any()


def test_the_hull_is_that_of_all_masks_but_one():
    cameras, points, _ = cameras_and_places(3)
    masks = torch.ones(4, 1, 72, 96, dtype=torch.bool)
    assert inside_hull(points, cameras, masks).tolist() == [True] * 3
    masks[0] = False
    assert inside_hull(points, cameras, masks).tolist() == [True] * 3
    assert inside_hull(points, cameras[:3], masks[:3]).tolist() == [False] * 3
    masks[1] = False
    assert inside_hull(points, cameras, masks).tolist() == [False] * 3


def test_pairs_are_near_but_not_too_near():
    eyes = [(0.0, 0.0, 3.0), (0.1, 0.0, 3.0), (1.2, 0.0, 2.7), (0.0, 0.0, -3.0)]
    assert pairs_by_angle(cameras_at(eyes)) == [(0, 2), (1, 2)]


def test_the_picture_has_the_points_where_the_views_show_them():
    views = ball_views()
    found = find_points(views)
    plain = matches_grid(views, MatchedPoints(found.xy_ndc[:0], found.seen_mask[:0]),
                         torch.zeros(0))
    picture = matches_grid(views, found, torch.linspace(0, 0.05, len(found)))
    assert picture.shape == plain.shape and picture.dtype == np.uint8
    assert 0.002 < float((picture != plain).any(-1).mean()) < 0.3
