"""Tests of utils/checkpoints/released_names.py."""
import pytest
from support import golden_files

from modules import AggregationMLP, SdfArchitecture
from modules_sdf import build_sdf
from modules_unet import FeatureDecoder, ImageEncoder
from utils.checkpoints.released_names import is_release_key, read_release_names


def own_shapes(network):
    """Names and shapes of a network's state."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def networks_of(name):
    """Our networks that a kind of release file fits."""
    kind = "residual" if name == "pretrain_standard" else "plain"
    convolution = "partial" if name == "pretrain_partial" else "standard"
    networks = {"encoder": ImageEncoder(kind=kind, convolution=convolution),
                "decoder": FeatureDecoder(convolution=convolution)}
    if not name.startswith("pretrain"):
        width = 256 if name.endswith("nlr") else 128
        networks["sdf"] = build_sdf(SdfArchitecture(hidden_dims=width))
        networks["aggregation"] = AggregationMLP()
    return networks


@pytest.mark.parametrize("name", golden_files.LAYOUTS)
def test_every_kind_of_release_file_fits_our_networks(name):
    theirs = golden_files.layout(name)
    names = read_release_names(theirs)
    networks = networks_of(name)
    assert names.unknown == ()
    assert names.encoder_kind == networks["encoder"].kind
    assert set(names.networks) == set(networks)
    for network, module in networks.items():
        mapped = {own: theirs[key] for own, key in names.networks[network].items()}
        assert mapped == own_shapes(module)
    used = [key for mapping in names.networks.values() for key in mapping.values()]
    left = set(theirs) - set(used)
    assert len(used) == len(set(used)) and left <= {"ray_builder.model_matrix"}


@golden_files.needs_golden
@pytest.mark.parametrize("name", golden_files.LAYOUTS)
def test_excerpt_has_the_names_of_the_full_files(name):
    assert golden_files.layout(name) == golden_files.full_layout(name)


def test_names_that_the_release_does_not_have_are_reported():
    names = read_release_names(["dec_net.encs.3.weight", "module.weight", "agg_net.net.0.0.bias"])
    assert names.unknown == ("dec_net.encs.3.weight", "module.weight")
    assert names.networks == {"aggregation": {"layers.0.bias": "agg_net.net.0.0.bias"}}
    assert names.encoder_kind is None


def test_release_keys_are_told_from_ours():
    assert is_release_key("hypo_module.enc_net.encs.0.weight")
    assert is_release_key("decoder_sdf.net.net.0.0.weight")
    assert not is_release_key("encoder.down.conv1.weight")
