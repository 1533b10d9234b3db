"""Release files from flag to picture: what they hold is found, placed, and computes the same."""
from __future__ import annotations

import json
import logging

import pytest
import torch
from support import golden_files
from support.tiny_runs import SMALL, call, config_of, flags_of

from modules import AggregationMLP, PointEncoding, SdfArchitecture
from modules_sdf import build_sdf
from modules_unet import FeatureDecoder, ImageEncoder
from stages.models import build_model
from utils.checkpoints.released_names import META_PREFIX, read_release_names
from utils.checkpoints.weights import initial_weights, with_meta_start
from utils.config.parser import META_SECTIONS, parse_config
from utils.config.values import losses_of
from utils.errors import CheckpointError, ConfigError

GOLDEN_TOLERANCE = 1e-5
FLAGS = ["--experiment_name", "x", "--precision", "fp32", "--device", "cpu", "--feature_vector", 0]


def meta_config(*flags):
    """A configuration of a specialisation."""
    return parse_config(META_SECTIONS, [str(flag) for flag in (*FLAGS, *flags)])


def model_of(config, initial=None):
    """The model of a configuration."""
    return build_model(config.sdf, config.cnn, config.views, config.run, initial=initial)


def release_layer_names(names):
    """The release's names of the networks' tensors, from those of the recorded layout."""
    return read_release_names(names).networks


