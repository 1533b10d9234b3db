"""The scripts of pre-training: two steps, from another folder, on two processes, on bad input."""
from __future__ import annotations

import csv
import json

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from support.flow_cases import write_flyingchairs2
from support.tiny_runs import (
    ROOT,
    SCRIPTS,
    call,
    call_as_user,
    config_of,
    differing,
    final_state,
    start,
    start_as_ranks,
)

from data_processing.flow.pairs import FolderPairs
from stages import pretraining
from stages.models import build_model
from utils.checkpoints.storage import load_checkpoint

SMALL = ("--crop_size 24x16 --precision fp32 --model_image_encoder_depth 1 --num_threads 1 "
         "--steps_til_pictures 0 --device cpu").split()

#: Rank 1 sees another folder than rank 0, and ends in step 2 as if it was killed.
LOST = """
import json, os, sys
sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "tests")]
from stages import pretraining
from support.tiny_runs import call_as_user

inner, rank = pretraining.PairTrainer.shared_step, int(os.environ["RANK"])

def dying(self, step):
    if rank == 1 and step == 2:
        os._exit(9)
    return inner(self, step)

pretraining.NUM_SYNTHETIC_SCORED, pretraining.PairTrainer.shared_step = 1, dying
root = ["--logging_root", sys.argv[3] if rank == 0 else "elsewhere"]
call_as_user("pretrain_features", *root, *json.loads(sys.argv[2]))
"""


def pretrain(root, *flags):
    call("pretrain_features", "--logging_root", root, "--experiment_name", "run", *SMALL, *flags)
    return root / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs that were made by the script."""
    folder = tmp_path_factory.mktemp("pairs") / "train"
    call("make_flow_pairs", "--output", folder, "--num_pairs", 3, "--resolution", "30x20")
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The release's command, two steps, from a folder that is not the project's."""
    root = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        call("pretrain_features", "--experiment_name", "run", "--batch_size", 2,
             "--dataset_path", folder, *SMALL, "--num_steps", 2, "--eval_path", folder)
    return root / "logs" / "run"


def test_made_folders_are_named_as_flyingchairs2(folder):
    assert len(FolderPairs(folder)) == 3
    assert {path.name.split("-")[1] for path in folder.glob("0000002-*")} == {
        "img_0.png", "img_1.png", "flow_01.flo", "flow_10.flo", "occ_01.png", "occ_10.png",
        "occ_weights_01.pfm", "occ_weights_10.pfm"}


