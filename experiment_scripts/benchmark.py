"""Measure the fast path against `--tracer reference`, each in a process of its own, by turns.

    python experiment_scripts/benchmark.py [--device D] [--resolution 128x96] [--scene DIR]
                                           [--repeats 3] [--sweep 1] [--json FILE]

Prints one table (about 5 minutes on 2 cores, the sweep 12 more); the JSON has the same figures and
`ratios` (reference over fast: larger is better). Without --scene a made-up one is measured. Longer
than a script's 60 lines, as all that it measures is wiring of this one place.
"""
from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from tqdm import tqdm  # noqa: E402

from data_processing.scenes.scene import load_scene  # noqa: E402
from data_processing.scenes.splits import resolve_split  # noqa: E402
from data_processing.scenes.writing import write_scene  # noqa: E402
from data_processing.synthetic.scenes import make_scene  # noqa: E402
from loss_functions import eikonal_loss  # noqa: E402
from sdf_rendering import ReferenceTracer  # noqa: E402
from stages.models import build_model  # noqa: E402
from stages.scene import build_scene_trainer  # noqa: E402
from stages.view_rendering import make_renderer, trace_views  # noqa: E402
from utils.benchmarking.point_counts import CountedPoints  # noqa: E402
from utils.benchmarking.variants import Jobs, Variant, interleaved, matmul_rate, median_seconds  # noqa: E402
from utils.config.parser import TRAIN_SECTIONS, parse_config  # noqa: E402
from utils.config.tool_sections import BenchmarkConfig  # noqa: E402
from utils.config.values import parse_resolution  # noqa: E402
from utils.devices import pick_device  # noqa: E402
from utils.fast.chunked_autograd import chunk_size  # noqa: E402
from utils.fast.image_networks.execution import network_precision  # noqa: E402
from utils.fast.memory import keep_freed_memory  # noqa: E402
from utils.fast.siren.evaluator import fast_evaluator  # noqa: E402
from utils.files.atomic import write_text_atomic  # noqa: E402
from utils.geometry.rays import camera_rays  # noqa: E402
from utils.geometry.sdf import gradient  # noqa: E402
from utils.results.text_tables import format_rows  # noqa: E402
from utils.runs.run import run_script  # noqa: E402
from utils.views.training_views import views_of  # noqa: E402

VARIANTS = ("reference", "fast")
FLOP_PER_POINT = 99_328           # SIREN 3-128-128-128-128-1, multiplications and additions
NUM_SDF_POINTS = 100_000
NUM_FIRST_STEPS = 10              # of the fast path, after which both variants are measured
NUM_FIRST_STEPS_SWEEP = 1         # at 800x600 ten take as long as all that is measured
NUM_DENSE_SAMPLES = 2000          # of a ray on which both tracers disagree, to tell which is right
JOBS = ("shape_step", "image_step", "render_frame", "buffers", "sdf_forward", "sdf_gradient",
        "eikonal")
SHAPE_STEP, IMAGE_STEP = 3, 53    # steps of the DTU schedule that train the shape, and that do not
APART = 1e-3                      # object units
SWEEP_WIDTHS = (100, 200, 400, 800)
SWEEP_VIEWS = (3, 7, 14, 28, 49)
#: Pixels of a view above which the plain path, at 24 s a shape step, is not run in the sweep.
MOST_REFERENCE_PIXELS = 200 * 150


def product_in_place(into, left, right, *rest, out_shape=None, **options) -> int:
    """FLOP of `addmm_`, from shapes: torch's counter does not know it."""
    return 2 * left[0] * left[1] * right[1]


def trainer_of(tracer: str, views, device: torch.device):
    """A new trainer of the demonstration's flags on all views as sources, seed 0."""
    config = parse_config(TRAIN_SECTIONS, [
        "--config_filepath", "configs/demo.txt", "--tracer", tracer, "--device", device.type,
        "--source_views_per_target", "-1"])
    torch.manual_seed(0)
    model = build_model(config.sdf, config.cnn, config.views, config.run,
                        is_fast=tracer == "fast").to(device)
    return build_scene_trainer(model, views, config, generator=torch.Generator().manual_seed(0))


