"""Meta-training on tiny scenes: order, rates, resume to the bit, several processes."""
from __future__ import annotations

import gc
import json
import subprocess
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from support.tiny_runs import (
    ROOT,
    SMALL,
    call,
    config_of,
    differing,
    final_state,
    flags_of,
    meta_config_of,
    start,
    start_as_ranks,
)

from data_processing.scenes.pool import open_pool
from meta_modules import copy_weights
from stages.meta_pictures import rendered_while_adapting, shown_index
from stages.meta_training import LOSSES, MetaTrainer, outer_steps_per_epoch, task_on_scene
from stages.models import model_of
from training import SceneTrainer
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.storage import load_checkpoint
from utils.comparison import execution
from utils.config.parser import META_SECTIONS, parse_config
from utils.config.stage_sections import SPECIALISE_DEFAULTS
from utils.errors import CheckpointError, SceneError
from utils.runs import distributed
from utils.runs.task import loop_options

SHORT = ["--num_meta_steps", 2, "--load_pcd", 0]
TWO = [*SHORT, "--num_steps", 2, "--steps_til_ckpt", 1, "--meta_batch_size", 2]
#: Two runs in one group of processes: the first ends well; in the second outer step of the other
#: rank 1 ends as if it was killed.
TWO_RUNS = """
import json, os, sys
from contextlib import nullcontext
sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "tests")]
from support.tiny_runs import script
from stages.meta_training import MetaTrainer
from utils.runs import distributed
from utils.runs.script import run_script

module, ranks = script("train_sdf_ibr_meta"), distributed.start_ranks("cpu")
distributed.joined_ranks = lambda device: nullcontext(ranks)
well, lost = json.loads(sys.argv[2])
module.main(well)
inner = MetaTrainer._adapt_to_scene

def dying(self, step, position, plan):
    if self.ranks.rank == 1 and step == 1:
        os._exit(9)
    return inner(self, step, position, plan)

MetaTrainer._adapt_to_scene = dying
run_script(lambda: module.main(lost))
"""


def trainer_of(scenes, sphere, *flags, seed=0):
    """A meta-trainer that is ready for its first outer step."""
    config = meta_config_of(*flags_of("unused", scenes, *SHORT, *flags, sphere=sphere))
    torch.manual_seed(0)
    model = model_of(config, torch.device("cpu"))
    return MetaTrainer(model, open_pool(config.data, config.meta),
                       partial(task_on_scene, config=config), meta=config.meta,
                       rates=config.rates, seed=seed)


def clones(weights):
    return {name: value.clone() for name, value in weights.items()}


@pytest.fixture
def meta_train(tiny_scenes, tiny_sphere, tmp_path):
    """Runs the script; gives the run's folder."""
    def run(name, *flags):
        call("train_sdf_ibr_meta", *flags_of(tmp_path, tiny_scenes, *TWO, *flags, name=name,
                                             sphere=tiny_sphere))
        return tmp_path / name
    return run


@pytest.fixture(scope="session")
def finished(shared_folder, tiny_scenes, tiny_sphere):
    """The folder of a run of two outer steps; nobody writes into it."""
    def train(folder):
        call("train_sdf_ibr_meta", *flags_of(folder, tiny_scenes, *TWO, name="run",
                                             sphere=tiny_sphere))
    return shared_folder.once("meta_run", train) / "run"


