"""Where the time of a training step goes: its longest kernels, its share of the peak, its gaps."""
from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from stages.benchmark import conv_rate, product_in_place
from stages.gpu_figures.setup import (
    IMAGE_STEP,
    SHAPE_STEP,
    SHIPPED,
    WARM_UP,
    MeasureSetup,
    Subject,
    wait_for,
)
from utils.benchmarking.parts import Recorder
from utils.benchmarking.variants import matmul_rate

NUM_KERNELS = 20
NAME_LENGTH = 90          # of a kernel's name, whose template arguments may fill a page
RATE_SIZE = 4096          # of the square matrices whose product tells the peak on a GPU


def measure_profile(setup: MeasureSetup, recorder: Recorder) -> None:
    """Note the device's rates, and a profile of a step of each kind."""
    subject = setup.subject(SHIPPED)
    subject.trainer.trace_all()
    rates = recorder.attempt("rates", lambda: rates_of(subject.device)) or {}
    for name, step in (("shape step", SHAPE_STEP), ("image step", IMAGE_STEP)):
        recorder.attempt(name, lambda step=step: step_profile(subject, step, rates))


def rates_of(device: torch.device) -> dict[str, float]:
    """Return the rates of products of fp32 and bf16 and of D's widest convolution, FLOP/s."""
    size = RATE_SIZE if device.type == "cuda" else 256
    return {"fp32": matmul_rate(device, torch.float32, size),
            "bf16": matmul_rate(device, torch.bfloat16, size), "convolution": conv_rate(device)}


def step_profile(subject: Subject, step: int, rates: dict[str, float]) -> dict[str, Any]:
    """Return the profile of one training step.

    Returns:
        ms: of the step without the profiler; busy_ms: sum of its kernels; gap: share of the step
        in which the device has nothing to do; flop: of products and convolutions; peak_share: at
        the rate of bf16 products; kernels: the NUM_KERNELS longest, name, calls and ms.
    """
    trainer, device = subject.trainer, subject.device
    for _ in range(WARM_UP):
        trainer.train_step(step)
    wait_for(device)
    start = time.perf_counter()
    trainer.train_step(step)
    wait_for(device)
    elapsed = (time.perf_counter() - start) * 1e3
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities) as found:
        trainer.train_step(step)
        wait_for(device)
    rows = kernel_rows(found.key_averages(), is_cuda)
    busy, flop = sum(ms for _, _, ms in rows), step_flop(subject, step)
    peak = rates.get("bf16")
    return {"ms": elapsed, "busy_ms": busy, "gap": max(1 - busy / elapsed, 0.0), "flop": flop,
            "peak_share": flop / (elapsed * 1e-3) / peak if peak else None,
            "num_kernels": sum(calls for _, calls, _ in rows),
            "kernels": [{"name": name[:NAME_LENGTH], "calls": calls, "ms": ms}
                        for name, calls, ms in rows[:NUM_KERNELS]]}


def kernel_rows(averages: Any, is_cuda: bool) -> list[tuple[str, int, float]]:
    """Return (name, calls, ms) of kernels on CUDA, or of operators on a CPU; the longest first."""
    def own_ms(event: Any) -> float:
        return (event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1e3

    events = [event for event in averages
              if not is_cuda or event.device_type == torch.autograd.DeviceType.CUDA]
    rows = [(event.key, event.count, own_ms(event)) for event in events if own_ms(event) > 0]
    return sorted(rows, key=lambda row: -row[2])


def step_flop(subject: Subject, step: int) -> float:
    """Return the FLOP of a step's matrix products and convolutions, backward pass included."""
    with FlopCounterMode(display=False, custom_mapping={
            torch.ops.aten.addmm_: product_in_place}) as counter:
        subject.trainer.train_step(step)
    return float(counter.get_total_flops())
