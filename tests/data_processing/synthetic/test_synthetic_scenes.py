"""Synthetic scenes: the same bits twice, true silhouettes, colours that agree between views."""
from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from support.tiny_runs import meta_config_of
from torch.nn.functional import grid_sample

from data_processing.scenes.pool import open_pool
from data_processing.scenes.scene import load_scene
from data_processing.scenes.splits import NAMED_SPLITS
from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.camera_arrangements import ARRANGEMENTS, arrange_cameras, camera_dirs
from data_processing.synthetic.exact_tracing import spread_points
from data_processing.synthetic.painted_objects import PAINTED_OBJECTS
from data_processing.synthetic.scene_kinds import BOUND, OBJECT_RADIUS, SCENE_KINDS
from data_processing.synthetic.scenes import (
    make_scene,
    make_scene_set,
    render_views,
    scene_plan,
    visible_points,
)
from data_processing.synthetic.shading import BACKGROUND, diffuse, make_look
from utils.config.values import parse_resolution
from utils.errors import ConfigError, WriteError
from utils.geometry.cameras import ndc_to_grid

SMALL = {"num_views": 3, "resolution": (24, 18), "supersampling": 2, "num_points": 400}


def cameras_for(num_views: int, resolution: tuple[int, int], arrangement: str = "dtu"):
    ball = camera_dirs("sphere", 500) * OBJECT_RADIUS
    return arrange_cameras(arrangement, num_views, ball, resolution=resolution,
                           generator=torch.Generator().manual_seed(2))


def matte_look():
    look = make_look(torch.Generator().manual_seed(5))
    object.__setattr__(look.lighting, "highlight", 0.0)
    return look


@pytest.mark.parametrize("kind", [*SCENE_KINDS, *PAINTED_OBJECTS])
def test_every_kind_is_seen_whole_and_coloured(kind):
    scene = make_scene(kind, 4, num_views=3, resolution=(64, 48), supersampling=1,
                       num_points=2000)
    assert scene.images.shape == (3, 3, 48, 64) and scene.masks.shape == (3, 1, 48, 64)
    assert scene.masks.dtype == torch.bool and scene.name == f"{kind}_0004"
    cover = scene.masks.float().mean((1, 2, 3))
    assert ((cover > 0.1) & (cover < 0.6)).all()
    border = torch.cat([scene.masks[..., 0, :], scene.masks[..., -1, :]], -1)
    assert not border.any() and not scene.masks[..., [0, -1]].any()
    colours = scene.images.movedim(1, -1)[scene.masks[:, 0]]
    assert (colours.std(0) > 0.05).all() and colours.mean() > 0.15
    corner = round(BACKGROUND * 255) / 255
    torch.testing.assert_close(scene.images[:, :, 0, 0], torch.full((3, 3), corner))


def test_same_seed_same_bits_and_other_seed_another_scene():
    first, again, other = (make_scene("tori", seed, **SMALL) for seed in (0, 0, 1))
    for a, b in ((first.images, again.images), (first.masks, again.masks),
                 (first.cameras.view, again.cameras.view),
                 (first.cameras.projection, again.cameras.projection),
                 (first.surface_points_world, again.surface_points_world)):
        assert torch.equal(a, b)
    assert (first.images - other.images).abs().max() > 0.1


def test_coverage_of_a_sphere_against_its_closed_form():
    """A pixel's centre ray meets the sphere or not by its distance to the centre; pixels whose ray
    passes the outline by a pixel or more are all covered or all free, those on it lie between."""
    radius, cameras = 0.6, cameras_for(2, (48, 36))
    images, coverage = render_views(solids.sphere(radius), matte_look(), cameras, supersampling=3)
    origins, dirs = cameras.pixel_rays()
    along = -(origins * dirs).sum(-1, keepdim=True)
    gap = (origins + along * dirs).norm(dim=-1)[:, None] - radius      # (V, 1, H, W)
    pixel = 0.06
    assert (coverage[gap < -pixel] == 1).all() and (coverage[gap > pixel] == 0).all()
    edge = coverage[gap.abs() < pixel / 4]
    assert ((edge > 0) & (edge < 1)).float().mean() > 0.9
    assert torch.equal(coverage >= 0.5, (coverage * 9).round() >= 5)
    # Area of the outline: 3 x 3 rays on each of 150 edge pixels are good to 1 percent.
    difference = ((gap < 0).float().mean() - coverage.mean()).abs()
    assert difference < 0.01
    assert images.min() >= 0 and images.max() <= 1


