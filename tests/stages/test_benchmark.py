"""The benchmark: its jobs do the work that they are named after, and its results are kept."""
from __future__ import annotations

import json

import pytest
import torch

from stages import benchmark
from stages.benchmark import Setup, Subject, dense_hits, run_benchmark, sweep
from utils.benchmarking.report import JOBS, report
from utils.config.tool_sections import BenchmarkConfig
from utils.geometry.rays import make_rays


def test_dense_hits_of_a_ball():
    origins = torch.tensor([[0.0, 0.0, 2.0], [0.5, 0.0, 2.0], [0.9, 0.0, 2.0]])
    rays = make_rays(origins, torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3))
    found = dense_hits(lambda points: points.norm(dim=-1) - 0.6, rays)
    assert found.tolist() == [True, True, False]


@pytest.fixture(scope="module")
def subject(tiny_scene):
    return Subject("fast", Setup(str(tiny_scene), 1.0, "cpu", num_views=2, num_sources=2,
                                 num_first_steps=0))


def test_jobs_count_what_they_evaluate(subject):
    jobs = subject.jobs()
    buffers = jobs["buffers"]()
    assert buffers["rays"] == 2 * 32 * 24 and buffers["sdf_evaluations"] > 0
    shape, image = jobs["shape_step"](), jobs["image_step"]()
    assert shape["sdf_evaluations"] > image["sdf_evaluations"] == 0
    jobs["render_frame"]()
    jobs["eikonal"]()


def test_the_fast_tracer_agrees_with_the_reference(subject):
    found = subject.jobs()["agreement"]()
    assert found["rays"] == 2 * 32 * 24
    assert found["apart"] == 0 and found["num_wrong_inside"] == 0


def fake_measure(calls):
    """A `measure` that notes what it was asked for and gives round numbers."""
    def measure(setup, repeats, *, jobs=JOBS, names=("reference", "fast")):
        calls.append((setup, repeats, jobs, names))
        numbers = {"ms": 10.0, "peak_mib": 1.0, "sdf_evaluations": 5.0, "matmul_flops": 1e9,
                   "apart": 0.0, "disagree": 0.0, "rays": 4, "num_inside": 0,
                   "num_wrong_inside": 0, "shape_conv": 1e9, "shape_matmul": 1e9,
                   "image_conv": 1e9, "image_matmul": 1e9}
        return {job: dict.fromkeys(names, numbers) for job in jobs}

    return measure


def test_the_result_is_written_and_reported(tiny_scene, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark, "measure", fake_measure(calls))
    monkeypatch.setattr(benchmark, "conv_rate", lambda device: 1e9)
    path = tmp_path / "figures.json"
    result = run_benchmark(BenchmarkConfig(device="cpu", scene=str(tiny_scene), resolution="16x12",
                                           repeats=5, json=str(path)))
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    assert [(setup.im_scale, repeats, jobs) for setup, repeats, jobs, _ in calls] \
        == [(0.5, 5, JOBS), (0.5, 1, ("agreement", "operations"))]
    assert "tiny at 16x12" in report(result).splitlines()[0]


def test_the_sweep_leaves_out_the_reference_at_large_sizes(monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark, "measure", fake_measure(calls))
    rows = sweep(Setup("scene", 1.0, "cpu"), width=800)
    assert [(row["width"], row["views"]) for row in rows] == [
        (100, 7), (200, 7), (400, 7), (800, 7), (100, 3), (100, 7), (100, 14), (100, 28), (100, 49)]
    assert [len(names) for *_, names in calls] == [2, 2, 1, 1, 2, 2, 2, 2, 2]
    assert [setup.num_sources for setup, *_ in calls[4:]] == [3, 7, 14, 28, 49]
