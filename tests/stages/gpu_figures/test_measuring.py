"""The measurement of a GPU as a command: its parts, its files, and what it refuses."""
from __future__ import annotations

import json

import pytest
from support.tiny_runs import call

from stages.gpu_figures import measuring
from stages.gpu_figures.measuring import PARTS, measure_gpu
from utils.benchmarking.figures_page import TABLES
from utils.config.tool_sections import GpuConfig
from utils.errors import UserError


@pytest.fixture
def asked(monkeypatch):
    """What the parts would be run with; each finds nothing."""
    calls = []

    def run(parts, setup, folder, seconds, *, saved):
        calls.append(([part.name for part in parts], setup, seconds))
        for number in range(len(parts)):
            saved({part.name: {"seconds": 1.0, "ended": "in time", "found": len(calls)}
                   for part in parts[:number + 1]})

    monkeypatch.setattr(measuring, "run_parts", run)
    return calls


def test_the_command_measures_all_parts_in_order_of_worth(tmp_path, tiny_scene, asked, capsys):
    call("measure_gpu", "--output", tmp_path / "out", "--scene", tiny_scene, "--device", "cpu",
         "--minutes", 1, "--resolution", "16x12")
    (names, setup, seconds), = asked
    assert names == [part.name for part in PARTS] == list(TABLES)
    assert (setup.scene, setup.num_views, setup.im_scale) == (str(tiny_scene), 6, 0.5)
    assert 50 < seconds < 60 and not setup.is_cuda
    stored = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert stored["environment"]["resolution"] == "16x12" and "torch" in stored["environment"]
    assert (tmp_path / "out" / "figures.md").read_text() in capsys.readouterr().out


def test_one_part_keeps_the_figures_of_the_others(tmp_path, tiny_scene, asked):
    for part in ("render", "speed", "render"):
        measure_gpu(GpuConfig(output=str(tmp_path), scene=str(tiny_scene), device="cpu",
                              part=part))
    stored = json.loads((tmp_path / "figures.json").read_text())
    assert (stored["render"]["found"], stored["speed"]["found"]) == (3, 2)


def test_without_a_scene_a_synthetic_one_is_made(tmp_path, asked):
    measure_gpu(GpuConfig(output=str(tmp_path), device="cpu", resolution="8x6", part="tests"))
    assert asked[0][1].num_views == 49 and asked[0][1].im_scale == 1.0


@pytest.mark.parametrize("flags, words", [
    ({"minutes": 0.0}, "--minutes is 0, needed more than 0"),
    ({"resolution": "64x48"}, "its images are 32 wide, --resolution asks for 64"),
    ({"resolution": "wide"}, "--resolution is 'wide', need WIDTHxHEIGHT")])
def test_what_cannot_be_measured_is_told(tmp_path, tiny_scene, asked, flags, words):
    with pytest.raises(UserError, match=words):
        measure_gpu(GpuConfig(output=str(tmp_path), scene=str(tiny_scene), device="cpu") if not
                    flags else GpuConfig(**{"output": str(tmp_path), "scene": str(tiny_scene),
                                            "device": "cpu", **flags}))
    assert not asked


@pytest.mark.parametrize("content, words", [
    ("{", "not readable as JSON"), ("[]", "holds no figures of an earlier call"),
    ('{"quality": 3}', "holds no figures of an earlier call"),
    ('{"quality": {"hull": {"curve": [{}]}}}', "holds no figures of an earlier call")])
def test_figures_that_cannot_be_read_are_told(tmp_path, tiny_scene, asked, content, words):
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(UserError, match=words):
        measure_gpu(GpuConfig(output=str(tmp_path), scene=str(tiny_scene), device="cpu"))