def test_known_surface_points_have_their_colour_in_every_view_that_sees_them():
    """Without highlights the colour at the projection of a visible point is its albedo times its
    light. A photograph sampled between pixels blurs the texture, the less the finer it is: mean
    error under 0.03 of the range at 320x240, over 3 times that when 5 pixels off."""
    sdf, look, cameras = solids.sphere(0.75), matte_look(), cameras_for(2, (320, 240))
    images, _ = render_views(sdf, look, cameras, supersampling=1)
    points = spread_points(sdf, 3000, BOUND, torch.Generator().manual_seed(0))
    outward = solids.normals(sdf, points)
    expected = diffuse(sdf, look, points, outward).clamp(0, 1)
    xy_ndc, _ = cameras.project(points)
    for view in range(2):
        to_eye = torch.nn.functional.normalize(cameras.centers_obj[view] - points, dim=-1)
        frontal = (to_eye * outward).sum(-1) > 0.4
        assert frontal.sum() > 500

        def error(shift: float) -> float:
            place = ndc_to_grid(xy_ndc[view][frontal] + shift, cameras.resolution)
            found = grid_sample(images[view:view + 1], place[None, None], align_corners=True)
            return float((found[0, :, 0].T - expected[frontal]).abs().mean())
        assert error(0.0) < 0.03
        assert error(10 / 240) > 3 * error(0.0)


def test_highlights_depend_on_the_view_and_are_small():
    sdf, look, cameras = solids.sphere(0.7), make_look(torch.Generator().manual_seed(5)), \
        cameras_for(1, (48, 36))
    shiny, _ = render_views(sdf, look, cameras, supersampling=1)
    dull, _ = render_views(sdf, matte_look(), cameras, supersampling=1)
    assert 0.01 < (shiny - dull).max() < 0.4 and (shiny - dull).min() > -0.005


def test_blocks_of_views_and_rows_do_not_change_the_picture(monkeypatch):
    cameras, sdf = cameras_for(3, (20, 16)), solids.sphere(0.6)
    whole, _ = render_views(sdf, matte_look(), cameras, supersampling=2)
    monkeypatch.setattr("data_processing.synthetic.scenes.RAYS_AT_ONCE", 20 * 4 * 5)
    parts, _ = render_views(sdf, matte_look(), cameras, supersampling=2)
    # Matrix products may be summed in another order: at most one level of 255.
    torch.testing.assert_close(parts, whole, atol=1.01 / 255, rtol=0)


def test_only_points_that_a_view_sees_are_kept():
    """Of two balls in line with the only camera, the far one's points and all backs are hidden."""
    cameras = cameras_for(1, (64, 48))
    toward = torch.nn.functional.normalize(cameras.centers_obj[0], dim=0)
    front, back = toward * 0.45, -toward * 0.4
    pair = solids.union(solids.sphere(0.35, front.tolist()), solids.sphere(0.25, back.tolist()))
    points = spread_points(pair, 3000, BOUND, torch.Generator().manual_seed(0))
    seen = visible_points(pair, points, cameras)
    assert 0.2 * len(points) < len(seen) < 0.5 * len(points)
    assert ((seen - front).norm(dim=-1) < 0.36).all()
    assert ((seen - front) @ toward > 0).all()


def test_true_points_are_in_world_space_on_the_surface_and_inside_the_masks():
    scene = make_scene("vase", 0, **SMALL)
    to_object = torch.linalg.inv(scene.cameras.model)
    points = scene.surface_points_world @ to_object[:3, :3].T + to_object[:3, 3]
    assert 50 < len(points) <= 400 and points.norm(dim=-1).max() < BOUND
    xy_ndc, _ = scene.cameras.project(points)
    place = ndc_to_grid(xy_ndc, scene.cameras.resolution)[:, None]
    inside = grid_sample(scene.masks.float(), place, align_corners=True)
    # The rest lies in pixels of the outline that are covered by less than half.
    assert (inside[:, 0, 0] > 0).float().mean() > 0.97


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("num_views", [2, 7, 22, 49])
def test_arrangements_have_the_views_asked_for(arrangement, num_views):
    dirs = camera_dirs(arrangement, num_views)
    assert dirs.shape == (num_views, 3)
    torch.testing.assert_close(dirs.norm(dim=-1), torch.ones(num_views).double())
    cosines = dirs @ dirs.T - 2 * torch.eye(num_views)
    assert math.degrees(math.acos(float(cosines.max()))) > 2           # no two in one place
    cameras = cameras_for(num_views, (32, 24), arrangement)
    xy_ndc, depth = cameras.project(torch.zeros(3))
    assert (xy_ndc.abs() < 0.12).all() and (depth > 0).all()
    offsets = cameras.projection[:, :2, 2]
    assert offsets.abs().max() > 1e-3                                  # off-centre, as real ones


