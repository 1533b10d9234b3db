"""The same command twice on one machine: the same weights to the bit, with the default tracer."""
from __future__ import annotations

import pytest
import torch
from support.tiny_runs import call, differing, final_state, flags_of

from stages import pretraining

PAIRS = ("--crop_size 24x16 --batch_size 2 --model_image_encoder_depth 1 --num_threads 1 "
         "--steps_til_pictures 0 --device cpu").split()


@pytest.fixture
def run(tiny_scene, tiny_scenes, tiny_sphere, tmp_path, monkeypatch):
    """Runs a script from the sphere; gives the last state, random numbers among it."""
    monkeypatch.setattr(pretraining, "NUM_SYNTHETIC_SCORED", 1)
    places = {"train_sdf_ibr": tiny_scene, "train_sdf_ibr_meta": tiny_scenes}

    def run(script, name, *flags):
        torch.rand(7)                             # what ran before must not matter
        if script in places:
            flags = flags_of(tmp_path, places[script], "--tracer", "fast", *flags, name=name,
                             sphere=tiny_sphere)
        else:
            flags = ["--logging_root", tmp_path, "--experiment_name", name, *PAIRS, *flags]
        call(script, *flags)
        stored = final_state(tmp_path / name)
        return {key: stored[key] for key in ("task", "random", "step")}
    return run


@pytest.mark.parametrize("script, flags", [
    ("train_sdf_ibr", ["--num_steps", 5, "--eval_interval", 2]),
    ("train_sdf_ibr", ["--num_steps", 5, "--tracer", "reference", "--precision", "fp32"]),
    ("train_sdf_ibr_meta", ["--num_steps", 2, "--num_meta_steps", 2, "--meta_batch_size", 2,
                            "--load_pcd", 0]),
    ("pretrain_features", ["--num_steps", 2])],
    ids=["fast", "reference", "meta-training", "pre-training"])
def test_the_same_command_gives_the_same_bits(run, script, flags):
    first, again = run(script, "first", *flags), run(script, "again", *flags)
    assert differing(first, again) == []
    other = run(script, "other", *flags, "--seed", 1)
    assert len(differing(first["task"], other["task"])) > 20