class Subject:
    """What one variant's process measures.

    Args:
        tracer: fast or reference.
        scene_path, im_scale: the scene.
        device_name: of the flag.
        num_views: how many views `buffers` traces.
        num_sources: source views of a step; 0: those of the dtu split.
        num_first_steps: of the fast path, whose surface both variants get.
    """

    def __init__(self, tracer: str, scene_path: str, im_scale: float, device_name: str,
                 num_views: int, num_sources: int = 0,
                 num_first_steps: int = NUM_FIRST_STEPS) -> None:
        device = pick_device(device_name)
        self.is_fast = tracer == "fast"
        if self.is_fast and device.type == "cpu":
            keep_freed_memory()
        scene = load_scene(scene_path, im_scale=im_scale)
        train = resolve_split(len(scene), "dtu" if len(scene) == 49 else "").train
        if num_sources:
            train = [i * (len(scene) - 1) // (num_sources - 1) for i in range(num_sources)]
        views = views_of(scene, train, device)
        first = trainer_of("fast", views, device)          # both variants get the same surface
        first.trace_all()
        for step in range(num_first_steps):
            first.train_step(step)
        self.trainer = trainer_of(tracer, views, device)
        self.trainer.model.load_state_dict(first.model.state_dict())
        self.points = torch.rand(NUM_SDF_POINTS, 3, generator=torch.Generator().manual_seed(0))
        self.points = (self.points * 2 - 1).to(device)
        self.cameras = scene.cameras[:num_views].to(device)
        self.frame_camera = scene.cameras[len(scene) // 4]
        self.counter = CountedPoints(self.trainer)
        self.trainer.trace_all()
        self.renderer = make_renderer(self.trainer.model, self.trainer.views, occ_threshold=1e-3,
                                      tracer=self.trainer.tracer)

    def jobs(self) -> Jobs:
        """All measurements by name."""
        return {"shape_step": lambda: self.step(SHAPE_STEP),
                "image_step": lambda: self.step(IMAGE_STEP), "buffers": self.buffers,
                "render_frame": self.render_frame, "sdf_forward": self.sdf_forward,
                "sdf_gradient": self.sdf_gradient, "eikonal": self.eikonal,
                "agreement": self.agreement, "operations": self.operations}

    def operations(self) -> dict[str, float]:
        """FLOP of the matrix products and convolutions of both steps, backward passes included."""
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
        """A training step."""
        before = self.counter.total
        self.trainer.train_step(number)
        return {"sdf_evaluations": self.counter.total - before}

    def buffers(self) -> dict[str, float]:
        """Hits of all views: the plain path view by view, the fast one in one go."""
        before, model = self.counter.total, self.trainer.model
        if self.is_fast:
            self.trainer.tracer.forget()
        parts = [slice(None)] if self.is_fast else range(len(self.cameras))
        for part in parts:
            trace_views(model.sdf, self.cameras[part], self.trainer.tracer)
        num_rays = len(self.cameras) * self.cameras.resolution[0] * self.cameras.resolution[1]
        return {"sdf_evaluations": self.counter.total - before, "rays": num_rays}

    @torch.no_grad()
    def sdf_forward(self) -> dict[str, float]:
        """The SDF at NUM_SDF_POINTS points and, as rates change within minutes, right after it the
        matrix product that it is compared with."""
        sdf, device = self.trainer.model.sdf, self.points.device
        seconds = median_seconds(lambda: (fast_evaluator(sdf) if self.is_fast else sdf)(
            self.points), device)
        return {"ms": seconds * 1e3, "matmul_flops": matmul_rate(device, self.points.dtype)}

    def sdf_gradient(self) -> None:
        """SDF and its gradient at NUM_SDF_POINTS points, without a graph for the weights."""
        sdf = self.trainer.model.sdf
        if not self.is_fast:
            gradient(sdf, self.points, create_graph=False)
            return
        with torch.no_grad():
            for part in self.points.split(chunk_size(self.points)):
                sdf.value_and_gradient(part)

    def agreement(self) -> dict[str, float]:
        """Shares of rays on which this tracer and the plain one differ, over the training views."""
        model, rays = self.trainer.model, camera_rays(self.trainer.views.cameras)
        plain = ReferenceTracer().trace(model.sdf, rays)
        found = self.trainer.tracer.trace(model.sdf, rays)
        both = plain.hit_mask & found.hit_mask
        differ = plain.hit_mask != found.hit_mask
        inside = torch.nn.functional.max_pool2d(-self.trainer.views.masks.float(), 5, 1, 2) == -1
        inside = differ & inside.reshape(-1)
        wrong = dense_hits(model.sdf, rays[inside]) != found.hit_mask[inside]
        return {"apart": ((plain.t - found.t).abs()[both] > APART).float().mean().item(),
                "disagree": differ.float().mean().item(), "rays": len(rays),
                "num_inside": int(inside.sum()), "num_wrong_inside": int(wrong.sum())}

    def eikonal(self) -> None:
        """The eikonal term of a shape step with its gradient."""
        eikonal_loss(self.trainer.tracer, self.trainer.model.sdf,
                     self.trainer.eikonal_points()).backward()

    def render_frame(self) -> None:
        """A new view from stored source features, of a surface that stands still."""
        self.renderer(self.frame_camera)


@torch.no_grad()
def dense_hits(sdf, rays) -> torch.Tensor:
    """(R,) bool: the SDF is below zero at one of NUM_DENSE_SAMPLES points of the ray."""
    shares = torch.linspace(0, 1, NUM_DENSE_SAMPLES).to(rays.t_near)
    t = rays.t_near[:, None] + (rays.t_far - rays.t_near)[:, None] * shares
    values = fast_evaluator(sdf)(rays.points(t).reshape(-1, 3)).reshape(t.shape)
    return (values < 0).any(-1)


def make_jobs(*arguments) -> Jobs:
    """`Subject`'s jobs; a function of this module, so that a process can be told to call it."""
    return Subject(*arguments).jobs()


def measure(scene_path: str, im_scale: float, config: BenchmarkConfig,
            *, num_views: int = 49, num_sources: int = 0, jobs=JOBS, names=VARIANTS,
            num_first_steps: int = NUM_FIRST_STEPS) -> dict[str, dict]:
    """Figures by job and variant; processes are fresh, so peaks are those of these jobs."""
    variants = [Variant(name, make_jobs, name, scene_path, im_scale, config.device, num_views,
                        num_sources, num_first_steps) for name in names]
    try:
        return {job: interleaved(variants, job, config.repeats)
                for job in tqdm(jobs, desc="measuring", leave=False)}
    finally:
        for variant in variants:
            variant.close()


def ratios_of(found: dict[str, dict]) -> dict[str, float]:
    """Reference over fast."""
    def ratio(job: str, key: str = "ms") -> float:
        return found[job]["reference"][key] / found[job]["fast"][key]

    return {"shape_step": ratio("shape_step"), "image_step": ratio("image_step"),
            "sdf_evaluations": ratio("shape_step", "sdf_evaluations"), "buffers": ratio("buffers"),
            "peak_memory": ratio("shape_step", "peak_mib"), "render_frame": ratio("render_frame")}


def sweep(scene_path: str, width: int, config: BenchmarkConfig) -> list[dict]:
    """How everything grows with the size of the views, and with their number."""
    rows, config = [], replace(config, repeats=1)
    common = {"num_first_steps": NUM_FIRST_STEPS_SWEEP}
    for wide in tqdm(SWEEP_WIDTHS, desc="sizes"):
        names = VARIANTS if wide * wide * 3 // 4 <= MOST_REFERENCE_PIXELS else ("fast",)
        found = measure(scene_path, wide / width, config, names=names, **common,
                        jobs=("shape_step", "image_step", "render_frame"))
        rows.append({"width": wide, "views": 7, **found})
    for views in tqdm(SWEEP_VIEWS, desc="views"):
        found = measure(scene_path, SWEEP_WIDTHS[0] / width, config, num_views=views, **common,
                        num_sources=views, jobs=("shape_step", "image_step", "render_frame",
                                                 "buffers"))
        rows.append({"width": SWEEP_WIDTHS[0], "views": views, **found})
    return rows


def table(result: dict) -> str:
    """The figures as text."""
    rows = [["", "reference", "fast", "ratio"]]
    for job, found in result["measured"].items():
        pair = [found[name] for name in VARIANTS]
        rows.append([f"{job}, ms", *(f"{x['ms']:.1f}" for x in pair),
                     f"{pair[0]['ms'] / pair[1]['ms']:.1f}"])
        if "rays" in pair[0]:
            rows.append(["  evaluations a ray",
                         *(f"{x['sdf_evaluations'] / x['rays']:.2f}" for x in pair), ""])
            rows.append(["  Mrays/s", *(f"{x['rays'] / x['ms'] / 1e3:.3f}" for x in pair), ""])
        if job in ("sdf_forward", "sdf_gradient"):
            rows.append(["  Mpoints/s",
                         *(f"{NUM_SDF_POINTS / x['ms'] / 1e3:.2f}" for x in pair), ""])
        if pair[1].get("sdf_evaluations"):
            rows.append(["  SDF evaluations", *(f"{x['sdf_evaluations']:.3g}" for x in pair),
                         f"{pair[0]['sdf_evaluations'] / pair[1]['sdf_evaluations']:.1f}"])
    rows.append(["peak memory of a shape step, MiB",
                 *(f"{found['peak_mib']:.0f}" for found in
                   result["measured"]["shape_step"].values()),
                 f"{result['ratios']['peak_memory']:.1f}"])
    for row in result.get("sweep", []):
        for job in (job for job in JOBS if job in row):
            cells = [f"{row[job][name]['ms']:.0f}" if name in row[job] else "-"
                     for name in VARIANTS]
            rows.append([f"{job}, {row['views']} views {row['width']} wide, ms", *cells, ""])
        peaks = [f"{row['shape_step'][name]['peak_mib']:.0f}" if name in row["shape_step"] else "-"
                 for name in VARIANTS]
        rows.append([f"  peak of a shape step, {row['views']} views {row['width']} wide, MiB",
                     *peaks, ""])
    agreement = result["agreement"]
    limits = [f"{name} step: {flop[0] / 1e9:.0f} GFLOP of convolutions, {flop[1] / 1e9:.0f} of "
              f"matrix products, at these rates {least:.0f} ms"
              for name, flop, least in step_limits(result)]
    lines = [f"{result['device']}, {result['threads']} threads, torch {result['torch']}, "
             f"{result['scene']} at {result['resolution']}", format_rows(rows),
             f"matrix product {result['matmul_flops'] / 1e9:.0f} GFLOP/s; SDF forward "
             f"{result['sdf_points_per_second'] / 1e6:.2f} Mpoints/s = "
             f"{result['sdf_forward_fraction_of_matmul']:.0%} of it; convolution "
             f"{result['conv_flops'] / 1e9:.0f} GFLOP/s", *limits,
             f"hits more than {APART:g} apart: {agreement['apart']:.3%} of rays that both call "
             f"hits; hit or miss disagrees: {agreement['disagree']:.3%} of rays, "
             f"{agreement['num_inside']:.0f} of {agreement['rays']:.0f} in the mask's interior, of "
             "which dense sampling finds the fast one wrong in "
             f"{agreement['num_wrong_inside']:.0f}"]
    return "\n".join(lines)


def conv_rate(device: torch.device) -> float:
    """The decoder's widest convolution as training computes it, forward, FLOP/s."""
    precision = torch.bfloat16 if network_precision("auto", device.type, True) == "bf16" \
        else torch.float32
    maps = torch.randn(4, 192, 96, 128, device=device, dtype=precision)
    maps = maps.contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(192, 64, 3, padding=1).to(maps)
    layer = layer.to(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = median_seconds(lambda: layer(maps), device)
    return 2 * 9 * 192 * 64 * 4 * 96 * 128 / seconds


def step_limits(result: dict) -> list[tuple[str, tuple[float, float], float]]:
    """For both steps: FLOP (convolutions, matrix products), and their time at measured rates, ms.

    No step can be faster without doing less: sines, memory and everything else come on top.
    """
    counts = result["operations"]
    rows = []
    for name in ("shape", "image"):
        flop = counts[f"{name}_conv"], counts[f"{name}_matmul"]
        rows.append((name, flop, (flop[0] / result["conv_flops"]
                                  + flop[1] / result["matmul_flops"]) * 1e3))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Make or find the scene, measure, print."""
    config = parse_config([BenchmarkConfig], argv).benchmark
    device = pick_device(config.device)
    with tempfile.TemporaryDirectory() as folder:
        path, size = config.scene, parse_resolution(config.resolution)
        if not path:
            widest = (SWEEP_WIDTHS[-1], SWEEP_WIDTHS[-1] * 3 // 4) if config.sweep else size
            path = str(write_scene(make_scene("blobs", 0, resolution=widest, supersampling=1),
                                   Path(folder) / "scene", "processed"))
        width = load_scene(path).cameras.resolution[0]
        measured = measure(path, size[0] / width, config)
        rate = measured["sdf_forward"]["fast"]["matmul_flops"]
        once = measure(path, size[0] / width, replace(config, repeats=1), names=("fast",),
                       jobs=("agreement", "operations"))
        per_second = NUM_SDF_POINTS / measured["sdf_forward"]["fast"]["ms"] * 1e3
        result = {
            "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "scene": Path(config.scene).name or "made-up scene", "resolution": config.resolution,
            "ratios": ratios_of(measured), "agreement": once["agreement"]["fast"],
            "operations": once["operations"]["fast"], "conv_flops": conv_rate(device),
            "measured": measured, "matmul_flops": rate,
            "sdf_points_per_second": per_second,
            "sdf_forward_fraction_of_matmul": per_second * FLOP_PER_POINT / rate}
        if config.json:                            # what is there is kept if the sweep is stopped
            write_text_atomic(config.json, json.dumps(result, indent=2))
        if config.sweep:
            result["sweep"] = sweep(path, width, config)
    print(table(result))
    if config.json:
        write_text_atomic(config.json, json.dumps(result, indent=2))


if __name__ == "__main__":
    run_script(main)
