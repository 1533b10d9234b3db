"""Compiled networks against the networks themselves; what is missing for them is told."""
from __future__ import annotations

import copy
import importlib.util
import shutil

import pytest
import torch
from support.tiny_runs import call, config_of, flags_of
from torch import nn

from modules_unet import ImageEncoder
from stages import models
from stages.models import model_of
from stages.scene import open_run
from utils.errors import ConfigError, MissingExtraError
from utils.fast.image_networks.compiling import compile_networks, is_compiled
from utils.fast.image_networks.execution import FastExecution
from utils.views.regions import Region


def test_a_compiled_network_is_the_network():
    """Traced and differentiated as for a compiler, computed by torch's own kernels: rounding."""
    torch.manual_seed(0)
    plain = ImageEncoder(num_features=4, depth=1)
    compiled = copy.deepcopy(plain)
    compile_networks("cpu", compiled, backend="aot_eager")
    images = torch.rand(2, 3, 6, 8)
    found, expected = compiled(images), plain(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for result in (found, expected):
        result.square().sum().backward()
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert is_compiled(compiled) and not is_compiled(copy.deepcopy(compiled))


def test_a_compiled_network_computes_whole_maps():
    """Which is what is compiled; its regions would be those of the network itself."""
    network = nn.Conv2d(1, 1, 1)
    network.in_regions = lambda maps, regions: torch.zeros_like(maps)
    execution, maps = FastExecution(is_compact=True), torch.ones(1, 1, 4, 4)
    regions = [Region(0, 1, 0, 1, (4, 4))]
    assert not execution.run(network, maps, regions, is_training=True).any()
    network._compiled_call_impl = lambda maps: 2 * maps
    assert torch.equal(execution.run(network, maps, regions, is_training=True), 2 * maps)


@pytest.mark.parametrize("flag", [0, 1])
def test_the_flag_compiles_both_networks(tiny_scene, tiny_sphere, monkeypatch, flag):
    seen = []
    monkeypatch.setattr(models, "compile_networks", lambda *found: seen.append(found))
    config = config_of(*flags_of("unused", tiny_scene, "--compile_networks", flag,
                                 sphere=tiny_sphere))
    model = model_of(config, torch.device("cpu"))
    assert seen == ([(torch.device("cpu"), model.encoder, model.decoder)] if flag else [])


def test_a_run_is_evaluated_without_a_compiler(tiny_scene, tiny_sphere, tmp_path, monkeypatch):
    """Exports and viewers open it so, too, perhaps on another machine."""
    seen = []
    monkeypatch.setattr(models, "compile_networks", lambda *found: seen.append(found))
    flags = flags_of(tmp_path, tiny_scene, "--compile_networks", 1, "--num_steps", 0,
                     sphere=tiny_sphere)
    call("train_sdf_ibr", *flags)
    assert len(seen) == 1
    open_run(config_of(*flags))
    assert len(seen) == 1


def test_there_may_be_nothing_to_compile(tiny_scene):
    config = config_of(*flags_of("unused", tiny_scene, "--compile_networks", 1, "--feature_type",
                                 "rgb", "--feature_aggregation_method", "mean"))
    with pytest.raises(ConfigError, match="nothing to compile; give --compile_networks 0"):
        model_of(config, torch.device("cpu"))


def test_what_is_missing_for_a_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="finds no no-such-compiler; install g"):
        compile_networks("cpu", nn.Identity())
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"finds no g\+\+ or clang\+\+"):
        compile_networks("cpu", nn.Identity())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install triton"):
        compile_networks("cuda", nn.Identity())
