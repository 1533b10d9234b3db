"""Each script reads each checkpoint that it starts from once."""
from __future__ import annotations

import shutil

import pytest
from support.opened_files import count_opened
from support.tiny_runs import call, flags_of

from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.weights import save_networks


@pytest.fixture(scope="module")
def trained(tiny_scene, tiny_sphere, tmp_path_factory):
    """A run of two steps."""
    root = tmp_path_factory.mktemp("trained")
    call("train_sdf_ibr", *flags_of(root, tiny_scene, "--num_steps", 2, sphere=tiny_sphere))
    return root / "run"


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the run to work on; its folder is tmp_path/run."""
    return shutil.copytree(trained, tmp_path / "run")


def test_an_evaluation_reads_the_latest_checkpoint_once(copy, tiny_scene, tmp_path, monkeypatch):
    counts = count_opened(monkeypatch)
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene))
    assert counts == {"step_000002.pth": 1}


def test_an_evaluation_reads_the_named_file_once(copy, tiny_scene, tmp_path, monkeypatch):
    """The run's own checkpoints, which it does not need, are not looked at."""
    named = (copy / "checkpoints" / "step_000002.pth").rename(tmp_path / "named.pth")
    (copy / "checkpoints" / "step_000003.pth").write_bytes(b"damaged")
    counts = count_opened(monkeypatch)
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--checkpoint_path_test", named))
    assert counts == {"named.pth": 1}


def test_a_resumed_run_reads_its_checkpoint_once(copy, tiny_scene, tiny_sphere, tmp_path,
                                                 monkeypatch):
    counts = count_opened(monkeypatch)
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 3, sphere=tiny_sphere))
    assert counts == {"step_000002.pth": 1, tiny_sphere.name: 1}


@pytest.mark.parametrize("flag", ["--checkpoint_path", "--checkpoint_img_encoder"])
def test_initial_weights_are_read_once(trained, tiny_scene, tmp_path, monkeypatch, flag):
    whole = shutil.copy(trained / "checkpoints" / "step_000002.pth", tmp_path / "whole.pth")
    counts = count_opened(monkeypatch)
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 1, flag, whole))
    assert counts == {"whole.pth": 1}


def test_a_meta_learned_start_is_read_once(trained, tiny_scene, tiny_scenes, tiny_sphere, tmp_path,
                                           monkeypatch):
    """By the script that specialises it, beside a sphere of its own, and by meta-training."""
    whole = shutil.copy(trained / "checkpoints" / "step_000002.pth", tmp_path / "start.pth")
    counts = count_opened(monkeypatch)
    call("test_sdf_ibr_meta", *flags_of(tmp_path, tiny_scene, "--num_steps", 1,
                                        "--meta_initialization", whole, sphere=tiny_sphere))
    assert counts == {"start.pth": 1, tiny_sphere.name: 1}
    counts.clear()
    call("train_sdf_ibr_meta", *flags_of(tmp_path, tiny_scenes, "--num_steps", 1,
                                         "--num_meta_steps", 1, "--load_pcd", 0,
                                         "--meta_initialization", whole, name="meta"))
    assert counts == {"start.pth": 1}


def test_pretraining_reads_encoder_and_decoder_once(tmp_path, monkeypatch):
    from support.tiny_runs import config_of

    from stages.models import build_image_networks
    config = config_of("--experiment_name", "x", "--model_image_encoder_depth", 1)
    model = build_image_networks(config.cnn, config.run, convolution="standard")
    path = tmp_path / "encdec.pth"
    save_networks(path, **{name: getattr(model, name) for name in NETWORKS
                           if hasattr(model, name)})
    counts = count_opened(monkeypatch)
    flags = ("--crop_size 24x16 --precision fp32 --model_image_encoder_depth 1 --num_threads 1 "
             "--batch_size 2 --steps_til_pictures 0 --device cpu --steps_til_ckpt 1 "
             "--experiment_name pairs").split()
    call("pretrain_features", "--logging_root", tmp_path, *flags, "--num_steps", 1,
         "--checkpoint_img_encoder", path)
    assert counts == {"encdec.pth": 1}
    counts.clear()
    call("pretrain_features", "--logging_root", tmp_path, *flags, "--num_steps", 2)
    assert counts == {"step_000001.pth": 1}
