"""Time and memory of a training step and a frame, each option by itself on and off."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from stages.benchmark import run_benchmark
from stages.gpu_figures.frames import frame_camera, frame_image, replayed_frame
from stages.gpu_figures.memory import step_memory
from stages.gpu_figures.setup import (
    IMAGE_STEP,
    SHAPE_STEP,
    SHIPPED,
    MeasureSetup,
    Subject,
    timed_ms,
    wait_for,
)
from stages.replaying.frames import ReplayingRenderer
from stages.replaying.steps import ReplayingTrainer
from stages.view_rendering import make_renderer
from utils.benchmarking.parts import Recorder
from utils.config.tool_sections import BenchmarkConfig
from utils.fast.recorded_operations import OperationNotes
from utils.fast.replays import NUM_BEFORE
from utils.fast.tracing.gpu_tracer import (
    DeviceTracer,
    GridNodes,
    march_masked,
    skip_empty_space,
)
from utils.geometry.rays import camera_rays

MIB = 2 ** 20
LEFT_FOR_REST = 0.5       # of the time, for what follows the first options
FEW_VIEWS, MANY_VIEWS = 7, 49
REPEATS = 3               # of the table


@dataclass(frozen=True)
class Option:
    """One way to compute a step.

    Attributes:
        name: of the option.
        flags: of the run.
        change: what is done to the subject before; None: nothing.
        with_tf32: whether products of fp32 may be computed in TF32.
        is_of_gpus: it has no meaning on a CPU.
    """

    name: str
    flags: tuple[str, ...] = ()
    change: Callable[[Subject], None] | None = None
    with_tf32: bool = False
    is_of_gpus: bool = True


def without_kernel(subject: Subject) -> None:
    """Let rays be traced in plain steps."""
    if isinstance(subject.trainer.tracer, DeviceTracer):
        subject.trainer.tracer.uses_kernel = False


def compiled_graphs(subject: Subject) -> None:
    """Compile E and D, and let torch replay each of them as a CUDA graph."""
    for network in (subject.model.encoder, subject.model.decoder):
        network.compile(mode="reduce-overhead")


GRAPHS, COMPILED = ("--cuda_graphs", "1"), ("--compile_networks", "1")
OPTIONS = (
    Option("as shipped", is_of_gpus=False),
    Option("fp32", ("--precision", "fp32"), is_of_gpus=False),
    Option("fp32, channels last", ("--precision", "fp32", "--memory_format", "channels_last"),
           is_of_gpus=False),
    Option("bf16, channels first", ("--precision", "bf16", "--memory_format", "channels_first"),
           is_of_gpus=False),
    Option("without the kernel", change=without_kernel),
    Option("fp32, products in TF32", ("--precision", "fp32"), with_tf32=True),
    Option("products in TF32", with_tf32=True),
    Option("reference tracer", ("--tracer", "reference"), is_of_gpus=False),
)
#: What takes long to begin, or may end the device's work where it fails: after all others.
LAST_OPTIONS = (
    Option("CUDA graphs", GRAPHS, is_of_gpus=False),
    Option("E and D compiled", COMPILED),
    Option("E and D compiled, in CUDA graphs", (*GRAPHS, *COMPILED)),
    Option("E and D compiled, a CUDA graph of each", change=compiled_graphs),
)


def measure_options(setup: MeasureSetup, recorder: Recorder) -> None:
    """Note time and memory of each option, of a step with all views, and benchmark.py's table."""
    options, last = ([option for option in found if setup.is_cuda or not option.is_of_gpus]
                     for found in (OPTIONS, LAST_OPTIONS))
    measure_each(setup, recorder, options, LEFT_FOR_REST)
    if setup.num_views == MANY_VIEWS:
        many = Option(f"as shipped, {MANY_VIEWS} views", (
            "--dataset_name", "", "--train_views", "all", "--test_views", "0",
            "--source_views_per_target", "-1"))
        recorder.attempt(many.name, lambda: option_figures(setup, many, recorder.left() / 8))
    if setup.is_cuda:
        recorder.attempt("benchmark.py", lambda: table(setup))
    measure_each(setup, recorder, last, 0.0)
    for views in (FEW_VIEWS, MANY_VIEWS):
        recorder.attempt(f"computed, fp32, {views} views", lambda views=views:
                         computed_memory(setup, views))
    recorder.attempt("counted, operations", lambda: operation_counts(setup))


