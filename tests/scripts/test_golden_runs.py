"""Short runs of every stage end with the recorded weights, to the bit; see golden_runs.py."""
from __future__ import annotations

import pytest
import torch
from support import golden_runs
from support.tiny_runs import call

from stages import pretraining


@pytest.fixture(scope="session")
def golden_scenes(shared_folder):
    """The golden runs' scenes; nobody writes into them."""
    return shared_folder.once("golden", lambda folder: golden_runs.make_scenes(
        folder / "scenes", lambda script, flags: call(script, *flags))) / "scenes"


@pytest.fixture
def weights_of(golden_scenes, tmp_path, monkeypatch):
    """Runs a stage in this process and gives its weights."""
    monkeypatch.setattr(pretraining, "NUM_SYNTHETIC_SCORED", 1)      # scoring changes no weight

    def weights_of(stage):
        return golden_runs.run_stage(stage, golden_scenes, tmp_path,
                                     lambda script, flags: call(script, *flags))
    return weights_of


@pytest.mark.parametrize("stage", golden_runs.STAGES)
def test_weights_are_those_recorded(weights_of, stage):
    expected = golden_runs.values_here().get(stage)
    if expected is None:
        pytest.skip(f"no value is recorded for this machine: {golden_runs.difference()}")
    assert golden_runs.digest(weights_of(stage)) == expected, (
        f"{stage}: other weights than recorded. If that is meant, record them anew: "
        "python tests/support/golden_runs.py --record")


def test_one_bit_of_one_weight_changes_the_digest():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(5, 7, generator=generator) for name in ("b", "a")}
    before = golden_runs.digest(weights)
    assert golden_runs.digest(dict(sorted(weights.items()))) == before
    weights["a"].view(torch.int32)[3, 4] ^= 1
    assert golden_runs.digest(weights) != before


@pytest.mark.parametrize("change", [
    lambda weights: {"a": weights["a"]},
    lambda weights: {"a": weights["a"], "c": weights["b"]},
    lambda weights: {"a": weights["b"], "b": weights["a"]},
    lambda weights: weights | {"a": weights["a"].reshape(2, 3)},
    lambda weights: weights | {"a": weights["a"].view(torch.int32)}],
    ids=["missing", "renamed", "swapped", "reshaped", "of another type"])
def test_names_shapes_and_types_count(change):
    weights = {"a": torch.arange(6.0), "b": torch.arange(6.0) + 1}
    assert golden_runs.digest(change(weights)) != golden_runs.digest(weights)


def test_each_recorded_machine_has_a_value_for_each_stage():
    for entry in golden_runs.recorded():
        assert entry["machine"].keys() == golden_runs.machine().keys()
        assert list(entry["weights"]) == list(golden_runs.STAGES)
        assert len(set(entry["weights"].values())) == len(golden_runs.STAGES)


def test_another_machine_is_told_what_differs(monkeypatch):
    here = golden_runs.recorded()[0]["machine"] | {"numba": "0.0", "torch": "9.9"}
    monkeypatch.setattr(golden_runs, "machine", lambda: here)
    assert golden_runs.values_here() == {}
    assert "torch is 9.9, recorded" in golden_runs.difference()
    assert "numba is 0.0, recorded" in golden_runs.difference()
