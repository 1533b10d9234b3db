"""Each part of a GPU's measurement, in little on the CPU."""
from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from support.pretended_gpu import no_waiting, pretended_gpu

from sdf_rendering import differentiable_hits
from stages import models
from stages.gpu_figures import correctness, frames, meta_run, training_runs
from stages.gpu_figures.correctness import (
    differences,
    gradient_differences,
    steps_against_cpu,
    tracer_against_reference,
    with_bumps,
)
from stages.gpu_figures.frames import (
    frame_camera,
    frame_figures,
    frame_image,
    graph_figures,
    mesh_figures,
    replayed_frame,
)
from stages.gpu_figures.meta_run import meta_training, write_one
from stages.gpu_figures.options import (
    LAST_OPTIONS,
    OPTIONS,
    operation_counts,
    option_figures,
)
from stages.gpu_figures.profiling import kernel_rows, step_profile
from stages.gpu_figures.setup import MeasureSetup, Subject, _view_flags, timed_ms
from stages.gpu_figures.training_runs import seconds_to, train_for, write_trained
from stages.view_rendering import make_renderer
from utils.benchmarking.parts import Recorder
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.tracing import gpu_tracer
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.geometry.rays import TraceResult, camera_rays

pytestmark = pytest.mark.long

#: Instead of the paper's network: width and points with which a step takes 50 ms.
LITTLE = ("--model_hidden_dims_sdf", "16", "--model_hidden_layers_sdf", "1", "--batch_size", "64",
          "--rt_num_mask_steps", "8")


@pytest.fixture
def setup(tiny_scene, tiny_sphere, tmp_path, monkeypatch) -> MeasureSetup:
    """A setup whose subjects are tiny, from scratch."""
    found = MeasureSetup(tmp_path, str(tiny_scene), 6, 0.5, "cpu")
    whole = MeasureSetup.config

    def config(self, start, *flags):
        return whole(self, "from scratch", "--checkpoint_sdf", tiny_sphere, *LITTLE, *flags)

    monkeypatch.setattr(MeasureSetup, "config", config)
    return found


@pytest.fixture
def subject(setup) -> Subject:
    """A tiny subject whose surface is traced."""
    found = setup.subject()
    found.trainer.trace_all()
    return found


def test_the_ten_views_of_the_dtu_split_are_split_as_among_all():
    assert _view_flags(49) == ["--dataset_name", "dtu"]
    # 1 9 12 17 25 32 33 40 41 47: views 12, 32 and 40 are held out
    assert _view_flags(10) == ["--dataset_name", "", "--test_views", "2,5,7"]
    assert _view_flags(6) == ["--dataset_name", ""]


def test_differences_of_traces_are_counted(subject):
    sdf, rays = subject.model.sdf, camera_rays(subject.trainer.views.cameras[:1])
    found = tracer_against_reference(sdf, rays)
    assert found["rays"] == 16 * 12 and found["hits"] > 20
    assert found["hit_or_miss"] <= 0.02 and found["off_surface"] == found["apart"] == 0
    reference = subject.trainer.tracer.trace(sdf, rays)
    other_t = torch.where(torch.arange(len(rays)) % 2 == 0, reference.t + 0.01, reference.t)
    moved = TraceResult(other_t, reference.hit_mask, 0)
    told = differences(sdf, rays, moved, reference)
    assert 0.3 < told["apart"] < 0.7 and told["off_surface"] >= told["apart"]
    bumpy = with_bumps(sdf, 0.0)
    assert bumpy is sdf


def test_steps_of_the_same_device_are_the_same(setup):
    found = steps_against_cpu(setup)
    assert all(set(found[f"{kind} gradients, {tracer}"].values()) == {0.0}
               for kind in ("shape", "image") for tracer in ("reference", "fast"))
    assert all(row["cpu"] > 0 for row in found["losses"])
    assert len(found["losses"]) == 10


def test_other_weights_have_other_gradients(setup, subject):
    other = setup.subject()
    with_bumps(other.model.decoder, 0.1)
    found = gradient_differences(subject, other, 3)
    assert all(0 < value < 10 for value in found.values())