def test_every_scene_comes_as_often_as_the_others(tiny_scenes, tiny_sphere):
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--meta_batch_size", 2)
    drawn = [trainer.scene_of(step, position) for step in range(6) for position in range(2)]
    turns = [tuple(drawn[start:start + 3]) for start in range(0, 12, 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns) and len(set(turns)) > 1
    other = trainer_of(tiny_scenes, tiny_sphere, "--meta_batch_size", 2, seed=1)
    assert drawn != [other.scene_of(step, place) for step in range(6) for place in range(2)]


@pytest.mark.parametrize("size", [0, 2.0, "2", [2]])
def test_a_stored_batch_size_of_another_kind_is_refused(tiny_scenes, tiny_sphere, size):
    trainer = trainer_of(tiny_scenes, tiny_sphere)
    with pytest.raises(ValueError, match="batch size"):
        trainer.load_state_dict({**trainer.state_dict(), "batch_size": size})


def test_an_epoch_is_all_training_views_of_all_scenes(tiny_scenes):
    config = meta_config_of(*flags_of("unused", tiny_scenes, "--num_epochs", 3, "--num_steps", -1))
    pool = open_pool(config.data, config.meta)
    views = [len(entry.split.train) for entry in pool.entries]
    assert len(views) > 1 and min(views) > 1
    assert outer_steps_per_epoch(pool, config.views) == sum(views)
    options = loop_options(config.run, sum(views))
    assert options.num_steps == 3 * sum(views)
    assert options.save_interval <= 5                     # not one checkpoint in hours
    limited = replace(config.views, total_number_source_views=2)
    assert outer_steps_per_epoch(pool, limited) == 2 * len(views)


def test_one_step_by_hand(tiny_scenes, tiny_sphere):
    """Two scenes, each trained alone from the slow weights; rates 0.01 and 0.05.

    See docs/method.md, section 7.
    """
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--meta_batch_size", 2, "--meta_lr", 0.01)
    slow = clones(trainer.slow)
    expected = clones(slow)
    for position in range(2):
        scene = trainer.pool[trainer.scene_of(0, position)]
        trainer.model.load_state_dict(slow, strict=False)
        task = trainer.make_task(trainer.model, scene, trainer.generator("inner", 0, position))
        for step in range(2):
            task.train_step(step)        # the first two steps of a scene train the shape anyway
        for name, fast in copy_weights(trainer.model).items():
            beta = 0.01 if name.startswith("sdf.") else 0.05
            expected[name] += beta * (fast - slow[name]) / 2
    losses = trainer.train_step(0)
    assert tuple(losses) == LOSSES and all(torch.isfinite(v) for v in losses.values())
    groups = {name.split(".")[0] for name in slow if not torch.equal(slow[name],
                                                                     trainer.slow[name])}
    assert groups == set(NETWORKS)
    for name, value in trainer.slow.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)   # sums of two


def test_rates_of_inner_steps_halve(tiny_scenes, tiny_sphere):
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--lr", 4e-4, "--lr_sdf", 1e-4)
    plans = []
    make = trainer.make_task

    def spying(*args, **options):
        task = make(*args, **options)
        step = task.train_step
        task.train_step = lambda number: plans.append(task.plan(number)) or step(number)
        return task

    trainer.make_task = spying
    for outer in (0, 60, 400):
        trainer.train_step(outer)
    assert all(plan.train_shape and plan.occ_threshold == 5e-4 for plan in plans)
    assert [(plan.lr, plan.lr_sdf) for plan in plans[::2]] == [
        (4e-4, 1e-4), (2e-4, 1e-4), (4e-4 / 2**6, 5e-5)]


def test_running_statistics_move_with_the_encoder(tiny_scenes, tiny_sphere):
    trainer = trainer_of(tiny_scenes, tiny_sphere)
    before = clones(trainer.slow)
    trainer.train_step(0)
    name = next(name for name in before if name.endswith("running_mean"))
    fast = copy_weights(trainer.model)[name]
    torch.testing.assert_close(trainer.slow[name],
                               before[name] + 0.5 * (fast - before[name]))    # meta_lr 0.1 x 5
    assert not torch.equal(trainer.slow[name], before[name])


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml"])
def test_a_resumed_run_ends_as_one_never_stopped(meta_train, finished, algorithm):
    flags = ["--meta_algorithm", algorithm]
    whole = final_state(finished if algorithm == "reptile" else meta_train("whole", *flags))
    meta_train("parts", *flags, "--num_steps", 1)
    parts = final_state(meta_train("parts", *flags))
    assert (whole["step"], parts["step"]) == (2, 2)
    assert differing(whole["task"], parts["task"]) == []
    assert len(differing(whole["task"]["model"], read_first(meta_train, flags))) > 50


def read_first(meta_train, flags):
    """The state of a run without outer steps."""
    return final_state(meta_train("fresh", *flags, "--num_steps", 0))["task"]["model"]


def test_a_run_leaves_a_start_that_is_its_last_state(finished):
    stored = open_checkpoint(finished / "meta_start.pth").networks.tensors
    state = final_state(finished)
    assert tuple(stored) == NETWORKS
    flat = {f"{network}.{name}": value for network, values in stored.items()
            for name, value in values.items()}
    assert differing(dict(sorted(flat.items())),
                     dict(sorted(state["task"]["model"].items()))) == []
    assert any("running_mean" in name for name in flat)
    header, *rows = (finished / "curve.csv").read_text().splitlines()
    assert {"step", "seconds", "loss_total", "loss_image_first"} <= set(header.split(","))
    assert len(rows) == 2


