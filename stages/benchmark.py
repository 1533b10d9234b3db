"""The benchmark: the fast path and the reference, job by job, each in a process of its own.

Both variants get the same scene, networks and surface; what is measured are the pieces of training
and rendering as the commands run them.
"""
from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data_processing.scenes.scene import load_scene
from data_processing.scenes.splits import resolve_split
from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene
from loss_functions import eikonal_loss
from modules_sdf import ImageBasedModel, SirenSDF
from sdf_rendering import ReferenceTracer
from stages.models import build_model
from stages.scene import build_scene_trainer
from stages.view_rendering import make_renderer, trace_views
from training import SceneTrainer
from utils.benchmarking.point_counts import CountedPoints
from utils.benchmarking.report import APART, JOBS, NUM_SDF_POINTS, VARIANTS, Medians, ratios_of
from utils.benchmarking.variants import Jobs, Variant, interleaved, matmul_rate, median_seconds
from utils.config.parser import TRAIN_SECTIONS, parse_config
from utils.config.tool_sections import BenchmarkConfig
from utils.config.values import parse_resolution
from utils.devices import pick_device
from utils.fast.chunked_autograd import chunk_size
from utils.fast.image_networks.execution import network_precision
from utils.fast.memory import keep_freed_memory
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.tracing.cpu_tracer import FastTracer
from utils.fast.tracing.gpu_tracer import DeviceTracer
from utils.fast.tracing.network_passes import has_analytic_gradients
from utils.files.atomic import write_text_atomic
from utils.geometry.rays import Rays, camera_rays
from utils.geometry.sdf import Sdf, gradient
from utils.views.training_views import TrainingViews, views_of

FLOP_PER_POINT = 99_328           # SIREN 3-128-128-128-128-1, multiplications and additions
NUM_FIRST_STEPS = 10              # of the fast path, after which both variants are measured
NUM_FIRST_STEPS_SWEEP = 1         # at 800x600 ten take as long as all that is measured
NUM_DENSE_SAMPLES = 2000          # of a ray on which both tracers disagree, to tell which is right
SHAPE_STEP, IMAGE_STEP = 3, 53    # steps of the DTU schedule that train the shape, and that do not
SWEEP_WIDTHS = (100, 200, 400, 800)
SWEEP_VIEWS = (3, 7, 14, 28, 49)
STEP_JOBS = ("shape_step", "image_step", "render_frame")
#: Pixels of a view above which the sweep leaves out the reference, whose shape step takes 24 s.
MAX_REFERENCE_PIXELS = 200 * 150


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure both variants on the scene of the flags, or on a synthetic one.

    Returns:
        The result as `utils.benchmarking.report` reads it; `--json` has the same.
    """
    device = pick_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        path, size = config.scene, parse_resolution(config.resolution)
        if not path:
            widest = (SWEEP_WIDTHS[-1], SWEEP_WIDTHS[-1] * 3 // 4) if config.sweep else size
            path = str(write_scene(make_scene("blobs", 0, resolution=widest, supersampling=1),
                                   Path(folder) / "scene", "processed"))
        width = load_scene(path).cameras.resolution[0]
        setup = Setup(path, size[0] / width, config.device)
        result = {
            "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "scene": Path(config.scene).name or "synthetic scene", "resolution": config.resolution,
            **measure_all(setup, device, config.repeats)}
        if config.json:                            # kept if the sweep is stopped
            write_text_atomic(config.json, json.dumps(result, indent=2))
        if config.sweep:
            result["sweep"] = sweep(setup, width)
            if config.json:
                write_text_atomic(config.json, json.dumps(result, indent=2))
    return result


@dataclass(frozen=True)
class Setup:
    """What the processes of both variants measure.

    Attributes:
        scene_path: folder of the scene.
        im_scale: factor on the size of its images.
        device: value of the flag.
        num_views: how many views the job `buffers` traces.
        num_sources: source views of a step; 0: the training views of the dtu split.
        num_first_steps: of the fast path, whose surface both variants get.
    """

    scene_path: str
    im_scale: float
    device: str
    num_views: int = 49
    num_sources: int = 0
    num_first_steps: int = NUM_FIRST_STEPS


def measure_all(setup: Setup, device: torch.device, repeats: int) -> dict[str, Any]:
    """Return medians of all jobs, and what follows from them."""
    measured = measure(setup, repeats)
    once = measure(setup, 1, names=("fast",), jobs=("agreement", "operations"))
    fast = measured["sdf_forward"]["fast"]
    per_second = NUM_SDF_POINTS / fast["ms"] * 1e3
    return {
        "ratios": ratios_of(measured), "agreement": once["agreement"]["fast"],
        "operations": once["operations"]["fast"], "conv_flops": conv_rate(device),
        "measured": measured, "matmul_flops": fast["matmul_flops"],
        "sdf_points_per_second": per_second,
        "sdf_forward_fraction_of_matmul": per_second * FLOP_PER_POINT / fast["matmul_flops"]}


def measure(setup: Setup, repeats: int, *, jobs: Sequence[str] = JOBS,
            names: Sequence[str] = VARIANTS) -> dict[str, Medians]:
    """Return medians by job and variant; processes are fresh, so peaks are those of these jobs."""
    variants = [Variant(name, make_jobs, name, setup) for name in names]
    try:
        return {job: interleaved(variants, job, repeats)
                for job in tqdm(jobs, desc="measuring", leave=False)}
    finally:
        for variant in variants:
            variant.close()


def sweep(setup: Setup, width: int) -> list[dict[str, Any]]:
    """Return how the jobs grow with the size of the views, and with their number.

    Args:
        setup: of the scene; size, views and sources are replaced.
        width: of the scene's images, pixels.
    """
    rows = []
    setup = replace(setup, num_first_steps=NUM_FIRST_STEPS_SWEEP)
    for wide in tqdm(SWEEP_WIDTHS, desc="sizes"):
        names = VARIANTS if wide * wide * 3 // 4 <= MAX_REFERENCE_PIXELS else ("fast",)
        found = measure(replace(setup, im_scale=wide / width), 1, jobs=STEP_JOBS, names=names)
        rows.append({"width": wide, "views": 7, **found})
    for views in tqdm(SWEEP_VIEWS, desc="views"):
        found = measure(replace(setup, im_scale=SWEEP_WIDTHS[0] / width, num_views=views,
                                num_sources=views), 1, jobs=(*STEP_JOBS, "buffers"))
        rows.append({"width": SWEEP_WIDTHS[0], "views": views, **found})
    return rows


def make_jobs(tracer: str, setup: Setup) -> Jobs:
    """Return `Subject`'s jobs; a function of a module, so that a process can be told to call it."""
    return Subject(tracer, setup).jobs()


