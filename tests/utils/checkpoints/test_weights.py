"""The weights that a model starts from, by the flags; and the spheres that are shipped."""
from __future__ import annotations

import logging

import pytest
import torch
from support.network_files import Four, file_of, release_file
from support.tiny_runs import config_of

from modules import SdfArchitecture
from modules_sdf import build_sdf
from modules_unet import FeatureDecoder, ImageEncoder
from stages.models import build_model
from utils.checkpoints import weights
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.storage import load_checkpoint, save_checkpoint
from utils.checkpoints.weights import (
    NetworkFiles,
    checkpoint_to_evaluate,
    initial_weights,
    save_networks,
    save_sphere,
    sphere_asset,
    weight_files,
    whole_checkpoint,
)
from utils.errors import CheckpointError, ConfigError

NARROW = ["--experiment_name", "x", "--model_hidden_dims_sdf", 8, "--model_hidden_layers_sdf", 1]


def load(model, *flags):
    config = config_of("--experiment_name", "x", *flags)
    initial_weights(config.run, config.sdf).load_into(model)
    return model.values()


def same(module, other):
    one, two = module.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_encoder_and_decoder_of_a_release_pretraining_start_a_model(tmp_path):
    torch.manual_seed(1)
    networks = {"encoder": ImageEncoder(kind="residual"), "decoder": FeatureDecoder()}
    path = release_file(tmp_path / "pretrained.pth", "pretrain_standard", networks)
    config = config_of(*NARROW, "--checkpoint_img_encoder", path, "--precision", "fp32")
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    assert same(model.encoder, networks["encoder"]) and same(model.decoder, networks["decoder"])


def test_flags_of_one_network_win_over_the_whole_checkpoint(tmp_path):
    whole = file_of(tmp_path / "whole.pth", **dict.fromkeys(NETWORKS, 1))
    sdf, both = file_of(tmp_path / "sdf.pth", sdf=2), file_of(tmp_path / "e.pth", encoder=3,
                                                              decoder=4)
    aggregation = file_of(tmp_path / "g.pth", aggregation=5)
    found = load(Four(), "--checkpoint_path", whole, "--checkpoint_sdf", sdf,
                 "--checkpoint_img_encoder", both, "--checkpoint_aggregation_mlp", aggregation)
    assert found == {"sdf": 2, "encoder": 3, "decoder": 4, "aggregation": 5}
    decoder = file_of(tmp_path / "d.pth", decoder=6)
    found = load(Four(), "--checkpoint_path", whole, "--checkpoint_img_encoder", both,
                 "--checkpoint_img_decoder", decoder)
    assert found == {"sdf": 1, "encoder": 3, "decoder": 6, "aggregation": 1}


def test_an_encoder_file_without_decoder_leaves_the_decoder(tmp_path):
    run = config_of("--experiment_name", "x", "--checkpoint_img_encoder",
                    file_of(tmp_path / "e.pth", encoder=3)).run
    assert weight_files(run, NetworkFiles())["decoder"] == ""


def test_what_does_not_fit_is_refused_unless_not_strict(tmp_path, caplog):
    path = tmp_path / "wide.pth"
    save_networks(path, sdf=Four(7.0, size=5).sdf, encoder=Four(7.0).encoder)
    with pytest.raises(CheckpointError) as caught:
        load(Four(), "--checkpoint_path", path)
    assert all(word in str(caught.value) for word in (str(path), "sdf", "[1, 5] for [1, 2]"))
    with pytest.raises(CheckpointError, match="sdf.*0 of 1 tensors fit"):     # nothing at all fits
        load(Four(), "--checkpoint_path", path, "--checkpoint_strict", 0)
    only = file_of(tmp_path / "e.pth", encoder=3)
    with pytest.raises(CheckpointError, match="has no sdf; it has encoder"):
        load(Four(), "--checkpoint_path", only)
    caplog.set_level(logging.WARNING)
    found = load(Four(), "--checkpoint_path", only, "--checkpoint_strict", 0)
    assert found == {"sdf": 0, "encoder": 3, "aggregation": 0, "decoder": 0}
    assert sum("keeps its initial weights" in record.getMessage() for record in caplog.records) == 3