def measure_each(setup: MeasureSetup, recorder: Recorder, options: Sequence[Option],
                 kept: float) -> None:
    """Note the figures of each option, in what time is left but for a fraction that is kept."""
    for number, option in enumerate(options):
        seconds = recorder.left() * (1 - kept) / (len(options) - number + 1)
        recorder.attempt(option.name, lambda option=option, seconds=seconds:
                         option_figures(setup, option, seconds))


def computed_memory(setup: MeasureSetup, num_views: int) -> dict[str, Any]:
    """Return the memory of a step as it is computed without a GPU, for comparison."""
    cameras = setup.subject(device="cpu").scene.cameras
    return step_memory(setup, min(num_views, len(cameras)), cameras.resolution)


def operation_counts(setup: MeasureSetup) -> dict[str, int]:
    """Return how many operations an image step and a frame are, which a graph launches at once.

    Counted on the CPU, by the ways of a GPU; rays march in plain steps, for which a GPU with the
    fused kernel has one launch (`frame_march` of them are left out there).
    """
    subject = setup.subject(SHIPPED, *GRAPHS, "--precision", "fp32", device="cpu")
    trainer = subject.trainer
    assert isinstance(trainer, ReplayingTrainer), "the flag asks for it"
    trainer.trace_all()
    batch = trainer.sampled.draw(trainer.generator, trainer.buffer).batch
    with OperationNotes() as step:
        trainer.image_gradients(trainer.plan(IMAGE_STEP), trainer.trained, batch.sources,
                                batch.targets)
    renderer = ReplayingRenderer(make_renderer(subject.model.eval(), trainer.views,
                                               occ_threshold=1e-3, tracer=trainer.tracer))
    camera = frame_camera(subject, 1.0)
    rays = camera_rays(camera)
    frame_image(renderer, camera, rays)                    # the grid is sampled
    with OperationNotes() as frame:
        frame_image(renderer, camera, rays)
    with torch.no_grad():
        state = skip_empty_space(GridNodes(rays.t_near).sample(subject.model.sdf), rays)
        with OperationNotes() as march:
            march_masked(subject.model.sdf, rays, state)
    return {"image_step": step.num_computing(), "frame": frame.num_computing(),
            "frame_march": march.num_computing()}


def option_figures(setup: MeasureSetup, option: Option, seconds: float) -> dict[str, Any]:
    """Return median times of both steps and of a frame, ms, and the peak of memory, MiB.

    What a process does once for an option (kernels compiled, a graph recorded) is done before, in
    `first_s`.
    """
    with tf32(option.with_tf32):
        subject = setup.subject(SHIPPED, *option.flags)
        if option.change is not None:
            option.change(subject)
        trainer, device = subject.trainer, subject.device
        trainer.trace_all()
        begin = time.perf_counter()
        for step in (SHAPE_STEP, *[IMAGE_STEP] * (NUM_BEFORE + 1)):
            trainer.train_step(step)
        wait_for(device)
        found: dict[str, Any] = {"sources": subject.num_sources,
                                 "first_s": time.perf_counter() - begin}
        if setup.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        for name, step in (("shape_step", SHAPE_STEP), ("image_step", IMAGE_STEP)):
            found[f"{name}_ms"] = timed_ms(lambda step=step: trainer.train_step(step), device,
                                           seconds / 3)
        if setup.is_cuda:
            found["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        renderer = make_renderer(subject.model.eval(), trainer.views, occ_threshold=1e-3,
                                 tracer=trainer.tracer)
        camera = frame_camera(subject, 1.0)
        draw = replayed_frame(renderer, camera) if subject.config.views.cuda_graphs else \
            partial(frame_image, renderer)
        for _ in range(NUM_BEFORE + 1):
            draw(camera)
        found["frame_ms"] = timed_ms(lambda: draw(camera), device, seconds / 3)
        return found


@contextmanager
def tf32(is_allowed: bool):
    """Compute products of fp32 matrices in TF32 in the block; convolutions are so by default."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def table(setup: MeasureSetup) -> dict[str, Any]:
    """Return what benchmark.py measures of this scene at half the size."""
    subject = setup.subject()
    size = "x".join(str(max(side // 2, 8)) for side in subject.scene.cameras.resolution)
    return run_benchmark(BenchmarkConfig(device=setup.device, scene=setup.scene, resolution=size,
                                         repeats=REPEATS))
