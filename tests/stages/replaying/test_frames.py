"""Frames that are replayed: the numbers of those that are not, to the bit."""
from __future__ import annotations

import pytest
import torch
from support.pretended_gpu import no_waiting, pretended_gpu
from support.tiny_runs import differing
from support.trainers import trainer_on

from stages.evaluation import current_renderer
from stages.replaying.frames import MOST_SIZES, ReplayingRenderer
from stages.view_rendering import ViewRenderer
from utils.fast.replays import NUM_BEFORE
from utils.fast.tracing import gpu_tracer

GRAPHS = ("--cuda_graphs", 1)


@pytest.fixture(autouse=True)
def short_marches(monkeypatch):
    """Each step of a march is like the others."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((4, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 6)


def renderers(trainer) -> tuple[ViewRenderer, ReplayingRenderer]:
    """One that replays nothing and one that does, of the same weights."""
    replaying = current_renderer(trainer, 1)
    plain = ReplayingRenderer(replaying)
    plain.__class__ = ViewRenderer
    return plain, replaying


def test_replayed_frames_have_the_same_bits(tiny_scene, tiny_sphere):
    trainer = trainer_on("cpu", tiny_scene, tiny_sphere, *GRAPHS)
    plain, replaying = renderers(trainer)
    assert isinstance(replaying, ReplayingRenderer)
    cameras = trainer.views.cameras
    kept = []
    for view in range(4):
        for size in ((16, 12), (32, 24)):
            camera = cameras[view].resized(*size)
            exclude = view if view % 2 else None
            found, expected = (renderer(camera, exclude) for renderer in (replaying, plain))
            assert differing(vars(found), vars(expected)) == []
            kept.append((found, expected))
    assert all(differing(vars(found), vars(expected)) == [] for found, expected in kept)
    for width in range(16, 16 + MOST_SIZES):
        replaying(cameras[0].resized(width, 12))
    assert len(replaying._replayed) == MOST_SIZES


def test_a_gpu_replays_frames_without_waiting(tiny_scene, tiny_sphere):
    with pretended_gpu():
        trainer = trainer_on("cuda", tiny_scene, tiny_sphere, *GRAPHS, "--device", "cuda")
        plain, replaying = renderers(trainer)
        for view in range(NUM_BEFORE + 2):
            camera = trainer.views.cameras[view % 4]
            replaying.model.eval()
            expected = plain(camera)
            with no_waiting():
                found = replaying(camera, view % 4)
            assert torch.equal(found.hit_mask, expected.hit_mask)
            assert torch.equal(found.normals_obj, expected.normals_obj)
            assert found.images.is_cuda and float(found.weights[view % 4].abs().max()) == 0
