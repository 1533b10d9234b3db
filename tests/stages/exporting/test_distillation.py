"""The small networks learn what their teacher shows; lessons hold what the scene shows."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.exported_scenes import around, exported

from realtime.blending import PlainBlending
from realtime.renderer import SceneRenderer, surface_points
from realtime.students import StudentAggregation, StudentDecoder
from stages.exporting.distillation import (
    picture_loss,
    rate_factor,
    teach_both,
    teach_decoder,
    weight_loss,
)
from stages.exporting.teaching import Lesson, lessons_of, tiles
from stages.exporting.virtual_views import virtual_cameras, zoomed

C = 4


def lesson(seed: int, teach=lambda blended: blended[:, C:C + 3] * 0.5 + 0.2) -> Lesson:
    """A tile of 12 x 10 pixels, each with three samples; the teacher likes feature 0."""
    generator = torch.Generator().manual_seed(seed)
    pixel = torch.arange(120).repeat(3)
    features = torch.randn(360, C, generator=generator).half()
    weights = features[:, 0].float().mul(2).sigmoid()
    found = Lesson(pixel, features, torch.rand(360, 3, generator=generator).half(),
                   torch.zeros(360, 3).half(), torch.ones(360), weights, torch.zeros(3, 12, 10),
                   torch.ones(1, 12, 10).bool())
    target = teach(found.blend(weights))[0]
    return Lesson(*(getattr(found, name) for name in ("pixel", "features", "colours", "dirs_obj",
                                                     "prior", "weights")), target,
                  found.counts_mask)


def test_a_lesson_blends_as_the_formula_says():
    found = lesson(0)
    weights = torch.rand(360)
    blended = found.blend(weights)[0]
    pixel = 37
    own = [37, 157, 277]
    w = weights[own] / weights[own].sum()
    assert torch.allclose(blended[:C, 3, 7], (found.features[own].float() * w[:, None]).sum(0),
                          atol=1e-6)
    assert pixel == 3 * 10 + 7 and torch.allclose(blended[-1], torch.ones(12, 10))


def test_small_networks_learn_their_teacher():
    lessons = [lesson(seed) for seed in range(4)]
    torch.manual_seed(0)
    decoder, aggregation = StudentDecoder(C), StudentAggregation(C)
    generator = torch.Generator().manual_seed(0)
    teach_decoder(decoder, lessons, 100, generator)
    test = lessons[0]
    taught = picture_loss(decoder(test.blend(test.weights)), test)
    start = picture_loss(test.blend(test.weights)[:, C:C + 3], test)
    assert taught < 0.7 * start
    before = weight_loss(torch.ones(360), test)
    teach_both(aggregation, decoder, lessons, 100, generator)
    weights = aggregation(test.features.float(), test.dirs_obj.float())
    assert weight_loss(weights, test) < 0.6 * before
    assert not any(p.requires_grad for p in (*decoder.parameters(), *aggregation.parameters()))


def test_teaching_is_the_same_again():
    def taught():
        torch.manual_seed(1)
        decoder = StudentDecoder(C)
        teach_decoder(decoder, [lesson(0), lesson(1)], 5, torch.Generator().manual_seed(2))
        return decoder.out.weight
    assert torch.equal(taught(), taught())


def test_pixels_that_do_not_count_have_no_loss():
    found = lesson(0)
    half = found.counts_mask.clone()
    half[:, :6] = False
    part = Lesson(*list(vars(found).values())[:-1], half)
    images = found.target[None].clone()
    images[:, :, :6] += 1
    assert picture_loss(images, part) == 0 and picture_loss(images, found) > 0.4


def test_the_rate_falls_to_its_end():
    assert rate_factor(0) == 1 and rate_factor(0.5) == pytest.approx(0.51)
    assert rate_factor(1) == pytest.approx(0.02)


def test_tiles_hold_a_mask_once_and_their_margins():
    mask = torch.zeros(400, 500, dtype=torch.bool)
    mask[30:390, 100:470] = True
    count = torch.zeros(400, 500)
    for top, bottom, left, right in tiles(mask):
        assert bottom - top <= 164 and right - left <= 164
        count[top:bottom, left:right] += 1
    assert (count[mask] >= 1).all() and (count > 1).float().mean() < 0.1


@pytest.mark.parametrize("num_views", [1, 2, 4])
def test_virtual_cameras_look_at_the_object_from_between(num_views):
    cameras = around(0.3 * torch.arange(num_views), (32, 24))
    found = virtual_cameras(cameras, 12, torch.Generator().manual_seed(0))
    assert len(found) == 12 and found.resolution == cameras.resolution
    xy_ndc, depth = found.project(torch.zeros(1, 3))
    assert (depth > 0).all() and (xy_ndc.abs() < 0.25).all()
    distance = found.centers_obj.norm(dim=-1)
    assert torch.allclose(distance, cameras.centers_obj[0].norm().expand(12), rtol=0.02)
    again = virtual_cameras(cameras, 12, torch.Generator().manual_seed(0))
    assert torch.equal(found.view, again.view)
    pose = found.object_to_camera[:, :3, :3]
    assert torch.allclose(pose @ pose.mT, torch.eye(3).expand(12, 3, 3), atol=1e-5)


def test_zoom_makes_things_larger_about_the_centre():
    camera = around(torch.zeros(1), (32, 24))
    near = camera.__class__(camera.view, zoomed(camera.projection, 2.0), camera.model,
                            camera.resolution)
    point = torch.tensor([[0.2, 0.1, 0.3]])
    principal = -camera.projection[0, :2, 2]
    before, after = (c.project(point)[0][0, 0] - principal for c in (camera, near))
    assert torch.allclose(after, 2 * before, atol=1e-6)


def test_an_exported_scene_teaches_from_its_own_samples():
    """Lessons of a camera hold as many samples as its renderer counts."""
    student = SceneRenderer(exported())
    camera = around(torch.tensor([0.1]), (32, 24))
    points = surface_points(camera, student.rays.first_hits(camera))
    sources = PlainBlending(student.scene)
    counts = sources.sample(points).counts_mask
    teacher = lambda camera: SimpleNamespace(                                # noqa: E731
        weights=torch.ones(3, 1, 24, 32), images=torch.full((1, 3, 24, 32), 0.5))
    (found,) = lessons_of(teacher, student, sources, camera)
    assert len(found.pixel) == counts.sum() and found.features.shape[1] == 16
    assert found.counts_mask.any() and (found.target == 0.5).all()
    blended = found.blend(found.weights)
    frame = student.render(camera)
    assert (blended[0, -1] > 0).sum() == (frame.weights.sum(0) > 0).sum()