def test_not_strict_takes_the_tensors_that_fit(tmp_path, caplog):
    """A wider SDF shares no hidden weights, but its last bias fits."""
    wide, narrow = (build_sdf(SdfArchitecture(hidden_dims=width, hidden_layers=1))
                    for width in (16, 8))
    save_networks(tmp_path / "wide.pth", sdf=wide)
    config = config_of(*NARROW, "--checkpoint_sdf", tmp_path / "wide.pth",
                       "--checkpoint_strict", 0, "--precision", "fp32")
    model = build_model(config.sdf, config.cnn, config.views, config.run)
    last = [name for name in narrow.state_dict() if name.endswith("bias")][-1]
    assert torch.equal(model.sdf.state_dict()[last], wide.state_dict()[last])


@pytest.mark.parametrize("arrange", [
    lambda sdf, other: {"sdf": sdf, "encodr": other, "error": {"mean_error": 0.1}},
    lambda sdf, other: {"sdf.weight": sdf["weight"], "encodr.weight": other["weight"], "step": 3},
    lambda sdf, other: {"task": {"model": {"sdf": sdf, "encodr": other}, "optimizer": {}}},
    lambda sdf, other: {"sdf": sdf, "encodr.weight": other["weight"]},
])
def test_tensors_of_a_misspelt_network_are_named(tmp_path, arrange, caplog):
    model, path = Four(3.0), tmp_path / "misspelt.pth"
    save_checkpoint(path, arrange(model.sdf.state_dict(), model.encoder.state_dict()))
    assert open_checkpoint(path).networks.unknown == ("encodr.weight",)
    with pytest.raises(CheckpointError, match="encodr.weight.*--checkpoint_strict 0"):
        load(Four(), "--checkpoint_sdf", path)
    assert load(Four(), "--checkpoint_sdf", path, "--checkpoint_strict", 0)["sdf"] == 3
    assert "encodr.weight" in caplog.text


def test_encoder_kind_follows_flag_then_file_then_weights(tmp_path):
    def kind(*flags):
        config = config_of("--experiment_name", "x", *flags)
        return initial_weights(config.run).encoder_kind(config.cnn, "plain")

    path = tmp_path / "residual.pth"
    save_networks(path, encoder=ImageEncoder(kind="residual"))
    assert kind() == "plain"
    assert kind("--resnet_weights", "resnet18.pth") == "residual"
    assert kind("--checkpoint_path", path) == "residual"
    assert kind("--checkpoint_path", path, "--image_encoder", "plain") == "plain"
    save_networks(tmp_path / "plain.pth", encoder=ImageEncoder(kind="plain"))
    assert kind("--checkpoint_path", path, "--checkpoint_img_encoder",
                tmp_path / "plain.pth") == "plain"
    assert kind("--checkpoint_path", file_of(tmp_path / "sdf.pth", sdf=1)) == "plain"


def test_shallow_encoders_have_the_kind_of_the_flags(tmp_path):
    """Up to depth 2 both kinds have the same tensors, so that the file cannot tell."""
    path = tmp_path / "shallow.pth"
    save_networks(path, encoder=ImageEncoder(kind="residual", depth=2))
    assert open_checkpoint(path).networks.encoder_kind is None
    config = config_of("--experiment_name", "x", "--checkpoint_path", path,
                       "--resnet_weights", "resnet18.pth")
    assert initial_weights(config.run).encoder_kind(config.cnn, "plain") == "residual"


@pytest.mark.parametrize("width", [128, 256])
def test_the_sphere_is_shipped_for_the_widths_of_the_configs(width):
    config = config_of("--experiment_name", "x", "--model_hidden_dims_sdf", width)
    path = sphere_asset(config.sdf)
    if not path.is_file():
        pytest.skip(f"{path.name} is not made yet")
    sdf = build_sdf(SdfArchitecture(hidden_dims=width))
    sdf.load_state_dict(open_checkpoint(path).networks.tensors["sdf"])
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    points = points[points.norm(dim=-1) < 1]
    error = (sdf(points) - (points.norm(dim=-1) - 0.5)).abs()
    # The cusp at the centre is rounded off, hence the greater bound near it.
    assert error[points.norm(dim=-1) > 0.2].max() < 0.01 and error.max() < 0.06