def test_a_run_leaves_weights_metrics_curve_and_pictures(finished):
    assert {path.name for path in finished.iterdir()} == {
        "config.txt", "train.log", "checkpoints", "summaries", "encdec.pth", "metrics.json",
        "curve.csv", "pictures"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["steps"] == 2 and set(metrics["pairs"]) == {f"{i:07d}" for i in range(3)}
    assert set(metrics["before"]) == set(metrics["mean"])
    assert metrics["before"] != metrics["mean"]
    with open(finished / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["psnr_warped"]) == pytest.approx(metrics["mean"]["psnr_warped"])
    assert imageio.imread(finished / "pictures" / "pairs.png").std() > 5


def test_the_weights_start_a_scenes_model(finished):
    path = finished / "encdec.pth"
    config = config_of("--experiment_name", "x", "--checkpoint_img_encoder", path,
                       "--model_image_encoder_depth", 1, "--model_hidden_dims_sdf", 16,
                       "--model_hidden_layers_sdf", 1)
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    stored = load_checkpoint(path)
    for name in ("encoder", "decoder"):
        assert differing(dict(getattr(model, name).state_dict()), stored[name]) == []


def test_pretraining_goes_on_from_weights_of_an_earlier_one(finished, tmp_path):
    run = pretrain(tmp_path, "--num_steps", 0, "--checkpoint_img_encoder",
                   finished / "encdec.pth", "--batch_size", 2)
    assert differing(load_checkpoint(run / "encdec.pth"),
                     load_checkpoint(finished / "encdec.pth")) == []


@pytest.mark.long
def test_two_processes_do_what_one_does(tmp_path, monkeypatch):
    """The same two micro-batches a step, to rounding.

    Sums in another order differ by rounding, which Adam amplifies: its steps are of the size of
    the learning rate even where a gradient is next to nothing.
    """
    monkeypatch.setattr(pretraining, "NUM_SYNTHETIC_SCORED", 1)
    flags = [*SMALL, "--batch_size", 4, "--num_steps", 2, "--lr", 1e-4,
             "--lr_warmup_steps", 0]
    ended = start("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2,
                  SCRIPTS / "pretrain_features.py", "--logging_root", tmp_path / "two",
                  "--experiment_name", "run", *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("written:") == 1 and ended.stderr.count("seed 0, cpu") == 1
    one = pretrain(tmp_path / "one", *flags, "--num_micro_batches", 2)
    assert_nearly_the_same(final_state(one), final_state(tmp_path / "two" / "run"))


def assert_nearly_the_same(one, two):
    """Two states after two steps of 1e-4."""
    for name, value in one["task"]["model"].items():
        if value.is_floating_point():
            difference = (value - two["task"]["model"][name]).abs()
            assert difference.max() <= 4.1e-4, name       # two steps, apart in opposite ways
            assert difference.mean() < 1e-6, name
    means = [state["task"]["optimizer"]["state"][0]["exp_avg"] for state in (one, two)]
    torch.testing.assert_close(*means, rtol=1e-3, atol=1e-7)


@pytest.mark.long
def test_one_process_two_of_which_one_is_lost_and_one_again(tmp_path, monkeypatch):
    """A run resumes with its number of micro-batches on any number of processes.

    Not all of them need see its folder; a lost one is named.
    """
    monkeypatch.setattr(pretraining, "NUM_SYNTHETIC_SCORED", 1)
    flags = [*SMALL, "--batch_size", 4, "--lr", 1e-4, "--lr_warmup_steps", 0,
             "--experiment_name", "run"]
    whole = pretrain(tmp_path / "whole", *flags, "--num_steps", 2, "--num_micro_batches", 2)
    pretrain(tmp_path / "parts", *flags, "--num_steps", 1, "--num_micro_batches", 2)
    several = [str(flag) for flag in (*flags, "--num_steps", 3, "--steps_til_ckpt", 1)]
    ended = start_as_ranks("-c", LOST, ROOT, json.dumps(several), tmp_path / "parts", cwd=tmp_path)
    assert [code for code, _ in ended] == [2, 9], ended
    assert "error: rank 1 of 2 is gone" in ended[0][1] and "Traceback" not in ended[0][1]
    state = final_state(tmp_path / "parts" / "run")
    assert (state["step"], state["task"]["micro"]) == (2, 2)
    assert_nearly_the_same(final_state(whole), state)
    state = final_state(pretrain(tmp_path / "parts", *flags, "--num_steps", 3))
    assert (state["step"], state["task"]["micro"]) == (3, 2)


def fails(capsys, script, *flags):
    """The one line that a script fails with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call_as_user(script, *flags)
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    assert caught.value.code == 2 and len(told) == 1 and "Traceback" not in "".join(lines)
    return told[0]


@pytest.mark.parametrize("flags, words", [
    (["--dataset_path", "{tmp}/nowhere"], ["nowhere", "need a folder"]),
    (["--dataset_path", "{tmp}"], ["no image pairs", "did you mean"]),
    (["--dataset_path", "{tmp}/pairs", "--crop_size", "64x64"], ["0000000 is 30x20", "64x64"]),
    (["--dataset_path", "{tmp}/pairs", "--crop_size", "64x64", "--num_workers", 1],
     ["0000000 is 30x20", "--crop_size 30x20"]),
    (["--eval_path", "{tmp}/nowhere"], ["nowhere"]),
    (["--crop_size", "8x8"], ["8x8", "at least 16", "--crop_size"]),
    (["--num_micro_batches", 5], ["micro-batches"]),
    (["--pictures", "{tmp}/nowhere"], ["no folder", "--pictures"]),
    (["--convolution_type", "dense"], ["convolution_type", "standard|partial|meta"]),
])
def test_bad_input_is_one_line(tmp_path, capsys, flags, words):
    write_flyingchairs2(tmp_path / "pairs", 1, (30, 20))
    flags = [str(flag).format(tmp=tmp_path) for flag in flags]
    told = fails(capsys, "pretrain_features", "--logging_root", tmp_path / "logs",
                 "--experiment_name", "run", *SMALL, "--batch_size", 2, "--num_steps", 1, *flags)
    assert all(word in told for word in words), told


def test_a_folder_of_pairs_needs_a_name_and_a_size(tmp_path, capsys):
    assert "--output is missing" in fails(capsys, "make_flow_pairs")
    told = fails(capsys, "make_flow_pairs", "--output", tmp_path / "a", "--resolution", "big")
    assert "--resolution is 'big'" in told and not (tmp_path / "a").exists()
    told = fails(capsys, "make_flow_pairs", "--output", tmp_path / "a", "--resolution", "9x9")
    assert "at least 16" in told


def test_pictures_are_used(tmp_path):
    imageio.imwrite(tmp_path / "red.png", np.full((40, 40, 3), (200, 20, 20), np.uint8))
    call("make_flow_pairs", "--output", tmp_path / "pairs", "--num_pairs", 1, "--resolution",
         "24x18", "--pictures", tmp_path)
    image = imageio.imread(tmp_path / "pairs" / "0000000-img_0.png")
    assert (image == (200, 20, 20)).all()
