"""Parts of a measurement for tests: one that ends, one that dies, one that takes too long."""
from __future__ import annotations

import os
import time

from utils.benchmarking.parts import Part, Recorder


def ends(setup: dict, recorder: Recorder) -> None:
    print("said by the part")
    recorder.note("given", setup["number"])
    recorder.attempt("broken", lambda: 1 / 0)
    recorder.note("last", float("nan"))


def dies(setup: dict, recorder: Recorder) -> None:
    recorder.note("before", 1)
    print("an illegal access", flush=True)
    os._exit(7)


def sleeps(setup: dict, recorder: Recorder) -> None:
    recorder.note("before", 2)
    time.sleep(60)


PARTS = {"dies": Part("dies", 0.4, dies), "sleeps": Part("sleeps", 0.3, sleeps),
         "ends": Part("ends", 0.3, ends)}
