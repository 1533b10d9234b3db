"""Which networks a file holds, ours at any depth and the release's by their names."""
from __future__ import annotations

import pytest
import torch
from support.network_files import Four, file_of, release_file

from modules import AggregationMLP, SdfArchitecture
from modules_sdf import build_sdf
from modules_unet import FeatureDecoder, ImageEncoder
from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.networks import NETWORKS, networks_in
from utils.checkpoints.storage import save_checkpoint
from utils.errors import CheckpointError


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"model": state},
    lambda state: {"task": {"model": state, "optimizer": {}}, "step": 3},
])
def test_our_checkpoints_are_read_at_any_depth(tmp_path, wrap):
    model = Four(3.0)
    save_checkpoint(tmp_path / "a.pth", wrap(model.state_dict()))
    stored = open_checkpoint(tmp_path / "a.pth").networks
    assert set(stored.tensors) == set(NETWORKS)
    assert torch.equal(stored.tensors["encoder"]["weight"], model.encoder.weight)


def test_saved_networks_are_read_again(tmp_path):
    file_of(tmp_path / "two.pth", sdf=1, decoder=2)
    stored = open_checkpoint(tmp_path / "two.pth").networks
    assert {name: state["weight"][0, 0].item() for name, state in stored.tensors.items()} \
        == {"sdf": 1, "decoder": 2}


@pytest.mark.parametrize("layout, kind", [("sdfibrnet_dtu", "plain"), ("reptile_dtu", "plain"),
                                          ("pretrain_standard", "residual")])
def test_release_files_are_read_by_their_names(tmp_path, layout, kind):
    networks = {"encoder": ImageEncoder(kind=kind), "decoder": FeatureDecoder(),
                "sdf": build_sdf(SdfArchitecture(hidden_dims=128)),
                "aggregation": AggregationMLP()}
    stored = open_checkpoint(release_file(tmp_path / "release.pth", layout, networks)).networks
    assert stored.encoder_kind == kind and stored.unknown == ()
    for name, state in stored.tensors.items():
        own = networks[name].state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(state[key], own[key]) for key in own)


@pytest.mark.parametrize("content, words", [
    ({"weights": torch.ones(1), "epoch": 3}, ["found epoch, weights", "sdf", "training run"]),
    ({}, ["found", "needed tensors"]),
])
def test_files_without_networks_say_what_they_hold(tmp_path, content, words):
    save_checkpoint(tmp_path / "odd.pth", content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "odd.pth").networks
    assert all(word in str(caught.value) for word in ["odd.pth", *words])


def test_names_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="odd.pth: sdf has a tensor named 3, needed text"):
        networks_in({"sdf": {3: torch.ones(1)}}, tmp_path / "odd.pth")


@pytest.mark.parametrize("convolution", ["standard", "partial"])
def test_convolutions_are_told_by_their_biases(tmp_path, convolution):
    path = tmp_path / "both.pth"
    save_checkpoint(path, {"encoder": ImageEncoder(convolution=convolution).state_dict(),
                           "decoder": FeatureDecoder(convolution=convolution).state_dict()})
    stored = open_checkpoint(path).networks
    assert {stored.convolution_of(name) for name in stored.tensors} == {convolution}
    assert stored.convolution_of("sdf") is None
