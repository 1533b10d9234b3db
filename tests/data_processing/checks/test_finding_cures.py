"""What findings say is to be done is done, and the check is content: a table by their codes."""
from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.advice.table import imported
from support.ball_scene import ball_scene
from support.capture_files import write_transforms
from support.spoilt_scenes import (
    CERTAIN,
    one_far_away,
    one_rolled,
    views,
    with_cameras,
    with_views,
)

from data_processing.checks import hypotheses
from data_processing.checks.hypotheses import Evidence
from data_processing.checks.scene_checks import check_scene
from data_processing.checks.states import geometry_of
from data_processing.scenes.scene import Scene
from data_processing.scenes.writing import write_scene
from utils.command_names import typed
from utils.paths import PROJECT_ROOT

Change = Callable[[Scene], Scene]


@pytest.fixture(scope="module")
def ball() -> Scene:
    return ball_scene(0.6, num_views=10, resolution=(96, 72), arrangement="dtu")


def without(*gone: int) -> Change:
    """Take views out."""
    return lambda scene: with_views(scene, [i for i in range(len(scene)) if i not in gone])


def mask_of(view: int, value: bool) -> Change:
    """Empty or fill a mask."""
    def change(scene: Scene) -> Scene:
        masks = scene.masks.clone()
        masks[view] = value
        return replace(scene, masks=masks)
    return change


def leaking(scene: Scene) -> Scene:
    """The mask of view 3 with all below its middle."""
    masks = scene.masks.clone()
    masks[3, 0, 40:, 30:60] = True
    return replace(scene, masks=masks)


def darker(scene: Scene) -> Scene:
    """View 7 at a third of its brightness."""
    images = scene.images.clone()
    images[7] *= 0.3
    return replace(scene, images=images)


def same_photograph(scene: Scene) -> Scene:
    """View 5 shows what view 9 shows."""
    images = scene.images.clone()
    images[5] = images[9]
    return replace(scene, images=images)


def shuffled(scene: Scene) -> Scene:
    """Cameras of other photographs, in no usual order."""
    return with_cameras(scene, views(scene)[[3, 7, 0, 9, 5, 1, 8, 2, 6, 4]])


def unmasked(scene: Scene) -> Scene:
    """No masks."""
    return replace(scene, has_masks=False, masks=torch.ones_like(scene.masks))


#: Code, what is done to the sound scene, and each cure: a change of the bad one, or None for what
#: fixes it wholly ("fix", "calibrate again"), which gives the sound one.
CURES: tuple[tuple[str, Change, tuple[Change | None, ...]], ...] = (
    ("masks_empty", mask_of(1, False), (None, without(1))),
    ("masks_full", mask_of(3, True), (None,)),
    ("odd_masks", leaking, (None, without(3))),
    ("odd_views", one_rolled, (None, without(6))),
    ("odd_views", one_far_away, (None, without(6))),
    ("duplicates", same_photograph, (without(5),)),
    ("duplicates", lambda scene: with_views(scene, [*range(10), 5]), (without(10), without(5))),
    ("exposure", darker, (None, without(7))),
    ("cameras_do_not_fit", shuffled, (None,)),
    ("no_masks", unmasked, (None,)),
    ("few_views", lambda scene: with_views(scene, range(4)), (None,)))
#: Followed by tests of their own.
ELSEWHERE = {
    **dict.fromkeys(CERTAIN, "test_states.test_a_mistake_undone_gives_the_scene_as_it_was"),
    **dict.fromkeys(("object_outside_sphere", "normalization", "object_small",
                     "cameras_in_sphere"), "test_import_again_by_the_masks"),
    "cameras_in_object": "test_masks_that_leak_to_the_cameras"}


@pytest.mark.parametrize("number", range(len(CURES)),
                         ids=[f"{i}-{code}" for i, (code, *_) in enumerate(CURES)])
