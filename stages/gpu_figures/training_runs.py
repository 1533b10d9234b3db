"""Held-out PSNR over seconds of training, from the shipped start and from scratch."""
from __future__ import annotations

import logging
import time
from typing import Any

from stages.evaluation import image_grids
from stages.gpu_figures.setup import (
    IMAGE_STEP,
    SCRATCH,
    SHAPE_STEP,
    SHIPPED,
    MeasureSetup,
    Subject,
    wait_for,
)
from utils.benchmarking.parts import Recorder
from utils.checkpoints.networks import NETWORKS
from utils.checkpoints.weights import save_networks
from utils.results.pictures import on_white, save_png

log = logging.getLogger(__name__)

#: Of the time, for each start; what one leaves goes to the next.
SHARES = {SHIPPED: 0.6, SCRATCH: 1.0}
BARS_DB = (25, 28, 30, 32)
#: Seconds of training after which held-out views are scored, then every LATER_SECONDS.
SCORED_SECONDS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60)
LATER_SECONDS = 20
NUM_UNREAD = 10           # steps that the host may be ahead of the device
LEFT_FOR_RESULTS = 0.1    # of a run's time, for weights and pictures
LEAST_FOR_RESULTS = 3.0   # seconds


def measure_training(setup: MeasureSetup, recorder: Recorder) -> None:
    """Train from both starts; note their curves, and write weights and pictures.

    What a process does once (to compile and choose kernels) is done before, and noted by itself.
    """
    recorder.attempt("seconds_of_first_steps", lambda: first_steps(setup))
    for start, share in SHARES.items():
        recorder.attempt(start, lambda start=start, share=share:
                         trained_from(start, setup, recorder, recorder.left() * share))


def first_steps(setup: MeasureSetup) -> float:
    """Take a step of each kind and score it; return the seconds."""
    subject, begin = setup.subject(SCRATCH), time.perf_counter()
    subject.trainer.trace_all()
    for step in (SHAPE_STEP, IMAGE_STEP):
        subject.trainer.train_step(step)
    subject.trainer.score(1)
    return round(time.perf_counter() - begin, 3)


def trained_from(start: str, setup: MeasureSetup, recorder: Recorder,
                 seconds: float) -> dict[str, Any]:
    """Train from one start for so many seconds, scores and pictures included."""
    begin = time.perf_counter()
    subject = setup.subject(start)
    found: dict[str, Any] = {"resolution": "x".join(map(str, subject.scene.cameras.resolution)),
                             "sources": subject.num_sources, "curve": []}

    def note(row: dict[str, float]) -> None:
        """Put a row into the curve, and what follows from it into the figures."""
        found["curve"].append(row)
        found["seconds_to"] = seconds_to(found["curve"])
        found["steps_per_second"] = row["step"] / row["seconds"] if row["seconds"] else 0.0
        recorder.note(start, found)

    kept = max(seconds * LEFT_FOR_RESULTS, LEAST_FOR_RESULTS)
    rest = seconds - kept - (time.perf_counter() - begin)
    step = train_for(subject, rest, note)
    write_trained(start, setup, subject, step)
    return found


def train_for(subject: Subject, seconds: float, note: Any) -> int:
    """Train until so many seconds are over, scores included; return the number of steps.

    Args:
        subject: nothing is traced yet; the first trace counts as training.
        seconds: from now on.
        note: takes a row {"seconds", "step", "psnr", ...} for each time of SCORED_SECONDS; its
            seconds are those of training alone.
    """
    trainer, end, spent, step = subject.trainer, time.perf_counter() + seconds, 0.0, 0
    due = [float(seconds) for seconds in SCORED_SECONDS]

    def score() -> None:
        """Score the held-out views."""
        row = {"seconds": round(spent, 3), "step": step, **trainer.score(step)}
        log.info("%s", row)
        note(row)

    begin = time.perf_counter()
    trainer.trace_all()
    wait_for(subject.device)
    spent += time.perf_counter() - begin
    score()
    while time.perf_counter() < end:
        while due and due[0] <= spent:
            due.pop(0)
        if not due:
            due.append((spent // LATER_SECONDS + 1) * LATER_SECONDS)
        before = step
        while spent < due[0] and time.perf_counter() < end:
            begin = time.perf_counter()
            for _ in range(NUM_UNREAD if subject.device.type == "cuda" else 1):
                trainer.train_step(step)
                step += 1
            wait_for(subject.device)
            spent += time.perf_counter() - begin
        if step > before:                                  # else the time was over
            score()
    return step


def seconds_to(curve: list[dict[str, float]]) -> dict[str, float | None]:
    """Return the seconds of training after which PSNR was first seen at each of BARS_DB."""
    return {f"{bar} dB": next((row["seconds"] for row in curve if row.get("psnr", 0) >= bar), None)
            for bar in BARS_DB}


def write_trained(start: str, setup: MeasureSetup, subject: Subject, step: int) -> None:
    """Write the averaged weights, an image grid and the first held-out view."""
    model: Any = subject.trainer.average.averaged_model()
    save_networks(setup.weights_of(start), **{name: getattr(model, name) for name in NETWORKS})
    trained = subject.evaluation.trained_scene(subject.trainer, step)
    name, folder = start.replace(" ", "_"), setup.output / "pictures"
    save_png(folder / f"{name}_views.png", image_grids(trained, ["views"])["views"])
    view = trained.rendered(trained.scored[0])
    save_png(folder / f"{name}_rendered.png", on_white(view.image, view.hit_mask))