def test_arrangements_are_what_their_names_say():
    nlr, sphere, dtu = camera_dirs("nlr", 22), camera_dirs("sphere", 60), camera_dirs("dtu", 49)
    central = nlr[16:]
    assert math.degrees(math.acos(float((central @ central.T).min()))) < 35
    assert math.degrees(math.acos(float((nlr @ nlr.T).min()))) > 80
    assert sphere.mean(0).norm() < 0.05 and (dtu[:, 2] > 0).all()
    steps = (dtu[1:] * dtu[:-1]).sum(-1)                               # from each to the next
    assert math.degrees(math.acos(float(steps.min()))) < 25


@pytest.mark.parametrize("changes, words", [
    ({"kind": "blob"}, "did you mean blobs"), ({"arrangement": "dtv"}, "did you mean dtu"),
    ({"num_views": 1}, "num_views is 1"), ({"supersampling": 0}, "supersampling is 0")])
def test_bad_requests_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_scene(**{"kind": "blobs", **SMALL, **changes})


def test_resolution_texts():
    assert parse_resolution("128x96") == (128, 96)
    for text in ("128", "128x", "axb", "-1x5", ""):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            parse_resolution(text)


def settings(output, **changes):
    return SimpleNamespace(**{"output": str(output), "kind": "all", "seed": 3, "num_scenes": 2,
                              "num_views": 2, "arrangement": "nlr", "resolution": "12x10",
                              "scene_format": "processed", "supersampling": 1, "overwrite": 0,
                              **changes})


def test_plan_takes_kinds_by_turns_and_seeds_upwards():
    plan = list(scene_plan("all", 5, len(SCENE_KINDS) + 1))
    assert [kind for kind, _ in plan[:-1]] == list(SCENE_KINDS)
    assert plan[0][1] == 5 and plan[-1] == (plan[0][0], 6)
    assert list(scene_plan("vase", 0, 2)) == [("vase", 0), ("vase", 1)]


def test_a_set_is_written_one_folder_a_scene_and_nothing_is_overwritten(tmp_path):
    folders = make_scene_set(settings(tmp_path / "set"))
    assert [folder.name for folder in folders] == ["blobs_0003", "tori_0003"]
    assert len(load_scene(folders[0])) == 2
    with pytest.raises(WriteError, match="holds a scene already"):
        make_scene_set(settings(tmp_path / "set"))


@pytest.mark.parametrize("arrangement, count", [("dtu", 49), ("nlr", 22), ("sphere", 49)])
def test_a_scene_has_as_many_views_as_its_named_split_unless_told(arrangement, count):
    scene = make_scene("blobs", **SMALL | {"arrangement": arrangement, "num_views": 0,
                                           "resolution": (12, 10), "supersampling": 1})
    assert len(scene) == count
    if arrangement in NAMED_SPLITS:
        assert NAMED_SPLITS[arrangement].num_views == count


def test_a_set_of_nlr_scenes_is_trained_on_its_six_views_close_together(tmp_path):
    make_scene_set(settings(tmp_path, num_views=0))
    config = meta_config_of("--experiment_name", "x", "--load_im_scale", 1, "--dataset_path",
                            tmp_path, "--config_filepath", "configs/nlrpp_nlr_meta.txt")
    pool = open_pool(config.data, config.meta)
    assert [entry.split.train for entry in pool.entries] == [tuple(range(16, 22))] * 2
    centers = torch.nn.functional.normalize(pool[0].views.cameras.centers_obj, dim=-1)
    assert math.degrees(math.acos(float((centers @ centers.T).min()))) < 35


def test_a_single_scene_is_written_into_the_folder_itself(tmp_path):
    single = make_scene_set(settings(tmp_path / "one", num_scenes=1, scene_format="idr"))
    assert single == [tmp_path / "one"] and len(load_scene(single[0])) == 2
    with pytest.raises(ConfigError, match="--output is empty"):
        make_scene_set(settings(""))