def test_the_cure_of_a_finding(ball, number):
    """The finding alone is there, and after each cure nothing is."""
    code, spoil, cures = CURES[number]
    spoilt = spoil(ball)
    assert [finding.code for finding in check_scene(spoilt).findings] == [code]
    for cure in filter(None, cures):
        assert not check_scene(cure(spoilt)).findings


def test_what_is_fixed_wholly_is_the_sound_scene(ball):
    """To which nothing is to be said; so it is for every cure of None."""
    assert not check_scene(ball).findings


def test_masks_that_cover_everything_may_all_go(ball):
    """The other cure of masks_full: all masks are removed, of which a note is left."""
    bare = unmasked(mask_of(3, True)(ball))
    assert [finding.code for finding in check_scene(bare).findings] == ["no_masks"]


@pytest.mark.parametrize("views", [range(10), [4]])
def test_an_empty_mask_never_agrees_on_an_object(ball, views):
    """One of them or all: that is the finding, and nothing is said of a hull or of object space."""
    masks = ball.masks.clone()
    masks[list(views)] = False
    model = ball.cameras.model.clone()
    model[:3, :3] *= 0.15                                # with masks this would be a finding too
    result = check_scene(replace(ball, masks=masks, cameras=replace(ball.cameras, model=model)
                                 if len(views) > 1 else ball.cameras))
    assert [finding.code for finding in result.findings] == ["masks_empty"]
    assert "agree" not in str(result.findings[0])


def test_masks_put_where_the_note_says(ball, tmp_path):
    """masks/NAME.png, and imported again."""
    folder = write_transforms(ball, tmp_path / "capture")
    (folder / "masks").rename(tmp_path / "masks")
    assert [finding.code for finding in check_scene(imported(folder)).findings] == ["no_masks"]
    (tmp_path / "masks").rename(folder / "masks")
    assert not check_scene(imported(folder, normalization="auto")).findings


@pytest.mark.parametrize("radius, factor, code", [
    (0.6, 0.4, "object_outside_sphere"), (0.6, 0.15, "normalization"), (0.5, 3.2, "object_small"),
    (1.0, 3.2, "cameras_in_sphere")])
def test_import_again_by_the_masks(tmp_path, radius, factor, code):
    """The cure of all four: import_scene.py --normalization masks."""
    ball = ball_scene(radius, num_views=8, resolution=(80, 60))
    model = ball.cameras.model.clone()
    model[:3, :3] *= factor
    wrong = replace(ball, cameras=replace(ball.cameras, model=model))
    found = {finding.code: finding for finding in check_scene(wrong).findings}
    assert f"{typed('import')} --normalization masks" in found[code].cure
    write_scene(wrong, tmp_path / "capture", "processed")
    again = imported(tmp_path / "capture", normalization="masks")
    assert not check_scene(again).findings


def test_masks_that_leak_to_the_cameras():
    """Masks of all but a corner: cameras stand in the hull; with the right ones none does."""
    ball = ball_scene(0.3, num_views=8, resolution=(80, 60), distance=1.4)
    masks = torch.ones_like(ball.masks)
    masks[:, :, :6, :10] = False
    found = check_scene(replace(ball, masks=masks)).findings
    assert [finding.code for finding in found] == ["cameras_in_object"]
    assert "fix the masks" in found[0].cure and not check_scene(ball).findings


def finding_codes(ball: Scene) -> set[str]:
    """The codes that the check can give: first words of Finding(...), and the usual mistakes."""
    found = {mistake.code for mistake in (*hypotheses.hypotheses(Evidence(
        geometry_of(ball), [], ball.masks)), hypotheses.inverted_masks())}
    for path in sorted((PROJECT_ROOT / "data_processing" / "checks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and \
                    node.args and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def test_each_finding_has_a_cure_that_is_followed(ball):
    """A new code fails here until it is in a table."""
    assert finding_codes(ball) == {code for code, *_ in CURES} | set(ELSEWHERE)
    folder = Path(__file__).parent
    for where in set(ELSEWHERE.values()):
        module, _, name = where.rpartition(".")
        text = (folder / f"{module or Path(__file__).stem}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in text
