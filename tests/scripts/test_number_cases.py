"""Scenes at the limits of numbers stay finite, or are refused with words of ours."""
from __future__ import annotations

import pytest
import torch
from support.number_cases import CASES, NumberCase, run_case, scene_of

#: Not worth a test of every day: as one of the others, with other numbers.
RARE = {"8 views", "focal length of 1e-6 widths", "focal length of 1e8 widths",
        "principal point 1e4 widths outside", "pixels of 1 to 1e-3", "skew of 100 widths",
        "world shifted by 1e6 radii", "world unit 1e6 radii", "full masks"}


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in RARE],
                         ids=lambda case: case.name)
def test_numbers_stay_finite(case, tiny_sphere, tmp_path):
    assert run_case(case, tmp_path / "scene", sphere=tiny_sphere).problems == ()


def test_what_is_not_finite_is_found(tiny_sphere, tmp_path, monkeypatch):
    """The test above can fail: a weight of infinity is named."""
    from training import SceneTrainer
    step = SceneTrainer.train_step

    def spoiling(self, number):
        losses = step(self, number)
        self.model.aggregation.requires_grad_(False)
        next(self.model.aggregation.parameters()).fill_(torch.inf)
        return losses

    monkeypatch.setattr(SceneTrainer, "train_step", spoiling)
    problems = run_case(NumberCase("a ball"), tmp_path / "scene", sphere=tiny_sphere).problems
    assert any("aggregation" in problem or "not finite" in problem for problem in problems)


def test_the_ball_is_where_the_case_says():
    """From 3 away a ball of radius 0.5 has a disc of the angle asin(1/6); focal 1.2 widths."""
    masks = scene_of(NumberCase("a ball", size=(201, 201))).masks.float()
    radius = 1.2 * 201 * (0.5 / (9 - 0.25) ** 0.5)
    assert masks.sum((1, 2, 3)) == pytest.approx([3.14159 * radius**2] * 3, rel=0.02)