def test_flags_without_a_sphere_say_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(Four(), "--init_sphere", 1, "--model_hidden_dims_sdf", 48)
    assert all(word in str(caught.value) for word in (
        "48", "configs/fit_sphere.txt", "--init_sphere 0", str(tmp_path)))
    file_of(sphere_asset(config_of("--experiment_name", "x").sdf), sdf=9)
    assert load(Four(), "--init_sphere", 1)["sdf"] == 9
    mine = file_of(tmp_path / "mine.pth", sdf=4)
    assert load(Four(), "--init_sphere", 1, "--checkpoint_sdf", mine)["sdf"] == 4


def test_assets_differ_by_architecture():
    def name(*flags):
        return sphere_asset(config_of("--experiment_name", "x", *flags).sdf).name

    names = {name(), name("--model_hidden_dims_sdf", 256), name("--model_hidden_layers_sdf", 4),
             name("--model_activation_sdf", "relu"), name("--posenc_sdf", "nerf"),
             name("--model_skips_sdf", "0,2"), name("--posenc_sdf", "nerf",
                                                     "--posenc_sdf_bands", 6)}
    assert len(names) == 7
    assert name("--model", "idr") == name()                # only a loss weighs other than in ours


def test_a_worse_sphere_does_not_replace_a_better_one(tmp_path, caplog):
    path = tmp_path / "sphere.pth"
    assert save_sphere(path, Four(1.0).sdf, {"mean_error": 0.1})
    assert not save_sphere(path, Four(2.0).sdf, {"mean_error": 0.2})
    assert "stays" in caplog.text
    assert open_checkpoint(path).networks.tensors["sdf"]["weight"][0, 0] == 1
    assert save_sphere(path, Four(3.0).sdf, {"mean_error": 0.05})
    assert open_checkpoint(path).networks.tensors["sdf"]["weight"][0, 0] == 3
    assert load_checkpoint(path)["error"] == {"mean_error": 0.05}


def test_an_evaluation_starts_from_its_checkpoint_alone(tmp_path):
    """Whatever else the flags name, files that are not there included."""
    path = file_of(tmp_path / "whole.pth", **dict.fromkeys(NETWORKS, 1))
    flags = ["--experiment_name", "x", "--checkpoint_sdf", "a", "--init_sphere", 1,
             "--checkpoint_img_encoder", "b", "--checkpoint_img_decoder", "c",
             "--checkpoint_aggregation_mlp", "d", "--checkpoint_path", "e"]
    config, model = config_of(*flags), Four()
    latest = open_checkpoint(path)
    assert checkpoint_to_evaluate(config, latest) is latest
    whole_checkpoint(latest, config.run).load_into(model)
    assert set(model.values().values()) == {1}
    with pytest.raises(CheckpointError, match="./logs/x.*--checkpoint_path_test"):
        checkpoint_to_evaluate(config, None)
    named = config_of(*flags, "--checkpoint_path_test", tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="nowhere.pth"):
        checkpoint_to_evaluate(named, latest)


def test_halved_weights_are_read_as_fp32_to_half_a_unit_of_11_bits(tmp_path):
    torch.manual_seed(0)
    sdf, encoder = build_sdf(SdfArchitecture(hidden_layers=1, hidden_dims=8)), ImageEncoder()
    encoder.train()(torch.rand(2, 3, 16, 16))              # batch statistics of its own
    for precision in ("fp32", "fp16"):
        save_networks(tmp_path / f"{precision}.pth", precision=precision, sdf=sdf, encoder=encoder)
    sizes = {name: (tmp_path / f"{name}.pth").stat().st_size for name in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.53 * sizes["fp32"]
    networks = open_checkpoint(tmp_path / "fp16.pth").networks
    read = ImageEncoder()
    weights.load_state(read, networks.tensors["encoder"], "encoder")
    for name, value in read.state_dict().items():
        wanted = encoder.state_dict()[name]
        assert value.dtype == wanted.dtype
        if value.ndim > 1:                                 # the second: numbers below fp16's normal
            torch.testing.assert_close(value, wanted, rtol=2**-11, atol=2**-25)
        else:
            assert torch.equal(value, wanted)
    assert all(torch.equal(value, sdf.state_dict()[name])
               for name, value in networks.tensors["sdf"].items())
