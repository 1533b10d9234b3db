"""Views of a scene: their draw in each step, and the buffer of their traced surfaces."""
from __future__ import annotations

import pytest
import torch
from support.tracing_cases import SOLIDS, cameras_at

from sdf_rendering import trace_reference
from utils.geometry.rays import Surface, camera_rays
from utils.views.surface_buffer import SurfaceBuffer
from utils.views.training_views import Sources, TrainingViews, ViewSampler

EYES = [(3.0, 0.0, 0.1), (2.5, 0.0, 1.5), (1.5, 0.0, 2.5), (0.0, 0.0, 3.0), (-1.6, 0.2, 2.5),
        (-3.0, 0.1, 0.0)]
SIZE = (6, 5)


@pytest.fixture
def cameras():
    """Six cameras on half a circle, in the order of their angle."""
    return cameras_at(EYES, SIZE)


def draws(sampler: ViewSampler, count: int, seed: int = 0) -> list:
    """Batches of one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [sampler.draw(generator) for _ in range(count)]


@pytest.mark.parametrize("num_sources, num_targets, expected", [
    (4, 2, (4, 2)), (4, 9, (4, 4)), (-1, 3, (6, 3)), (99, 1, (6, 1)), (1, 4, (1, 1))])
@pytest.mark.parametrize("nearest", [False, True])
def test_batches_hold_different_views_and_targets_among_them(cameras, num_sources, num_targets,
                                                             expected, nearest):
    for batch in draws(ViewSampler(cameras, num_sources, num_targets, nearest=nearest), 20):
        sources, targets = batch.sources.tolist(), batch.targets.tolist()
        assert (len(sources), len(targets)) == expected
        assert len(set(sources)) == len(sources) and len(set(targets)) == len(targets)
        assert set(targets) <= set(sources) <= set(range(6))


@pytest.mark.parametrize("nearest", [False, True])
def test_every_view_becomes_source_and_target(cameras, nearest):
    """60 draws of 2 targets among 6 views leave one out with a chance of 6 (2/3)^60 < 1e-9."""
    batches = draws(ViewSampler(cameras, 3, 2, nearest=nearest), 60)
    for name in ("sources", "targets"):
        assert set(torch.cat([getattr(batch, name) for batch in batches]).tolist()) == set(range(6))


def test_draws_depend_on_the_generator_alone(cameras):
    sampler = ViewSampler(cameras, 3, 2)
    first, again, other = (torch.stack([batch.targets for batch in draws(sampler, 10, seed)])
                           for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nearest_sources_are_those_by_angle_at_the_object(cameras):
    """On a circle in order, the three nearest to a view are itself and its neighbours; a camera
    twice as far away in the same direction is as near as before."""
    far = cameras_at([EYES[0], *[tuple(2 * x for x in eye) for eye in EYES[1:3]], *EYES[3:]], SIZE)
    for views in (cameras, far):
        for batch in draws(ViewSampler(views, 3, 1, nearest=True), 30):
            target = int(batch.targets[0])
            expected = {0: {0, 1, 2}, 5: {3, 4, 5}}.get(target, {target - 1, target, target + 1})
            assert set(batch.sources.tolist()) == expected


def test_sources_and_training_views_by_index(cameras):
    images = torch.rand(6, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    masks = images[:, :1] > 0.5
    surface = Surface(images * 2, masks)
    part = Sources(cameras, images, masks, surface)[torch.tensor([4, 1])]
    assert torch.equal(part.images, images[[4, 1]]) and torch.equal(part.masks, masks[[4, 1]])
    assert torch.equal(part.surface.points_obj, 2 * images[[4, 1]])
    assert torch.equal(part.cameras.view, cameras.view[[4, 1]])
    views = TrainingViews(images, masks, cameras, ("a", "b", "c", "d", "e", "f"))
    assert len(views) == 6
    assert views.to("cpu").names == views.names


def test_key_names_the_photographs(cameras):
    images = torch.rand(6, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    masks = images[:, :1] > 0.5
    key = TrainingViews(images, masks, cameras).key
    assert TrainingViews(images.clone(), masks.clone(), cameras, ("a",) * 6).key == key
    changed = images.clone()
    changed[3, 1, 2, 4] += 1e-3
    others = [TrainingViews(changed, masks, cameras), TrainingViews(images, ~masks, cameras),
              TrainingViews(images.mT, masks.mT, cameras)]
    assert len({key, *(other.key for other in others)}) == 4


def test_buffer_keeps_what_rays_found(cameras):
    """Points are origin + t d again: the same sums as those of the rays, to rounding."""
    rays = camera_rays(cameras)
    found = trace_reference(SOLIDS["sphere"], rays)
    buffer = SurfaceBuffer(cameras)
    assert not buffer.surface(torch.arange(6)).hit_mask.any()
    buffer.store(torch.arange(6), found.t, found.hit_mask)
    index = torch.tensor([3, 0])
    surface = buffer.surface(index)
    expected = rays.points(found.t).reshape(6, 5, 6, 3).permute(0, 3, 1, 2)[index]
    torch.testing.assert_close(surface.points_obj, expected, atol=1e-12, rtol=0)
    assert torch.equal(surface.hit_mask, found.hit_mask.reshape(6, 1, 5, 6)[index])
    again = buffer.rays(index)
    for name in ("origins_obj", "dirs_obj", "t_near", "t_far", "sphere_mask"):
        per_view = getattr(rays, name).reshape(6, 30, -1)[index]
        assert torch.equal(getattr(again, name).reshape(2, 30, -1), per_view)


def test_storing_some_views_leaves_the_others(cameras):
    buffer = SurfaceBuffer(cameras)
    t = torch.rand(2 * 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t.requires_grad_(True)
    buffer.store(torch.tensor([4, 2]), t, t > 0.5)
    assert not buffer.t.requires_grad
    assert torch.equal(buffer.t[[4, 2]].flatten(), t.detach())
    assert torch.equal(buffer.hit_mask[[4, 2]].flatten(), t > 0.5)
    assert not buffer.t[[0, 1, 3, 5]].any() and not buffer.hit_mask[[0, 1, 3, 5]].any()


def test_buffer_state_comes_back_to_the_bit(cameras):
    buffer, other = SurfaceBuffer(cameras), SurfaceBuffer(cameras)
    t = torch.rand(180, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    buffer.store(torch.arange(6), t, t > 0.3)
    state = buffer.state_dict()
    buffer.store(torch.arange(6), t * 0, t < 0)            # a state is a copy
    other.load_state_dict(state)
    assert torch.equal(other.t.flatten(), t) and torch.equal(other.hit_mask.flatten(), t > 0.3)
    with pytest.raises(ValueError, match=r"\(6, 1, 5, 6\), the training views need \(2, 1, 5, 6\)"):
        SurfaceBuffer(cameras[:2]).load_state_dict(state)


def test_rims_reach_as_many_pixels_as_their_distance_takes():
    """One pixel off the mask in the middle; beyond the picture nothing is known to be off it."""
    cameras = cameras_at([(0.0, 0.0, 3.0)], (9, 7))
    pixel = 3 / (float(cameras.projection[0, 0, 0]) * 9 / 2)            # distance / focal length
    assert cameras.pixel_size_obj == pytest.approx(pixel, rel=1e-6)
    masks = torch.ones(1, 1, 7, 9, dtype=torch.bool)
    masks[0, 0, 3, 4] = False
    views = TrainingViews(torch.zeros(1, 3, 7, 9), masks, cameras)
    for reach, width in ((0.3, 1), (1.0, 1), (1.01, 2), (2.0, 2)):
        expected = torch.zeros_like(masks)
        expected[0, 0, 3 - width:4 + width, 4 - width:5 + width] = True
        expected[0, 0, 3, 4] = False
        assert torch.equal(views.rim_masks((reach - 1e-6) * pixel), expected), reach