def test_training_is_scored_at_its_times(setup, monkeypatch):
    """By a clock that goes on by an eighth of a second whenever it is looked at."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 8)
    monkeypatch.setattr(training_runs, "time", clock)
    monkeypatch.setattr(training_runs, "SCORED_SECONDS", (0, 0.2))
    monkeypatch.setattr(training_runs, "LATER_SECONDS", 0.375)
    rows = []
    subject = setup.subject()
    step = train_for(subject, 4.0, rows.append)
    assert [row["seconds"] for row in rows[:3]] == [0.125, 0.25, 0.375]
    assert rows[0]["step"] == 0 and rows[-1]["step"] == step > 0
    assert all(later["seconds"] > row["seconds"] and later["step"] > row["step"]
               for row, later in itertools.pairwise(rows))
    assert all(5 < row["psnr"] < 60 for row in rows)
    write_trained("from scratch", setup, subject, step)
    again = setup.subject("from scratch", "--checkpoint_path", setup.weights_of("from scratch"))
    averaged = subject.trainer.average.averaged_model().decoder.state_dict()
    assert all(torch.equal(value, again.model.decoder.state_dict()[name])
               for name, value in averaged.items())
    names = {path.name for path in (setup.output / "pictures").iterdir()}
    assert names == {"from_scratch_views.png", "from_scratch_rendered.png"}


def test_the_first_time_at_each_bar_counts():
    curve = [{"seconds": 0.0, "psnr": 20.0}, {"seconds": 3.0, "psnr": 28.5},
             {"seconds": 9.0, "psnr": 27.0}, {"seconds": 12.0, "psnr": 30.0}]
    assert seconds_to(curve) == {"25 dB": 3.0, "28 dB": 3.0, "30 dB": 12.0, "32 dB": None}


def test_a_frame_alone_is_that_of_the_renderer(subject, tmp_path):
    model = subject.model.eval()
    renderer = make_renderer(model, subject.trainer.views, occ_threshold=1e-3,
                             tracer=subject.trainer.tracer)
    camera = frame_camera(subject, 2.0)
    assert camera.resolution == (32, 24)
    assert torch.equal(frame_image(renderer, camera), renderer(camera).images)
    found = frame_figures(renderer, frame_camera(subject, 1.0), Recorder(tmp_path / "x", 0.5))
    assert found["frames_per_second"] == pytest.approx(1e3 / found["frame_ms"])
    assert set(found["stages_ms"]) == {"trace", "correspond", "blend", "decode"}
    meshed = mesh_figures(renderer, camera, 24, 0.1)
    assert meshed["faces"] > 100 and all(value > 0 for value in meshed.values())


def test_a_frame_on_a_gpu_makes_the_host_wait_for_nothing(setup, monkeypatch):
    """So that it can be recorded as a CUDA graph."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((4, 1),))
    with pretended_gpu():
        subject = replace(setup, device="cuda").subject()
        renderer = make_renderer(subject.model.eval(), subject.trainer.views, occ_threshold=1e-3,
                                 tracer=subject.trainer.tracer)
        camera = frame_camera(subject, 1.0)
        frame_image(renderer, camera)                      # constants are copied once
        with no_waiting():
            image = frame_image(renderer, camera)
        assert image.is_cuda and bool(image.isfinite().all())


def test_steps_of_a_gpu_are_those_of_the_cpu(setup, monkeypatch):
    """By the reference tracer to rounding; by the fast ones as far as few of 16x12 pixels say."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((8, 1), (24, 1)))
    monkeypatch.setattr(correctness, "NUM_STEPS", 1)
    with pretended_gpu():
        found = steps_against_cpu(replace(setup, device="cuda"))
    (losses,) = found["losses"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-2)
    for kind in ("shape", "image"):
        assert max(found[f"{kind} gradients, reference"].values()) < 1e-3
        assert max(found[f"{kind} gradients, fast"].values()) < 0.5


def test_replayed_frames_are_the_frames(setup):
    """On a CPU the tracer of recorded frames evaluates the SDF otherwise: rounding of hits."""
    subject = setup.subject("from scratch", "--cuda_graphs", 1)
    renderer = make_renderer(subject.model.eval(), subject.trainer.views, occ_threshold=1e-3,
                             tracer=subject.trainer.tracer)
    found = graph_figures(renderer, frame_camera(subject, 1.0), 0.05)
    assert found["largest_difference"] < 1e-3
    draw = replayed_frame(renderer, frame_camera(subject, 1.0))
    for view in range(4):                                  # of other cameras, too
        camera = subject.trainer.views.cameras[view]
        assert (draw(camera) - frame_image(renderer, camera)).abs().max() < 1e-3


ALL_OPTIONS = {option.name: option for option in (*OPTIONS, *LAST_OPTIONS)}


@pytest.mark.parametrize("device, name", [
    *(("cpu", name) for name, option in ALL_OPTIONS.items() if not option.is_of_gpus),
    *(("cuda", name) for name in ("as shipped", "without the kernel", "bf16, channels first",
                                  "E and D compiled, in CUDA graphs"))])
def test_options_are_measured(setup, device, name, monkeypatch):
    """Those of a GPU on a pretended one; compilers are left out."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((4, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 6)
    compiled, option = mock.Mock(), ALL_OPTIONS[name]
    monkeypatch.setattr(models, "compile_networks", compiled)
    with pretended_gpu():
        found = option_figures(replace(setup, device=device), option, 0.05)
    assert found.pop("peak_mib", 0) == 0                   # a pretended GPU says no more
    assert all(value > 0 for value in found.values()) and "frame_ms" in found
    assert compiled.called == ("--compile_networks" in option.flags)


