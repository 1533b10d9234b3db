"""The check of scenes: a good one has no findings, and each mistake is named for what it is."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.ball_scene import ball_cameras, ball_scene
from support.spoilt_scenes import (
    CERTAIN,
    FLIP,
    SINGLE,
    cases,
    scaled,
    views,
    with_cameras,
    with_views,
)

from data_processing.checks.causes import _blamed
from data_processing.checks.epipolar import (
    Geometry,
    PairMatches,
    epipolar_distances,
    exposures,
    fraction_in_front,
    pairs_to_compare,
)
from data_processing.checks.findings import Finding
from data_processing.checks.folder_checks import check_folder
from data_processing.checks.scene_checks import check_scene
from data_processing.checks.sheet import check_sheet
from data_processing.scenes.scene import Scene
from data_processing.scenes.writing import write_scene
from experiment_scripts import check_scene as script
from utils.config.sections import DataConfig
from utils.config.tool_sections import CheckConfig
from utils.geometry.cameras import intrinsics_from_projection


@pytest.fixture(scope="module")
def ball() -> Scene:
    return ball_scene(0.6, num_views=14, resolution=(128, 96), arrangement="dtu")


def codes(scene: Scene) -> set[tuple[str, str]]:
    return {(finding.severity, finding.code) for finding in check_scene(scene).findings}


def test_a_good_scene_has_no_findings(ball):
    result = check_scene(ball)
    assert not result.findings and not result.has_errors
    assert np.nanmax(result.epipolar) < 1.0 and result.agreement.min() > 0.93
    picture = check_sheet(ball, result)
    assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.std() > 10


@pytest.mark.parametrize("code, change", cases(CERTAIN, SINGLE))
def test_each_mistake_is_named(ball, code, change):
    result = check_scene(change(ball))
    assert [finding.code for finding in result.findings] == [code]       # and nothing that follows
    assert result.findings[0].severity == "error"
    assert result.findings[0].cure and result.has_errors
    if code == "odd_views":
        assert "view 006:" in result.findings[0].found


def test_masks_alone_name_mistakes_too(ball):
    """Without texture nothing matches; the hull still tells."""
    smooth = replace(ball, images=torch.full_like(ball.images, 0.5))
    smooth = with_views(smooth, range(0, 14, 2))
    assert ("error", "intrinsics_size") in codes(scaled(smooth, 2.0))
    assert ("error", "poses_axes") in codes(with_cameras(smooth, FLIP @ views(smooth)))


def test_masks_alone_name_one_wrong_camera(ball):
    """View 3 has the camera of view 11: its mask contradicts the hull of all others."""
    view = views(ball)
    view[3] = view[11]
    smooth = with_cameras(replace(ball, images=torch.full_like(ball.images, 0.5)), view)
    shifted = replace(smooth, masks=smooth.masks.clone())
    shifted.masks[3] = shifted.masks[3].roll(45, 2)
    found = [f for f in check_scene(shifted).findings if f.severity == "error"]
    assert [f.code for f in found] == ["odd_views"] and "view 003" in found[0].found


def test_matches_alone_name_mistakes_too(ball):
    """Without masks OpenCV axes and mirrored images differ by what lies in front alone."""
    bare = replace(ball, has_masks=False, masks=torch.ones_like(ball.masks))
    assert codes(bare) == {("note", "no_masks")}
    assert ("error", "poses_axes") in codes(with_cameras(bare, FLIP @ views(bare)))
    mirrored = replace(bare, images=bare.images.flip(3))
    assert ("error", "images_mirrored") in codes(mirrored)


@pytest.mark.parametrize("factor, code", [(0.4, "object_outside_sphere"),
                                          (0.15, "normalization"), (4.0, "object_small")])
def test_object_space_of_the_wrong_size(ball, factor, code):
    model = ball.cameras.model.clone()
    model[:3, :3] *= factor
    found = codes(replace(ball, cameras=replace(ball.cameras, model=model)))
    assert code in {name for _, name in found}


def test_cameras_within_the_sphere_of_a_small_object_follow_from_it():
    """Alone they are named: tests/data_processing/test_advice.py."""
    scene = ball_scene(0.5, num_views=8, resolution=(80, 60))
    model = scene.cameras.model.clone()
    model[:3, :3] *= 3.2
    assert codes(replace(scene, cameras=replace(scene.cameras, model=model))) == {
        ("warning", "object_small")}


def test_empty_full_and_odd_masks(ball):
    masks = ball.masks.clone()
    masks[3], masks[4] = False, True
    found = check_scene(replace(ball, masks=masks)).findings
    assert "view 003" in next(f.found for f in found if f.code == "masks_empty")
    assert "view 004" in next(f.found for f in found if f.code == "masks_full")


def test_masks_that_leak_over_a_stand(ball):
    """Two masks lose a fifth of their agreement, where the others differ by a hundredth."""
    masks, leaking = ball.masks.clone(), [3, 7]
    height, width = masks.shape[2:]
    for view in leaking:
        rows, columns = masks[view, 0].nonzero().T
        middle = int(columns.float().mean())
        half = (int(columns.max()) - int(columns.min())) // 4
        masks[view, 0, int(rows.float().mean()):, middle - half:middle + half] = True
    result = check_scene(replace(ball, masks=masks))
    found = [f for f in result.findings if f.code == "odd_masks"]
    assert len(found) == 1 and "views 003, 007:" in found[0].found
    assert result.agreement[leaking].min() > np.median(result.agreement) - 0.25
    kept = with_views(replace(ball, masks=masks),
                      [i for i in range(len(ball)) if i not in leaking])
    assert codes(kept) == set()                        # the cure: these views taken out


def test_duplicates(ball):
    images = ball.images.clone()
    images[5] = images[9]
    found = check_scene(replace(ball, images=images)).findings
    assert any(f.code == "duplicates" and f.severity == "error" and "005 = 009" in f.found
               for f in found)
    twice = with_views(ball, [*range(len(ball)), 2])
    assert codes(twice) == {("warning", "duplicates")}


def test_exposure(ball):
    images = ball.images.clone()
    images[7] *= 0.3
    found = check_scene(replace(ball, images=images)).findings
    assert [(f.severity, f.code) for f in found] == [("warning", "exposure")]
    assert "view 007: 0.3" in found[0].found


def test_few_views():
    assert ("note", "few_views") in codes(ball_scene(0.6, num_views=4, arrangement="dtu"))


def test_epipolar_distance_in_closed_form():
    """Points on their lines have distance 0; noise of 3 pixels in one view moves them by its
    component across the line, which the Sampson distance splits between both views."""
    cameras = ball_cameras(2, arrangement="dtu", resolution=(640, 480))
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    xy, _ = cameras.project(points)
    pixels = torch.stack([((xy[..., 0] + 1) * 640 - 1) / 2, ((1 - xy[..., 1]) * 480 - 1) / 2], -1)
    a, b = pixels.numpy()
    k = intrinsics_from_projection(cameras.projection, (640, 480)).numpy()
    geometry = Geometry(cameras.view.numpy(), k, (640, 480))
    pair = PairMatches(0, 1, a, b, 1.0)
    assert epipolar_distances(geometry, [pair])[0] < 1e-6
    assert fraction_in_front(geometry, [pair]) == 1.0
    behind = replace(geometry, view=FLIP @ geometry.view)
    assert fraction_in_front(behind, [replace(pair, a=a * [-1, 1] + [2 * k[0, 0, 2], 0],
                                           b=b * [-1, 1] + [2 * k[1, 0, 2], 0])]) < 0.1
    shift = np.linalg.inv(cameras.view[1].numpy()) @ [0, 0, 0, 1]
    assert np.isfinite(shift).all()
    same = replace(geometry, view=geometry.view[[0, 0]])
    assert np.isnan(epipolar_distances(same, [pair])[0])
    rng = np.random.default_rng(0)
    moved = replace(pair, b=b + rng.normal(0, 3, b.shape))
    # The median of |N(0, 3)| across the line is 2.0; split between both ends: over sqrt(2).
    assert 0.8 < epipolar_distances(geometry, [moved])[0] < 2.2


@pytest.mark.parametrize("distance, blamed", [(2.2, [6]), (0.2, [5])])
def test_a_wrong_camera_is_told_from_its_partner(distance, blamed):
    """View 5 has one pair, with view 6: whose other pair misses too, is wrong."""
    none = np.zeros((9, 2))
    pairs = [PairMatches(*both, none, none, 1.0) for both in ((0, 1), (5, 6), (6, 7), (7, 8))]
    assert _blamed(9, pairs, np.array([0.1, 3.1, distance, 0.1]), 2.5) == blamed


def test_exposures_in_closed_form():
    none = np.zeros((1, 2))
    pairs = [PairMatches(0, 1, none, none, 2.0), PairMatches(1, 2, none, none, 0.5)]
    found = exposures(4, pairs)
    np.testing.assert_allclose(found[[0, 1, 2]] / found[0], [1, 2, 1], rtol=1e-6)
    assert np.isnan(found[3]) and np.isnan(exposures(2, [])).all()


def test_every_view_is_in_some_pair():
    for num in (2, 20, 49, 300):
        pairs = pairs_to_compare(ball_cameras(num).view.numpy())
        assert len(pairs) <= 72 and all(i < j for i, j in pairs)
        if num <= 20:
            assert {view for pair in pairs for view in pair} == set(range(num))


def test_script_says_what_it_found_and_exits_so(ball, tmp_path, capsys):
    write_scene(ball, tmp_path / "good", "processed")
    script.main([str(tmp_path / "good"), "--check_sheet", str(tmp_path / "sheet.png")])
    out = capsys.readouterr().out
    assert "no findings" in out and (tmp_path / "sheet.png").is_file()
    write_scene(with_cameras(ball, FLIP @ views(ball)), tmp_path / "bad", "processed")
    with pytest.raises(SystemExit) as end:
        script.main([str(tmp_path / "bad"), "--check_sheet", str(tmp_path / "sheet.png")])
    assert end.value.code == 1
    assert "error: poses_axes" in capsys.readouterr().out


def test_finding_is_one_line():
    assert str(Finding("a", "error", "b", "c")) == "error: a: b; c"


def test_real_scan_is_good(real_scene, tmp_path):
    result, _ = check_folder(DataConfig(dataset_path=str(real_scene)),
                             CheckConfig(check_sheet=str(tmp_path / "sheet.png")))
    assert not result.findings