def release_state_of(networks, layout):
    """Our networks' tensors by the release's names.

    The layout's SDF is deeper than tests can afford: its names are those of the first layers.
    """
    named = release_layer_names(golden_files.layout(layout))
    return {named[network][own]: value for network, module in networks.items()
            for own, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def networks():
    """Random networks; the SDF is a small one."""
    torch.manual_seed(0)
    return {"sdf": build_sdf(SdfArchitecture(hidden_dims=16, hidden_layers=1)),
            "encoder": ImageEncoder(kind="plain"), "decoder": FeatureDecoder(),
            "aggregation": AggregationMLP()}


@pytest.fixture
def release_path(networks, tmp_path):
    """A file of the release, with the state of a scene beside the networks."""
    state = release_state_of(networks, "sdfibrnet_dtu")
    torch.save(state | {"ray_builder.model_matrix": torch.eye(4)}, tmp_path / "release.pth")
    return tmp_path / "release.pth"


@pytest.fixture
def meta_path(networks, tmp_path):
    """A meta-learned file of the release."""
    torch.save(release_state_of(networks, "reptile_dtu"), tmp_path / "meta.pth")
    return tmp_path / "meta.pth"


def taken(model, networks):
    """Names of the networks that a model has from them."""
    return {name for name, network in networks.items()
            if all(torch.equal(value, getattr(model, name).state_dict().get(key, torch.empty(0)))
                   for key, value in network.state_dict().items())}


def check_golden(model):
    """All recorded outputs of the release's random networks."""
    def close(found, recorded):
        torch.testing.assert_close(found, recorded, rtol=0, atol=GOLDEN_TOLERANCE)

    encoder = golden_files.arrays("enc_net")
    image = (encoder["image_m11"] + 1) / 2                       # the model takes [0, 1]
    close(model.eval().encode(image), encoder["out_eval"])
    close(model.train().encode(image), encoder["out_train"])
    norms = {key: value for key, value in encoder.items() if key.startswith("after_train.")}
    names = {theirs: own for own, theirs in
             release_layer_names(golden_files.layout("sdfibrnet_dtu"))["encoder"].items()}
    state = model.encoder.state_dict()
    assert len(norms) >= 18                                      # mean, variance of nine norms
    for key, value in norms.items():
        close(state[names[key.removeprefix("after_train.")]].to(value.dtype), value)
    decoder, rows = golden_files.arrays("dec_net"), golden_files.arrays("agg_net")
    close(model.decode(decoder["features"]), decoder["out"])
    close(model.aggregation(rows["inp"][..., :16], rows["inp"][..., 16:])[..., None], rows["out"])
    points = golden_files.arrays("decoder_sdf")
    values, slopes = model.sdf.value_and_gradient(points["coords"])
    close(values[..., None], points["sdf"])
    close(slopes, points["grad"])


@golden_files.needs_golden
def test_the_random_file_gives_the_recorded_outputs_by_its_flag():
    model = model_of(config_of(*FLAGS, "--checkpoint_path",
                               golden_files.FOLDER / "random_dtu_seed0.pth", "--init_sphere", 1))
    assert model.encoder.kind == "plain"
    check_golden(model)


@golden_files.needs_golden
def test_the_random_file_as_a_meta_learned_one_gives_them_too(tmp_path):
    state = {META_PREFIX + key: value for key, value in golden_files.release_state().items()
             if not key.startswith("ray_builder.")}
    assert set(state) == set(golden_files.layout("reptile_dtu"))
    torch.save(state, tmp_path / "meta.pth")
    flags = ["--meta_initialization", tmp_path / "meta.pth"]
    check_golden(model_of(*with_meta_start(meta_config(*flags))))


@pytest.mark.parametrize("flag", ["--checkpoint_path", "--meta_initialization"])
def test_whole_files_fill_the_model_and_choose_the_plain_trunk(release_path, meta_path, networks,
                                                               flag):
    path = meta_path if flag == "--meta_initialization" else release_path
    config = meta_config(*SMALL, flag, path, "--resnet_weights", "")
    model = model_of(*with_meta_start(config)) if flag == "--meta_initialization" \
        else model_of(config)
    assert model.encoder.kind == "plain" and taken(model, networks) == set(networks)


@pytest.mark.parametrize("layout, kind, convolution", [
    ("pretrain_standard", "residual", "standard"), ("pretrain_partial", "plain", "partial"),
    ("pretrain_meta", "plain", "standard")])
def test_pretrained_files_of_three_kinds_bring_encoder_and_decoder(tmp_path, layout, kind,
                                                                   convolution):
    torch.manual_seed(0)
    stored = {"encoder": ImageEncoder(kind=kind, convolution=convolution),
              "decoder": FeatureDecoder(convolution=convolution)}
    torch.save(release_state_of(stored, layout), tmp_path / "pretrained.pth")
    config = config_of(*FLAGS, *SMALL, "--checkpoint_img_encoder", tmp_path / "pretrained.pth")
    model = model_of(config)
    assert model.encoder.kind == kind and taken(model, stored) == set(stored)
    images = torch.rand(2, 3, 12, 16)
    expected = stored["encoder"].eval()(images * 2 - 1)
    assert torch.equal(model.eval().encode(images), expected)
    assert torch.equal(model.decode(expected), stored["decoder"](expected))


@pytest.mark.parametrize("parts, expected", [
    ("all", {"sdf", "encoder", "decoder", "aggregation"}), ("sdf", {"sdf"}),
    ("features", {"encoder", "decoder", "aggregation"})])
def test_parts_of_a_meta_learned_start(meta_path, networks, tiny_sphere, parts, expected):
    flags = [*SMALL, "--meta_initialization", meta_path, "--meta_parts", parts]
    if "sdf" not in expected:
        flags += ["--checkpoint_sdf", tiny_sphere]
    torch.manual_seed(1)
    model = model_of(*with_meta_start(meta_config(*flags)))
    assert taken(model, networks) == expected


def test_the_flag_of_one_network_wins_over_the_meta_learned_start(meta_path, release_path,
                                                                  tiny_sphere):
    config = meta_config("--meta_initialization", meta_path, "--checkpoint_sdf", tiny_sphere,
                         "--checkpoint_img_encoder", release_path, "--checkpoint_path", "whole")
    run = with_meta_start(config)[0].run
    assert (run.checkpoint_sdf, run.checkpoint_img_encoder) == (str(tiny_sphere),
                                                                str(release_path))
    assert run.checkpoint_aggregation_mlp == str(meta_path)
    assert run.checkpoint_img_decoder == ""           # comes with the encoder's file
    assert run.checkpoint_path == "whole"


def test_a_meta_learned_start_must_be_named_and_hold_networks(tmp_path):
    with pytest.raises(ConfigError, match="--meta_initialization is missing"):
        with_meta_start(meta_config())
    torch.save({"weights": torch.ones(1)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="odd.pth.*found weights"):
        with_meta_start(meta_config("--meta_initialization", tmp_path / "odd.pth"))


def test_networks_that_nobody_uses_are_left_out(release_path, networks, caplog):
    """Such as the colours in the released spheres; the log names them."""
    sphere = {key: value for key, value in torch.load(release_path, weights_only=True).items()
              if key.startswith("decoder_sdf.")}
    torch.save(sphere | {f"decoder_color.net.{layer}.{kind}": torch.ones(2) for layer in range(5)
                         for kind in ("weight", "bias")}, release_path)
    model = model_of(config_of(*FLAGS, *SMALL, "--checkpoint_sdf", release_path))
    assert "sdf" in taken(model, networks)
    assert "decoder_color.net.0.weight" in caplog.text and "they are left out" in caplog.text


def test_tensors_without_a_place_are_listed(release_path, caplog):
    key = "enc_net.encs.99.weight"
    torch.save(torch.load(release_path, weights_only=True) | {key: torch.ones(2)}, release_path)
    flags = [*FLAGS, *SMALL, "--checkpoint_path", release_path]
    with pytest.raises(CheckpointError, match=f"belong to no network: {key}.*checkpoint_strict 0"):
        model_of(config_of(*flags))
    model_of(config_of(*flags, "--checkpoint_strict", 0))
    assert f"{key}; they are left out" in caplog.text


def test_places_left_empty_are_listed(release_path, networks, caplog):
    state = torch.load(release_path, weights_only=True)
    gone = ["decoder_sdf.net.net.1.0.bias", "dec_net.out_conv.weight"]
    torch.save({key: value for key, value in state.items() if key not in gone}, release_path)
    flags = [*FLAGS, *SMALL, "--checkpoint_path", release_path]
    with pytest.raises(CheckpointError, match="sdf.*missing: layers.1.bias"):
        model_of(config_of(*flags))
    model = model_of(config_of(*flags, "--checkpoint_strict", 0))
    assert taken(model, networks) == {"encoder", "aggregation"}
    assert torch.equal(model.decoder.down.stages[0][0].weight,
                       networks["decoder"].down.stages[0][0].weight)
    assert "missing: out.weight" in caplog.text


def test_many_differences_are_all_in_the_log(networks, tmp_path, caplog):
    encoder = release_state_of({"encoder": networks["encoder"]}, "sdfibrnet_dtu")
    torch.save({key: value for key, value in encoder.items() if ".encs." in key},
               tmp_path / "half.pth")
    config = config_of(*FLAGS, *SMALL, "--checkpoint_img_encoder", tmp_path / "half.pth")
    caplog.set_level(logging.WARNING)
    with pytest.raises(CheckpointError, match="missing: .* and [0-9]+ more"):
        model_of(config)
    lost = [name for name in networks["encoder"].state_dict() if name.startswith(("skips", "ups"))]
    assert len(lost) > 8 and all(name in caplog.text for name in lost)


def test_plain_rgb_needs_no_encoder_in_the_file(tmp_path, tiny_sphere):
    flags = [*FLAGS, *SMALL, "--feature_type", "rgb", "--feature_aggregation_method", "lumigraph"]
    first = model_of(config_of(*flags, "--checkpoint_sdf", tiny_sphere))
    torch.save({"model": first.state_dict()}, tmp_path / "rgb.pth")
    config = config_of(*flags, "--checkpoint_path", tmp_path / "rgb.pth")
    assert torch.equal(model_of(config).sdf.layers[0].weight, first.sdf.layers[0].weight)


def test_networks_without_a_place_in_the_model_are_refused(release_path):
    config = config_of(*FLAGS, *SMALL, "--feature_type", "rgb")
    model = model_of(config)
    with pytest.raises(CheckpointError, match="encoder.*unexpected"):
        initial_weights(config_of(*FLAGS, "--checkpoint_img_encoder", release_path).run,
                        config.sdf).load_into(model)


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, {"task": 5}, {"model": torch.ones(3)}])
def test_files_of_other_content_are_one_line(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="odd.pth.*needed tensors"):
        model_of(config_of(*FLAGS, "--checkpoint_path", tmp_path / "odd.pth"))


