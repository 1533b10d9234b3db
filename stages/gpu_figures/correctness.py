"""Does a GPU compute what the CPU computes: kernel, tracer, training step; does the host wait.

Whatever differs is given as a figure, not as an error: who reads them decides.
"""
from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdf_rendering import ReferenceTracer, differentiable_hits
from stages.gpu_figures.setup import (
    IMAGE_STEP,
    SHAPE_STEP,
    MeasureSetup,
    Subject,
    timed_ms,
    wait_for,
)
from training import SceneTrainer
from utils.benchmarking.parts import Recorder
from utils.fast.siren.evaluator import fast_evaluator
from utils.fast.tracing.gpu_tracer import (
    DeviceTracer,
    GridNodes,
    has_triton,
    march_masked,
    skip_empty_space,
)
from utils.files.atomic import write_text_atomic
from utils.geometry.rays import Rays, TraceResult, camera_rays
from utils.geometry.sdf import SDF_THRESHOLD
from utils.paths import PROJECT_ROOT

NUM_STEPS = 10            # of the comparison of whole trainings
NUM_WATCHED = 6           # steps in which waits of the host are counted
BUMPS = 0.05              # noise on the weights, of each tensor's spread: a surface far from smooth
APART = 1e-3              # between hits, object units
COMPARED_WIDTH = 128      # of the images on which CPU and GPU take the same steps
#: Rays and warps of a program of the kernel, which `block_of` chooses among by what they spill.
BLOCKS = ((32, 4), (32, 8), (64, 4), (64, 8), (128, 8))
BLOCK_SECONDS = 1.0       # for the time of one of them
NETWORKS = ("sdf", "encoder", "aggregation", "decoder")
#: Test files of the project that have tests for a GPU; what is interpreted needs none.
GPU_TESTS = ("tests/method/test_device_training.py", "tests/utils/test_devices.py",
             "tests/utils/fast/tracing/test_triton_kernel.py", "-k", "not interpreter")
TEST_SECONDS = 0.4        # of what is left, for these tests


def measure_correctness(setup: MeasureSetup, recorder: Recorder) -> None:
    """Note how far the device's results are from the CPU's and from the plain forms'."""
    subject = setup.subject("from scratch", "--precision", "fp32")
    camera = subject.trainer.views.cameras[:1]
    rays = camera_rays(camera)
    for name, noise in (("sphere", 0.0), ("bumpy", BUMPS)):
        sdf = with_bumps(subject.model.sdf, noise)
        recorder.attempt(f"tracer, {name}", lambda sdf=sdf: tracer_against_reference(sdf, rays))
        if setup.is_cuda and has_triton():
            recorder.attempt(f"kernel, {name}", lambda sdf=sdf: kernel_against_plain(sdf, rays))
    if not (setup.is_cuda and has_triton()):
        recorder.note("kernel", "not run: it needs CUDA and triton")
    recorder.attempt("steps", lambda: steps_against_cpu(setup))
    if setup.is_cuda:
        for precision in ("fp32", "auto"):
            recorder.attempt(f"waits of the host, {precision}", lambda precision=precision:
                             waits(setup.subject("shipped start", "--precision", precision)))
    else:
        recorder.note("waits of the host", "not counted: a CPU has nothing to wait for")
    recorder.attempt("replayed steps", lambda: replayed_against_plain(setup))
    if setup.is_cuda:
        recorder.attempt("tests", lambda: run_tests(recorder))


def with_bumps(sdf: nn.Module, noise: float) -> nn.Module:
    """Return the SDF with normal noise on its weights, in place; `noise` of each spread."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sdf.parameters():
            if parameter.numel() > 1:
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter += noise * parameter.std() * drawn
    return sdf


def tracer_against_reference(sdf: nn.Module, rays: Rays) -> dict[str, float]:
    """Return how the hits of the tracer for GPUs differ from the reference's, on this device."""
    tracer = DeviceTracer(differentiable_hits, 40, fast_evaluator)
    found = tracer.trace(sdf, rays)
    return differences(sdf, rays, found, ReferenceTracer().trace(sdf, rays))


def differences(sdf: nn.Module, rays: Rays, found: TraceResult,
                reference: TraceResult) -> dict[str, float]:
    """Return the shares of rays on which two traces differ, and how well the hits lie.

    Returns:
        hit_or_miss: share of all rays; apart: share of common hits more than APART apart;
        median_apart, object units; off_surface: share of hits where |Phi| exceeds the threshold by
        a fifth.
    """
    both = found.hit_mask & reference.hit_mask
    apart = (found.t - reference.t).abs()[both]
    with torch.no_grad():
        value = sdf(rays.points(found.t))[found.hit_mask].abs()
    return {"rays": len(rays), "hits": int(found.hit_mask.sum()),
            "hit_or_miss": share(found.hit_mask != reference.hit_mask),
            "apart": share(apart > APART),
            "median_apart": float(apart.median()) if len(apart) else 0.0,
            "off_surface": share(value > 1.2 * SDF_THRESHOLD)}


def share(mask: Tensor) -> float:
    """Return the share of True entries; 0 of none."""
    return float(mask.float().mean()) if mask.numel() else 0.0


