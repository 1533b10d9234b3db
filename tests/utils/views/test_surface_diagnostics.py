"""Surfaces that training cannot reach are named, and nothing else is."""
from __future__ import annotations

import pytest
import torch

from utils.views.surface_diagnostics import SurfaceWatch

NAMES = ("a", "b", "c")


def sphere(radius):
    return lambda points: points.norm(dim=-1) - radius


def watch_of(hits, masks):
    """A watch that saw views 0 and 2, of 10 x 10 pixels, with so many hits and mask pixels."""
    watch = SurfaceWatch(NAMES, "cpu")
    counted = torch.arange(100)
    watch.note(torch.tensor([0, 2]), torch.cat([counted < number for number in hits]),
               torch.stack([(counted < number).reshape(1, 10, 10) for number in masks]))
    return watch


def test_a_surface_that_all_views_see_needs_no_word():
    assert watch_of((1, 30), (40, 30)).warnings(sphere(0.5)) == {}
    assert SurfaceWatch(NAMES, "cpu").warnings(sphere(0.5)) == {}


def test_a_view_without_hits_is_named():
    found = watch_of((5, 0), (40, 30)).warnings(sphere(0.5))
    assert list(found) == ["no_hits c"]
    assert "view c" in found["no_hits c"] and "30 pixels" in found["no_hits c"]


def test_a_view_without_an_object_may_see_nothing():
    assert watch_of((5, 0), (40, 0)).warnings(sphere(0.5)) == {}


def test_no_hits_at_all_are_told_once():
    found = watch_of((0, 0), (40, 30)).warnings(sphere(0.5))
    assert list(found) == ["no_hits"] and "no gradient for the shape" in found["no_hits"]


def test_hits_found_again_end_the_notice():
    watch = watch_of((0, 0), (40, 30))
    watch.note(torch.tensor([2, 0]), torch.ones(200, dtype=torch.bool),
               torch.ones(2, 1, 10, 10, dtype=torch.bool))
    assert watch.warnings(sphere(0.5)) == {}


def test_a_surface_beyond_the_unit_sphere_is_named():
    """A sphere of radius 0.6 about (0.8, 0, 0) covers the unit sphere where x > 0.8, as
    (1 + 0.64 - 0.36) / 1.6 = 0.8: a share of (1 - 0.8) / 2 = 10 %."""
    center = torch.tensor([0.8, 0.0, 0.0])
    found = watch_of((5, 5), (9, 9)).warnings(lambda points: (points - center).norm(dim=-1) - 0.6)
    assert list(found) == ["left_sphere"]
    told = float(found["left_sphere"].split("below 0 on ")[1].split("%")[0])
    assert told == pytest.approx(10.0, abs=2.0)        # 2000 points: 0.7 is one standard deviation