def test_options_of_a_gpu_change_what_they_name():
    changes = {name: option.change for name, option in ALL_OPTIONS.items()}
    subject = mock.Mock()
    changes["E and D compiled, a CUDA graph of each"](subject)
    for network in (subject.model.encoder, subject.model.decoder):
        network.compile.assert_called_once_with(mode="reduce-overhead")
    subject.trainer.tracer = DeviceTracer(differentiable_hits, 8, fast_evaluator)
    changes["without the kernel"](subject)
    assert not subject.trainer.tracer.uses_kernel


def test_operations_are_counted(setup, monkeypatch):
    monkeypatch.setattr(gpu_tracer, "TIERS", ((3, 1),))
    few = operation_counts(setup)
    monkeypatch.setattr(gpu_tracer, "TIERS", ((5, 1),))
    more = operation_counts(setup)
    assert 100 < few["image_step"] == more["image_step"] < 1000
    # the march has two steps more, and nothing else changes
    assert few["frame"] - few["frame_march"] == more["frame"] - more["frame_march"]
    assert 0 < more["frame_march"] - few["frame_march"] < 2 * 100


def test_parts_are_measured_on_a_gpu(setup, monkeypatch):
    """A pretended one: what a part does there mixes no devices, and each figure can be had."""
    monkeypatch.setattr(gpu_tracer, "TIERS", ((4, 1),))
    monkeypatch.setattr(gpu_tracer, "NUM_GRID_STEPS", 6)
    monkeypatch.setattr(correctness, "NUM_STEPS", 3)
    monkeypatch.setattr(correctness, "NUM_WATCHED", 1)
    monkeypatch.setattr(correctness, "has_triton", lambda: False)
    # it is compared by itself above
    monkeypatch.setattr(correctness, "steps_against_cpu", lambda setup: {})
    monkeypatch.setattr(correctness, "run_tests", lambda recorder: {})
    monkeypatch.setattr(frames, "SIZES", (1.0,))
    monkeypatch.setattr(frames, "MESH_RESOLUTIONS", {"cuda": 24})
    recorder = Recorder(setup.output / "x.json", 0.5)
    with pretended_gpu():
        for measure in (correctness.measure_correctness, frames.measure_frames):
            measure(replace(setup, device="cuda"), recorder)
    failed = {name: value for name, value in recorder.figures.items()
              if isinstance(value, dict) and "failed" in value}
    assert not failed
    assert recorder.figures["replayed steps"]["relative_difference"] < 1e-6
    assert recorder.figures["16x12, CUDA graph"]["largest_difference"] == 0


def test_a_profile_has_the_longest_first(subject):
    found = step_profile(subject, 3, {"bf16": 1e12})
    kernels = found["kernels"]
    assert len(kernels) == 20 and found["num_kernels"] > 100
    assert all(row["ms"] >= later["ms"] for row, later in itertools.pairwise(kernels))
    assert found["flop"] > 1e6 and 0 <= found["gap"] < 1
    assert found["peak_share"] == pytest.approx(found["flop"] / found["ms"] * 1e3 / 1e12)


def test_kernels_of_a_gpu_are_those_on_it():
    class Event:
        def __init__(self, key, device_type, us):
            self.key, self.count, self.device_type = key, 2, device_type
            self.self_device_time_total = us

    kinds = torch.autograd.DeviceType
    rows = kernel_rows([Event("aten::mm", kinds.CPU, 500), Event("short", kinds.CUDA, 10),
                        Event("long", kinds.CUDA, 3000)], True)
    assert rows == [("long", 2, 3.0), ("short", 2, 0.01)]


def test_work_is_timed_after_warming_up():
    calls = []
    assert timed_ms(lambda: calls.append(1), "cpu", 5.0, most=3) >= 0 and len(calls) == 5
    calls.clear()
    timed_ms(lambda: calls.append(1), "cpu", 0.0)
    assert len(calls) == 1                                 # no time to warm up


def test_weights_are_meta_trained(setup, monkeypatch):
    monkeypatch.setattr(meta_run, "NUM_VIEWS", 8)
    monkeypatch.setattr(meta_run, "FEW_INNER_STEPS", 1)
    monkeypatch.setattr(meta_run, "FLAGS", ("--batch_size", "64", "--dataset_name", ""))
    scenes = setup.output / "meta" / "scenes"
    write_one(("blobs", 1, (16, 12), scenes))
    found = meta_training(setup, scenes, Recorder(setup.output / "x.json", 0.5))
    assert found["weights"] == "weights_meta.pth" and "outer steps" in found["result"]
    assert (setup.output / "weights_meta.pth").stat().st_size > 1e6
