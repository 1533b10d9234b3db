"""Networks by the flags: the random weights that they begin with."""
from __future__ import annotations

import math

import pytest
import torch
from support.tiny_runs import config_of

from modules_unet import ImageEncoder
from stages.models import build_image_networks, build_model
from utils.checkpoints.weights import save_networks

NARROW = ["--experiment_name", "x", "--model_hidden_dims_sdf", 8, "--model_hidden_layers_sdf", 1]


def model_with(*flags):
    """The model of the flags; the same draws each time."""
    torch.manual_seed(3)
    config = config_of(*NARROW, "--precision", "fp32", *flags)
    return build_model(config.sdf, config.cnn, config.views, config.run)


def is_widened(name):
    return name.startswith(("encoder.skips.", "encoder.ups."))


def test_he_widens_the_skips_and_ups_of_the_encoder_and_nothing_else():
    plain, wide = (model_with("--encoder_init", name).state_dict() for name in ("torch", "he"))
    assert plain.keys() == wide.keys() and any(map(is_widened, plain))
    for name, value in plain.items():
        if not is_widened(name):
            assert torch.equal(wide[name], value), name
        elif name.endswith(".bias"):
            assert not wide[name].any()
        else:
            torch.testing.assert_close(wide[name], value * math.sqrt(6))
            inputs = value[0].numel()                      # uniform: variance 2 / n of the bound
            bound = math.sqrt(6 / inputs)
            assert 0.95 * bound < float(wide[name].abs().max()) <= bound * (1 + 1e-6), name


def test_the_default_is_pytorchs():
    one, other = model_with().state_dict(), model_with("--encoder_init", "torch").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("convolution", ["standard", "partial"])
def test_pretraining_begins_so_too(convolution):
    found = []
    for name in ("torch", "he"):
        torch.manual_seed(3)
        config = config_of(*NARROW, "--encoder_init", name)
        model = build_image_networks(config.cnn, config.run, convolution=convolution)
        found.append(model.encoder.ups[-1][0].weight)
    torch.testing.assert_close(found[1], found[0] * math.sqrt(6))


def test_features_are_as_wide_as_photographs_and_outweigh_a_first_step():
    """A step of Adam moves each weight by the rate, all of a filter perhaps the same way: inputs
    are not negative. PyTorch's features lie within two such steps of 0, He's do not."""
    photographs = torch.rand(4, 3, 24, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for name, is_wide in (("torch", False), ("he", True)):
        encoder = model_with("--encoder_init", name).encoder
        stored = {}
        encoder.ups[-1][0].register_forward_hook(
            lambda _, inputs, output, kept=stored: kept.update(inputs=inputs[0], output=output))
        with torch.no_grad():
            encoder(photographs)
        step = 5e-4 * 9 * float(stored["inputs"].sum(1).mean())
        spread = float(stored["output"].std((0, 2, 3)).median())
        assert (spread > 2 * step) == is_wide, (name, spread, step)


def test_weights_of_a_file_win(tmp_path):
    torch.manual_seed(0)
    encoder = ImageEncoder(kind="plain")
    save_networks(tmp_path / "e.pth", encoder=encoder)
    found = model_with("--encoder_init", "he", "--checkpoint_img_encoder", tmp_path / "e.pth")
    assert torch.equal(found.encoder.ups[-1][0].weight, encoder.ups[-1][0].weight)