@pytest.mark.long
def test_two_processes_do_as_one_and_a_lost_one_ends_the_run(meta_train, finished, tiny_scenes,
                                                             tiny_sphere, tmp_path):
    """Real processes, so slower."""
    flags = {name: flags_of(tmp_path, tiny_scenes, *TWO, "--meta_batch_size", 0, name=name,
                            sphere=tiny_sphere) for name in ("well", "lost")}
    ended = start_as_ranks("-c", TWO_RUNS, ROOT, json.dumps(list(flags.values())), cwd=tmp_path)
    assert [code for code, _ in ended] == [2, 9], ended
    assert "error: rank 1 of 2 is gone" in ended[0][1] and "Traceback" not in ended[0][1]
    whole, well = final_state(finished), final_state(tmp_path / "well")
    assert final_state(tmp_path / "lost")["step"] == 1
    again = final_state(meta_train("lost", "--meta_batch_size", 0))
    for state in (well, again):          # of two ranks; of two ranks, then one
        assert state["step"] == 2 and state["task"]["batch_size"] == 2
        assert differing(whole["task"]["model"], state["task"]["model"]) == []


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_gives_the_same_bits(meta_train, tiny_scenes, tiny_sphere, tmp_path,
                                                     size):
    """Three scenes in a batch: one process has two of them, or none."""
    flags = ["--meta_batch_size", 3, "--test_views", ""]
    alone = final_state(meta_train("alone", *flags))
    ended = start("-m", "utils.launch", size, ROOT / "experiment_scripts" / "train_sdf_ibr_meta.py",
                  *flags_of(tmp_path, tiny_scenes, *TWO, *flags, name="together",
                            sphere=tiny_sphere), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    together = final_state(tmp_path / "together")
    assert differing(alone["task"], together["task"]) == []


def test_a_run_that_fails_leaves_the_group(meta_train, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(distributed, "finish_ranks", lambda: left.append(True))
    with pytest.raises(SceneError):
        meta_train("run", "--dataset_path", tmp_path / "nowhere")
    assert left == [True]


def test_another_algorithm_does_not_resume(meta_train):
    meta_train("run", "--num_steps", 1)
    with pytest.raises(CheckpointError, match="meta_algorithm"):
        meta_train("run", "--meta_algorithm", "fomaml")


def test_losses_that_are_not_finite_name_scene_and_step(tiny_scenes, tiny_sphere, monkeypatch):
    trainer = trainer_of(tiny_scenes, tiny_sphere)
    before = clones(trainer.slow)
    monkeypatch.setattr(SceneTrainer, "image_loss", lambda *args: torch.tensor(torch.nan))
    name = trainer.pool[trainer.scene_of(0, 0)].name
    with pytest.raises(FloatingPointError, match=f"scene {name}, inner step 0: .*image"):
        trainer.train_step(0)
    assert differing(before, trainer.slow) == []


def root_of_zero(model, task):
    """A query loss that is 0, with a gradient of 0 times infinity; two inner steps are sound."""
    weight, sound = next(model.parameters()), [task.losses] * 2
    task.losses = lambda plan: sound.pop()(plan) if sound else \
        {"total": (weight.sum() * 0).abs().sqrt()}


def infinite_weight(model, task):
    """Inner steps that end with a weight that is not finite."""
    step = task.train_step

    def last(number):
        losses = step(number)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = torch.inf if number == 1 else 0.0
        return losses
    task.train_step = last


def masked_as_on_a_gpu(model, task):
    """There weights stay finite, and the total alone says that a step was not (FiniteGuard)."""
    step = task.train_step
    task.train_step = lambda number: step(number) | {"total": torch.tensor(torch.nan)}


@pytest.mark.parametrize("algorithm, spoil", [
    ("fomaml", root_of_zero), ("reptile", infinite_weight), ("reptile", masked_as_on_a_gpu)])
def test_updates_that_are_not_finite_never_reach_the_slow_weights(tiny_scenes, tiny_sphere,
                                                                  algorithm, spoil):
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--meta_algorithm", algorithm,
                         "--meta_batch_size", 2)
    before, make = clones(trainer.slow), trainer.make_task
    spoiled = trainer.pool.entries[trainer.scene_of(0, 1)].outline.path.name

    def making(model, scene, generator, *, adjust):
        task = make(model, scene, generator, adjust=adjust)
        if scene.name == spoiled:
            spoil(model, task)
        return task

    trainer.make_task = making
    with pytest.raises(FloatingPointError, match=f"^scene {spoiled}: .*not finite"):
        trainer.train_step(0)
    assert differing(before, trainer.slow) == []
    assert trainer.adam is None or not trainer.adam.optimizer.state


def test_a_part_that_is_not_trained_keeps_its_start(tiny_scenes, tiny_sphere):
    for algorithm in ("reptile", "fomaml"):
        trainer = trainer_of(tiny_scenes, tiny_sphere, "--train_image_encoder", 0,
                             "--meta_algorithm", algorithm)
        before = clones(trainer.slow)
        trainer.train_step(0)
        moved = {name.split(".")[1] for name in differing(before, trainer.slow)}
        assert moved == set(NETWORKS) - {"encoder"}


def test_held_out_scenes_are_scored_before_and_after(meta_train, finished, tiny_scenes, tmp_path):
    tried = ["--meta_eval_path", tiny_scenes / "a_blobs", "--meta_eval_steps", 2,
             "--eval_steps", "0"]
    rows = final_state(meta_train("tried", *tried))["curve"]
    assert [row["step"] for row in rows if "start_psnr" in row] == [0, 2]
    assert all(5 < row[name] < 60 for row in rows if "psnr" in row
               for name in ("psnr", "start_psnr"))
    plain = final_state(finished)["task"]
    assert differing(plain, final_state(tmp_path / "tried")["task"]) == []


def test_pictures_show_the_start_and_what_it_adapts_to(tiny_scenes, tiny_sphere):
    """Pictures change nothing that is trained; the reference view is shown where it is trained on,
    and there are the losses of the last scene's inner steps."""
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--meta_eval_steps", 2)
    trainer.reference_view = 3
    assert set(trainer.pictures(0)) == {"adaptation"}
    trainer.train_step(0)
    before = clones(trainer.slow)
    found = trainer.pictures(1)
    assert set(found) == {"adaptation", "inner_losses"}
    assert all(picture.dtype.name == "uint8" and picture.std() > 5 for picture in found.values())
    assert differing(before, trainer.slow) == []
    scalars = trainer.scalars(1)
    assert scalars["rates/meta_lr_sdf"] < scalars["rates/meta_lr"]
    name, losses = trainer._inner
    assert name and len(losses) == 2 and "image" in losses[0]


def test_the_view_that_is_shown(tiny_scenes):
    config = meta_config_of(*flags_of("unused", tiny_scenes))
    scene = open_pool(config.data, config.meta)[0]
    assert scene.numbers == (0, 1, 3, 4, 5)               # view 2 is held out
    assert shown_index(scene, 3) == 2
    assert shown_index(scene, 2) == shown_index(scene, -1) == shown_index(scene, 99) == 2
    assert shown_index(scene, 5) == 4


@pytest.mark.parametrize("view, trial, is_told", [
    (3, "", False), (-1, "", False), (2, "", True), (99, "", True), (5, "", False),
    (5, "c_tori", True), (5, "a_blobs", False)])           # c_tori has four views
def test_a_reference_view_that_no_scene_trains_on_is_told(tiny_scenes, tiny_sphere, tmp_path,
                                                          caplog, view, trial, is_told):
    """Of the scenes that pictures show: held-out ones where there are any."""
    flags = ["--meta_eval_path", tiny_scenes / trial, "--meta_eval_steps", 1] if trial else []
    call("train_sdf_ibr_meta", *flags_of(tmp_path, tiny_scenes, *SHORT, "--num_steps", 0, *flags,
                                         "--reference_view", view, sphere=tiny_sphere))
    assert (f"--reference_view {view}: no scene trains on it" in caplog.text) == is_told


def test_a_view_is_rendered_before_and_after(tiny_scenes, tiny_sphere):
    trainer = trainer_of(tiny_scenes, tiny_sphere)
    scene = trainer.pool[0]
    task = trainer.make_task(trainer.model, scene, trainer.generator("x"))
    found = rendered_while_adapting(task, scene, 1, 3)
    assert found.label.endswith(f"view {scene.views.names[1]}")
    before, after = found.images
    assert before.shape == after.shape == found.photograph.shape
    assert (before != after).any() and task.psnr is not None
    torch.testing.assert_close(found.photograph, scene.views.images[1], rtol=0, atol=0)


def test_tasks_let_go_of_their_scenes(tiny_scenes, tiny_sphere):
    """A task that lived on would keep a scene that the pool has dropped."""
    trainer = trainer_of(tiny_scenes, tiny_sphere, "--meta_batch_size", 2,
                         "--meta_eval_steps", 1)
    config = meta_config_of(*flags_of("unused", tiny_scenes))
    trainer.trials = open_pool(config.data, config.meta, is_scored=True)
    tasks = []
    make = trainer.make_task

    def watched(*args, **options):
        task = make(*args, **options)
        tasks.append(weakref.ref(task))
        return task

    trainer.make_task = trainer.make_trial = watched
    gc.disable()
    try:
        trainer.train_step(0)
        assert [task() for task in tasks] == [None, None]
        trainer.score(1)
        assert len(tasks) == 5 and [task() for task in tasks[:4]] == [None] * 4
    finally:
        gc.enable()


def test_a_start_is_specialised(finished, tiny_scene, tmp_path):
    """Both our file and a checkpoint serve; step 0 of the curve is the start's own score."""
    flags = flags_of(tmp_path, tiny_scene, "--num_steps", 2, "--test_metrics", 1,
                     "--meta_initialization", finished / "meta_start.pth", name="special")
    call("test_sdf_ibr_meta", *flags)
    state = final_state(tmp_path / "special")
    assert state["step"] == 2 and (tmp_path / "special" / "report.html").is_file()
    assert [row["step"] for row in state["curve"]] == [0, 1, 2]
    assert all("psnr" in row for row in state["curve"])
    assert state["config"]["tracing"]["occ_threshold_steps"] == [3000, 8000]
    again = flags_of(tmp_path, tiny_scene, "--num_steps", 0, "--test_metrics", 1,
                     "--meta_initialization", finished / "checkpoints" / "step_000002.pth",
                     name="other")
    call("test_sdf_ibr_meta", *again)
    other = final_state(tmp_path / "other")
    assert other["curve"][0]["psnr"] == state["curve"][0]["psnr"]
    assert differing(other["task"]["model"],
                     load_checkpoint(finished / "checkpoints" / "step_000002.pth")["task"]["model"]
                     ) == []


def test_defaults_of_the_curve_are_the_releases_steps():
    config = parse_config(META_SECTIONS, ["--experiment_name", "x"], defaults=SPECIALISE_DEFAULTS)
    assert config.run.eval_steps == (0, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 125,
                                     200) and config.run.eval_interval == 100
    assert config.tracing.occ_threshold == config_of("--experiment_name",
                                                     "x").tracing.occ_threshold


class RunHere:
    """A process whose script has run in this one; `run_table.py` starts one for each run."""

    def __init__(self, command, **options):
        scripts = {"train": "train_sdf_ibr", "specialize": "test_sdf_ibr_meta"}
        call(scripts[command[2]], *command[3:])
        self.returncode = 0

    def poll(self):
        return self.returncode


def test_a_table_has_runs_from_scratch_and_from_the_start(finished, tiny_scene, tiny_sphere,
                                                          tmp_path, monkeypatch):
    """run_table.py runs both scripts and finds their results; as processes in test_tables.py."""
    monkeypatch.setattr(execution, "subprocess", SimpleNamespace(
        Popen=RunHere, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT))
    start_file = finished / "meta_start.pth"
    pairs = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    lines = [f"{flag[2:]} = {value}" for flag, value in pairs.items()]
    (tmp_path / "plain.txt").write_text("\n".join([*lines, f"checkpoint_sdf = {tiny_sphere}"]))
    (tmp_path / "learned.txt").write_text("\n".join([*lines, "meta_parts = features",
                                                     f"checkpoint_sdf = {tiny_sphere}"]))
    call("run_table", "--configs", tmp_path / "plain.txt", tmp_path / "learned.txt", "--scenes",
         tiny_scene, "--num_steps", 1, "--at_steps", 0, 1, "--meta_initialization", start_file,
         "--run_flags", "--device cpu", "--output", tmp_path / "table")
    rows = json.loads((tmp_path / "table" / "table.json").read_text())
    assert "1 of 1" in (tmp_path / "table" / "table.md").read_text()
    runs = {path.name: final_state(path) for path in (tmp_path / "table" / "runs").iterdir()
            if path.is_dir()}
    assert len(runs) == 2 and rows
    learned = next(state for name, state in runs.items() if name.startswith("learned"))
    assert learned["config"]["run"]["checkpoint_img_encoder"] == str(start_file)
    assert learned["config"]["run"]["checkpoint_sdf"] == str(tiny_sphere)