def trainer_of(tracer: str, views: TrainingViews,
               device: torch.device) -> tuple[SceneTrainer, ImageBasedModel]:
    """Return a new trainer of the demonstration's flags with its model.

    All views are sources; the seed is 0.
    """
    config = parse_config(TRAIN_SECTIONS, [
        "--config_filepath", "configs/demo.txt", "--tracer", tracer, "--device", device.type,
        "--source_views_per_target", "-1"])
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run,
                        is_fast=tracer == "fast").to(device)
    generator = torch.Generator().manual_seed(0)
    return build_scene_trainer(model, views, config, generator=generator), model


class Subject:
    """What one variant's process measures.

    Args:
        tracer: fast or reference.
        setup: scene, device and sizes.
    """

    def __init__(self, tracer: str, setup: Setup) -> None:
        device = pick_device(setup.device)
        self.is_fast = tracer == "fast"
        if self.is_fast and device.type == "cpu":
            keep_freed_memory()
        scene = load_scene(setup.scene_path, im_scale=setup.im_scale)
        train = resolve_split(len(scene), "dtu" if len(scene) == 49 else "").train
        if setup.num_sources:
            train = [i * (len(scene) - 1) // (setup.num_sources - 1)
                     for i in range(setup.num_sources)]
        views = views_of(scene, train, device)
        first, _ = trainer_of("fast", views, device)          # both variants get the same surface
        first.trace_all()
        for step in range(setup.num_first_steps):
            first.train_step(step)
        self.trainer, model = trainer_of(tracer, views, device)
        model.load_state_dict(first.model.state_dict())
        assert isinstance(model.sdf, SirenSDF)
        self.sdf = model.sdf
        uniform = torch.rand(NUM_SDF_POINTS, 3, generator=torch.Generator().manual_seed(0))
        self.points = (uniform * 2 - 1).to(device)
        self.cameras = scene.cameras[:setup.num_views].to(device)
        self.frame_camera = scene.cameras[len(scene) // 4]
        self.counter = CountedPoints(
            self.trainer, has_analytic_sums=has_analytic_gradients(self.sdf, self.points))
        self.trainer.trace_all()
        self.renderer = make_renderer(model, self.trainer.views, occ_threshold=1e-3,
                                      tracer=self.trainer.tracer)

    def jobs(self) -> Jobs:
        """Return all measurements by name."""
        return {"shape_step": lambda: self.step(SHAPE_STEP),
                "image_step": lambda: self.step(IMAGE_STEP), "buffers": self.buffers,
                "render_frame": self.render_frame, "sdf_forward": self.sdf_forward,
                "sdf_gradient": self.sdf_gradient, "eikonal": self.eikonal,
                "agreement": self.agreement, "operations": self.operations}

    def operations(self) -> dict[str, float]:
        """Return the FLOP of both steps' matrix products and convolutions, backward passes too."""
        found, threads = {}, torch.get_num_threads()
        torch.set_num_threads(1)                   # nothing is counted in other threads
        for name, number in (("shape", SHAPE_STEP), ("image", IMAGE_STEP)):
            with FlopCounterMode(display=False, custom_mapping={
                    torch.ops.aten.addmm_: product_in_place}) as counter:
                self.trainer.train_step(number)
            counts = counter.get_flop_counts()["Global"]
            convolutions = sum(flop for op, flop in counts.items() if "convolution" in str(op))
            found[f"{name}_conv"] = convolutions
            found[f"{name}_matmul"] = sum(counts.values()) - convolutions
        torch.set_num_threads(threads)
        return found

    def step(self, number: int) -> dict[str, float]:
        """Take a training step; `number` decides whether it trains the shape."""
        before = self.counter.total
        self.trainer.train_step(number)
        return {"sdf_evaluations": self.counter.total - before}

    def buffers(self) -> dict[str, float]:
        """Trace all views: the reference view by view, the fast tracer in one go."""
        before, tracer = self.counter.total, self.trainer.tracer
        if isinstance(tracer, FastTracer | DeviceTracer):
            tracer.forget()
        parts = [slice(None)] if self.is_fast else range(len(self.cameras))
        for part in parts:
            trace_views(self.sdf, self.cameras[part], tracer)
        num_rays = len(self.cameras) * self.cameras.resolution[0] * self.cameras.resolution[1]
        return {"sdf_evaluations": self.counter.total - before, "rays": num_rays}

    @torch.no_grad()
    def sdf_forward(self) -> dict[str, float]:
        """Evaluate the SDF at NUM_SDF_POINTS points.

        The matrix product that it is compared with is timed right after it, as a machine's rates
        change within minutes.
        """
        device = self.points.device
        seconds = median_seconds(lambda: (fast_evaluator(self.sdf) if self.is_fast else self.sdf)(
            self.points), device)
        return {"ms": seconds * 1e3, "matmul_flops": matmul_rate(device, self.points.dtype)}

    def sdf_gradient(self) -> None:
        """Compute the SDF and its gradient at NUM_SDF_POINTS points, without a graph."""
        if not self.is_fast:
            gradient(self.sdf, self.points, create_graph=False)
            return
        with torch.no_grad():
            for part in self.points.split(chunk_size(self.points)):
                self.sdf.value_and_gradient(part)

    def agreement(self) -> dict[str, float]:
        """Return the fractions of rays on which this tracer and the reference differ."""
        rays = camera_rays(self.trainer.views.cameras)
        reference = ReferenceTracer().trace(self.sdf, rays)
        found = self.trainer.tracer.trace(self.sdf, rays)
        both = reference.hit_mask & found.hit_mask
        differ = reference.hit_mask != found.hit_mask
        inside = torch.nn.functional.max_pool2d(-self.trainer.views.masks.float(), 5, 1, 2) == -1
        inside = differ & inside.reshape(-1)
        wrong = dense_hits(self.sdf, rays[inside]) != found.hit_mask[inside]
        return {"apart": ((reference.t - found.t).abs()[both] > APART).float().mean().item(),
                "disagree": differ.float().mean().item(), "rays": len(rays),
                "num_inside": int(inside.sum()), "num_wrong_inside": int(wrong.sum())}

    def eikonal(self) -> None:
        """Compute the eikonal term of a shape step with its gradient."""
        eikonal_loss(self.trainer.tracer, self.sdf, self.trainer.eikonal_points(),
                     num_drawn=self.trainer.shape.num_points).backward()

    def render_frame(self) -> None:
        """Render a new view from stored source features, of a surface that stands still."""
        self.renderer(self.frame_camera)


@torch.no_grad()
def dense_hits(sdf: Sdf, rays: Rays) -> torch.Tensor:
    """Return (R,) bool: the SDF is below zero at one of NUM_DENSE_SAMPLES points of the ray."""
    fractions = torch.linspace(0, 1, NUM_DENSE_SAMPLES).to(rays.t_near)
    t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * fractions
    values = fast_evaluator(sdf)(rays.points(t).reshape(-1, 3)).reshape(t.shape)
    return (values < 0).any(-1)


def product_in_place(into, left, right, *rest, out_shape=None, **options) -> int:
    """Return the FLOP of `addmm_` from shapes, as torch's counter does not know it."""
    return 2 * left[0] * left[1] * right[1]


def conv_rate(device: torch.device) -> float:
    """Return the rate of the decoder's widest convolution as training computes it, FLOP/s."""
    precision = torch.bfloat16 if network_precision("auto", device.type, True) == "bf16" \
        else torch.float32
    maps = torch.randn(4, 192, 96, 128, device=device, dtype=precision)
    maps = maps.contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(192, 64, 3, padding=1).to(device, precision)
    layer.weight.data = layer.weight.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = median_seconds(lambda: layer(maps), device)
    return 2 * 9 * 192 * 64 * 4 * 96 * 128 / seconds
