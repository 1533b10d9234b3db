"""Varied looks: shadows against what blocks the light, photographs against their renderings."""
from __future__ import annotations

import torch
from torch.nn.functional import normalize

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.scenes import VARIED_KINDS, make_scene, scene_plan
from data_processing.synthetic.shading import BACKGROUND, Lighting
from data_processing.synthetic.varied_looks import (
    EXPOSURE_SPREAD,
    ShadowedLook,
    as_photographed,
    draw_varied_look,
    lit_fraction,
)

UP = torch.tensor([0.0, 1.0, 0.0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_light_is_blocked_by_what_stands_between_and_by_nothing_else():
    """A ball of radius 0.2 at height 0.5: its umbra, the free air beside it, and the rim between.

    A ray that passes the ball's centre at distance r has the least of softness (r - 0.2) / gone
    near gone = 0.5; at r = 0.25 and softness 5 that is about 0.5, which the smooth step leaves.
    """
    ball = solids.sphere(0.2, (0.0, 0.5, 0.0))
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.25, 0.0, 0.0], [0.7, 0.0, 0.0]])
    lit = lit_fraction(ball, points, UP, softness=5.0)
    assert lit[:2].tolist() == [0.0, 0.0] and lit[3] == 1.0
    assert 0.3 < float(lit[2]) < 0.7


def test_a_shadow_has_ambient_light_alone():
    class White:
        def albedo(self, points):
            return torch.ones_like(points)

    lighting = Lighting(UP[None], torch.full((1, 3), 0.5), torch.full((3,), 0.3), highlight=0.2)
    look = ShadowedLook(White(), lighting, shininess=20.0, softness=8.0)
    floor = solids.box((2.0, 0.1, 2.0), rounding=0.0)
    scene = solids.union(solids.moved(floor, translation=(0.0, -0.1, 0.0)),
                         solids.sphere(0.2, (0.0, 1.2, 0.0)))
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    dirs = normalize(torch.tensor([[0.3, -1.0, 0.0]]), dim=-1).expand(2, 3)
    dark, bright = look.shade(scene, points, normals=UP.expand(2, 3), dirs=dirs)
    assert torch.allclose(dark, torch.full((3,), 0.3), atol=1e-4)      # the ball is out of reach
    assert (bright > 0.3 + 0.5 - 1e-4).all()


def test_photographs_are_the_renderings_but_for_exposure_and_noise():
    images = torch.full((4, 3, 8, 8), 0.5)
    coverage = torch.ones(4, 1, 8, 8)
    coverage[..., 4:] = 0
    images[..., 4:] = BACKGROUND
    seen = [as_photographed(images, coverage, generator(seed)) for seed in range(12)]
    for found in seen:                                     # 5 standard deviations, and rounding
        factor = found[..., :4].mean((1, 2, 3)) / 0.5
        assert ((factor - 1).abs() < 5 * EXPOSURE_SPREAD + 0.02).all()
        assert found.min() >= 0 and found.max() <= 1
        assert torch.allclose(found * 255, (found * 255).round(), atol=1e-3)
    backgrounds = torch.stack([found[..., 4:].mean() for found in seen])
    assert backgrounds.std() > 0.05                        # they differ, the renderings' do not
    assert torch.equal(seen[3], as_photographed(images, coverage, generator(3)))


def test_looks_differ_and_follow_from_the_seed():
    names = {type(draw_varied_look(generator(seed)).texture).__name__
             for seed in range(20)}
    assert names == {"Stained", "Fields", "Texture"}
    ball, points = solids.sphere(0.8), 0.8 * normalize(torch.randn(50, 3, generator=generator(1)),
                                                       dim=-1)
    views = {"normals": points / 0.8, "dirs": -points / 0.8}
    colours = [draw_varied_look(generator(seed)).shade(ball, points, **views)
               for seed in (1, 1, 2)]
    assert torch.equal(colours[0], colours[1]) and not torch.allclose(colours[0], colours[2])
    assert all(colour.min() >= 0 and colour.max() <= 1 for colour in colours)


def test_a_varied_scene_is_the_same_for_the_same_seed():
    kind = VARIED_KINDS[-2]
    scenes = [make_scene(kind, seed, num_views=2, resolution=(16, 12), supersampling=1,
                         num_points=300) for seed in (0, 0, 1)]
    assert torch.equal(scenes[0].images, scenes[1].images)
    assert not torch.equal(scenes[0].images, scenes[2].images)
    assert scenes[0].name == f"{kind}_0000" and scenes[0].masks.any()


def test_varied_takes_the_kinds_by_turns():
    plan = list(scene_plan("varied", 5, 8))
    assert [kind for kind, _ in plan[:7]] == list(VARIED_KINDS)
    assert plan[7] == (VARIED_KINDS[0], 6)