def test_scripts_evaluate_and_train_a_release_file(release_path, tiny_scene, tmp_path):
    """The release's command of an evaluation, and a training that starts from the same file."""
    # a file that does not say its step is scored with the last threshold
    late = ["--occ_threshold", 1e-5, "--occ_threshold_steps", "none"]
    call("test_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--test_metrics", 1, "--load_model_poses",
                                   1, "--checkpoint_path_test", release_path, name="evaluated"))
    call("train_sdf_ibr", *flags_of(tmp_path, tiny_scene, "--num_steps", 1, "--test_metrics", 1,
                                    "--eval_steps", 0, "--checkpoint_path", release_path,
                                    "--average_decay", 0, *late, name="trained"))
    evaluated, trained = (json.loads((tmp_path / name / "metrics.json").read_text())
                          for name in ("evaluated", "trained"))
    assert (evaluated["steps"], trained["steps"]) == (0, 1)
    first = (tmp_path / "trained" / "curve.csv").read_text().splitlines()
    row = dict(zip(first[0].split(","), first[1].split(","), strict=True))
    assert row["step"] == "0" and evaluated["mean"]["mask_iou"] is not None
    assert float(row["psnr"]) == pytest.approx(evaluated["mean"]["psnr"], abs=1e-4)


def test_a_released_sdf_with_skip_and_fourier_features_finds_its_places():
    """Layers 0 and 1 lie under the skip; the release's numbered list counts them as one."""
    names = ["net.net.0.inner.0.0", "net.net.0.inner.1.0", "net.net.1.0", "net.net.2.0",
             "net.net.3.0"]
    keys = [f"decoder_sdf.{name}.{tensor}" for name in names for tensor in ("weight", "bias")]
    found = read_release_names([*keys, "decoder_sdf.positional_encoding.B"])
    assert not found.unknown
    ours = [f"layers.{index}.{tensor}" for index in range(5) for tensor in ("weight", "bias")]
    assert found.networks["sdf"] == {**dict(zip(ours, keys, strict=True)),
                                     "encoding.matrix": "decoder_sdf.positional_encoding.B"}
    own = build_sdf(SdfArchitecture(skips=((0, 2),), hidden_dims=16,
                                    encoding=PointEncoding("ff", 2)))
    assert set(own.state_dict()) == set(found.networks["sdf"])


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_relu_and_softplus_start_as_spheres_without_a_file(activation):
    """As the release, which initialises them analytically; the geometric initialisation is good to
    about 0.1 (see tests/method/test_modules.py)."""
    model = model_of(meta_config("--init_sphere", 1, "--model_activation_sdf", activation,
                                 "--feature_type", "rgb"))
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        error = (model.sdf(points) - (points.norm(dim=-1) - 0.5)).abs().mean()
    assert error < 0.3


def test_model_idr_weighs_the_eikonal_term_as_the_release():
    config = meta_config("--model", "idr", "--opt_sdf_eikonal_w", 3)
    assert losses_of(config.loss, config.sdf).opt_sdf_eikonal_w == 0.1
    for flags, weight in ((("--model", "deepsdf"), 3.0), ((), 3.0),
                          (("--model", "idr", "--opt_sdf_eikonal_w", 0), 0.0)):
        config = meta_config("--opt_sdf_eikonal_w", 3, *flags)
        assert losses_of(config.loss, config.sdf).opt_sdf_eikonal_w == weight
