"""Image steps that are replayed: the numbers of those that are not, to the bit."""
from __future__ import annotations

import pytest
from support.pretended_gpu import no_waiting, pretended_gpu
from support.tiny_runs import call, config_of, differing, flags_of
from support.trainers import trainer_on

from stages.replaying.steps import ReplayingTrainer
from stages.scene import check_replayable, open_run
from training import SceneTrainer
from utils.errors import ConfigError
from utils.fast.recorded_operations import OperationNotes
from utils.fast.tracing import gpu_tracer

pytestmark = pytest.mark.long

#: Steps 0, 1, 3 and 6 train the shape; the third image step, 5, is recorded, 7 is replayed.
NUM_STEPS = 8
GRAPHS = ("--cuda_graphs", 1)


@pytest.fixture(autouse=True)
def short_marches(monkeypatch):
    """Each step of a march is like the others."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((4, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 6)


def as_it_is(trainer: ReplayingTrainer) -> SceneTrainer:
    """The same trainer, that replays nothing."""
    trainer.__class__ = SceneTrainer
    return trainer


@pytest.mark.parametrize("num_steps, flags", [
    (NUM_STEPS, ("--precision", "bf16", "--image_encoder", "residual")),
    (NUM_STEPS, ("--occlusion_method", "correlation", "--image_loss_region", "foreground",
                 "--blend_residuals", 1, "--train_image_encoder", 0)),
    # other thresholds from step 6 on, so that step 10 is recorded anew
    (12, ("--feature_aggregation_method", "mean", "--occ_threshold_steps", "6,100"))])
def test_replayed_steps_have_the_same_bits(tiny_scene, tiny_sphere, num_steps, flags):
    plain = as_it_is(trainer_on("cpu", tiny_scene, tiny_sphere, *GRAPHS, *flags))
    replayed = trainer_on("cpu", tiny_scene, tiny_sphere, *GRAPHS, *flags)
    for step in range(num_steps):
        losses = [trainer.train_step(step) for trainer in (plain, replayed)]
        assert differing(*losses) == [], step
    state = replayed.state_dict()
    assert differing(plain.state_dict(), state) == []
    assert replayed._replayed[1].recording is not None
    replayed.load_state_dict(state)                        # cameras may be others now
    assert replayed._replayed is None


def test_a_gpu_replays_steps_without_waiting(tiny_scene, tiny_sphere):
    """A pretended one. Other views are drawn in each step; by the same tracer on both devices the
    losses are those of the CPU, to rounding."""
    expected = trainer_on("cpu", tiny_scene, tiny_sphere, *GRAPHS)
    with pretended_gpu():
        trainer = trainer_on("cuda", tiny_scene, tiny_sphere, *GRAPHS, "--device", "cuda")
        for step in range(NUM_STEPS):
            with no_waiting():
                losses = trainer.train_step(step)
            theirs = expected.train_step(step)
            assert float(losses["total"]) == pytest.approx(float(theirs["total"]), rel=1e-4)
        assert type(trainer._replayed[1].recording).__name__ == "GraphRecording"


def test_shapes_are_the_same_in_every_step(tiny_scene, tiny_sphere):
    trainer = trainer_on("cpu", tiny_scene, tiny_sphere, *GRAPHS)
    found = []
    for step in (2, 4, 5):
        plan = trainer.plan(step)
        batch = trainer.sampled.draw(trainer.generator, trainer.buffer).batch
        with OperationNotes() as notes:
            trainer.image_gradients(plan, trainer.trained, batch.sources, batch.targets)
        found.append(notes.shapes())
    assert found[0] == found[1] == found[2] and len(found[0]) > 200


@pytest.mark.parametrize("flags, word", [
    (("--target_crop", "16"), "--target_crop"), (("--refine_cameras", 1), "--refine_cameras"),
    (("--tracer", "reference"), "--tracer reference")])
def test_what_cannot_be_recorded_is_told(tiny_scene, flags, word):
    config = config_of(*flags_of("unused", tiny_scene, *GRAPHS, *flags))
    with pytest.raises(ConfigError, match=f"cannot be used with {word}: .*; give --cuda_graphs 0"):
        check_replayable(config)


def test_a_run_with_replays_is_trained_and_scored(tmp_path, tiny_scene, tiny_sphere):
    flags = flags_of(tmp_path, tiny_scene, *GRAPHS, "--num_steps", 6, "--test_metrics", 1,
                     sphere=tiny_sphere)
    call("train_sdf_ibr", *flags)
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert type(open_run(config_of(*flags)).trainer) is SceneTrainer   # on a CPU nothing is kept