def kernel_against_plain(sdf: nn.Module, rays: Rays) -> dict[str, float]:
    """Return how the fused march differs from plain steps from the same state, and both times."""
    from utils.fast.tracing.triton_kernel import march_fused, pack
    with torch.no_grad():
        state = skip_empty_space(GridNodes(rays.t_near).sample(sdf), rays)
        packed, device = pack(sdf), rays.t_near.device
        fused, plain = march_fused(packed, rays, state)[0], march_masked(sdf, rays, state)[0]
        found = [TraceResult(x.t, x.hit_mask, 0) for x in (fused.ended(), plain.ended())]
        times = {f"fused_ms, {rays_of} rays in {warps} warps": timed_ms(
            lambda block=(rays_of, warps): march_fused(packed, rays, state, block=block), device,
            BLOCK_SECONDS) for rays_of, warps in BLOCKS}
        return differences(sdf, rays, *found) | times | {
            "fused_ms": timed_ms(lambda: march_fused(packed, rays, state), device, BLOCK_SECONDS),
            "plain_ms": timed_ms(lambda: march_masked(sdf, rays, state), device, BLOCK_SECONDS)}


def steps_against_cpu(setup: MeasureSetup) -> dict[str, Any]:
    """Take the same steps on the CPU and on the device, in fp32; return how far they differ.

    The device's products are computed in full precision, not in TF32. Gradients are compared twice:
    by the reference tracer, whose hits are the same on both, and by the fast one of each device,
    whose hits may lie on either side of the surface.
    """
    scene_width = setup.subject().scene.cameras.resolution[0] / setup.im_scale
    small = min(setup.im_scale, COMPARED_WIDTH / scene_width)
    flags = ("--precision", "fp32", "--load_im_scale", small)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        found: dict[str, Any] = {}
        for tracer in ("reference", "fast"):
            cpu, device = (setup.subject("shipped start", *flags, "--tracer", tracer, device=name)
                           for name in ("cpu", setup.device))
            for name, step in (("shape", SHAPE_STEP), ("image", IMAGE_STEP)):
                found[f"{name} gradients, {tracer}"] = gradient_differences(cpu, device, step)
        losses = [train(subject.trainer, NUM_STEPS) for subject in (cpu, device)]
        found["resolution"] = "x".join(map(str, cpu.scene.cameras.resolution))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    found["losses"] = [{"cpu": one, setup.device: other} for one, other in zip(*losses)]
    return found


def replayed_against_plain(setup: MeasureSetup) -> dict[str, float]:
    """Return how losses of image steps that are replayed differ from those of others, largest."""
    losses = []
    for flags in ((), ("--cuda_graphs", 1)):
        trainer = setup.subject("shipped start", "--precision", "fp32", *flags).trainer
        trainer.trace_all()
        trainer.generator.manual_seed(0)
        losses.append([float(trainer.train_step(IMAGE_STEP)["total"]) for _ in range(NUM_STEPS)])
    return {"steps": NUM_STEPS, "relative_difference": max(
        abs(one - other) / abs(one) for one, other in zip(*losses, strict=True))}


def gradient_differences(one: Subject, other: Subject, step: int) -> dict[str, float]:
    """Return |g - g'| / |g| of each network, of the gradients of the same step."""
    gradients = []
    for subject in (one, other):
        subject.trainer.generator.manual_seed(1)
        subject.trainer.trace_all()
        subject.trainer.optimizer.zero_grad(set_to_none=True)
        subject.trainer.losses(subject.trainer.plan(step))["total"].backward()
        gradients.append({name: flat_gradient(getattr(subject.model, name)) for name in NETWORKS})
    return {name: float((gradients[0][name] - gradients[1][name]).norm()
                        / gradients[0][name].norm().clamp(min=1e-12)) for name in NETWORKS}


def flat_gradient(network: nn.Module) -> Tensor:
    """Return all gradients of a network as one vector (N,) on the CPU, float64; 0 where none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return torch.cat([part.detach().double().cpu().reshape(-1) for part in parts])


def train(trainer: SceneTrainer, num_steps: int) -> list[float]:
    """Take steps from the same random state; return their total losses."""
    trainer.generator.manual_seed(0)
    return [float(trainer.train_step(step)["total"]) for step in range(num_steps)]


def waits(subject: Subject) -> dict[str, Any]:
    """Return where the host waits for the GPU in training steps that follow the first ones."""
    trainer = subject.trainer
    trainer.trace_all()
    for step in (*range(3), IMAGE_STEP):
        trainer.train_step(step)

    def steps() -> None:
        """Take steps of both kinds."""
        for number in range(NUM_WATCHED):
            trainer.train_step((SHAPE_STEP, IMAGE_STEP)[number % 2])

    places = waits_of(steps)
    return {"steps": NUM_WATCHED, "waits": sum(places.values()), "places": dict(places)}


def waits_of(work: Callable[[], Any]) -> Counter[str]:
    """Return how often CUDA calls of some work made the host wait, by file and line."""
    wait_for("cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(found.filename).name}:{found.lineno}" for found in caught
                   if "synchroniz" in str(found.message))


def run_tests(recorder: Recorder) -> dict[str, Any]:
    """Run the project's tests that ask for a GPU; their output goes beside the figures."""
    if importlib.util.find_spec("pytest") is None:
        return {"summary": "not run: pytest is not installed"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *GPU_TESTS]
    try:
        told = subprocess.run(command, cwd=PROJECT_ROOT, text=True, capture_output=True,
                              check=False, timeout=max(recorder.left() * TEST_SECONDS, 20))
        text, code = told.stdout + told.stderr, told.returncode
    except subprocess.TimeoutExpired as error:
        text, code = str(error.stdout or ""), -1
    write_text_atomic(recorder.path.parents[1] / "logs" / "pytest.txt", text)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", text.splitlines()[-1]
                        if text else "")
    return {"summary": ", ".join(counts) or "cut off", "exit_code": code}
