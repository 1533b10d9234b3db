"""A process that has imported the project and forks a child for each run, which may be killed.

Importing torch takes longer than a tiny run. The server itself computes nothing: what autograd does
in a parent cannot be continued in a child.

As a program it reads a request a line, as JSON, and answers each with a line; `ForkServer` is its
user. A kill is SIGKILL, after some seconds or at a place:

    half:NAME     half of a checkpoint called NAME is in its temporary file
    before:NAME   a file is written, and about to be renamed to NAME
    after:NAME    it was renamed just now
    call:MODULE.FUNCTION   the function is about to be called; `call:...#3`: for the third time
"""
from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = ("train_sdf_ibr", "train_sdf_ibr_meta", "pretrain_features", "test_sdf_ibr")


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that killed it, and its seconds."""

    code: int
    seconds: float
    output: str

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class ForkServer:
    """Runs scripts in forked children, one at a time.

    Args:
        folder: for the children's output; they run in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def run(self, script: str, flags: list[str], *, kill_after: float = 0.0,
            kill_at: str = "") -> Ended:
        """Run a script's main as from a shell; perhaps kill it."""
        self.count += 1
        output = self.folder / f"output_{self.count:03d}.txt"
        request = {"script": script, "flags": [str(flag) for flag in flags],
                   "output": str(output), "kill_after": kill_after, "kill_at": kill_at}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return Ended(code, seconds, output.read_text(encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """End the server."""
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def serve() -> None:
    """Answer requests until the input ends."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (2, 1)]
    import torch

    from support import tiny_runs
    torch.set_num_threads(1)
    for name in SCRIPTS:
        tiny_runs.script(name)
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if not child:
            be_child(request)
        code = wait(child, request["kill_after"])
        print(json.dumps([code, time.monotonic() - start]), flush=True)


def warm_up() -> None:
    """Do what each child would do anew: modules that are imported late, the fonts of plots."""
    import torch._dynamo  # noqa: F401  the first optimiser imports it

    from utils.results.lpips import build_lpips
    from utils.results.plots import curve_plot
    build_lpips("")
    curve_plot([{"step": step, "seconds": step, "loss": step, "psnr": step} for step in (1, 2)])


def wait(child: int, kill_after: float) -> int:
    """Wait for a child's end; end it after so many seconds, unless 0."""
    end = time.monotonic() + kill_after
    while kill_after > 0:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(min(0.002, max(end - time.monotonic(), 0)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def be_child(request: dict) -> None:
    """Run the script; never returns."""
    from support.tiny_runs import call_as_user
    code = 1
    try:
        handle = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, aim in ((nothing, 0), (handle, 1), (handle, 2)):
            os.dup2(source, aim)
        if request["kill_at"]:
            arrange_kill(*request["kill_at"].split(":", 1))
        call_as_user(request["script"], *request["flags"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        import logging
        sys.stdout.flush()
        logging.shutdown()                 # as at the end of a process of its own
        os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_kill(kind: str, name: str) -> None:
    """Let this process be killed at a place; see above."""
    if kind == "call":
        place, _, number = name.partition("#")
        module, function = place.rsplit(".", 1)
        kill_at_call(importlib.import_module(module), function, int(number or 1))
    elif kind == "half":
        kill_in_half(name)
    else:
        kill_at_rename(name, is_before=kind == "before")


def kill_at_call(module: object, function: str, number: int) -> None:
    inner, calls = getattr(module, function), []

    def counting(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            kill_self()
        return inner(*args, **kwargs)

    setattr(module, function, counting)


def kill_at_rename(name: str, *, is_before: bool) -> None:
    replace = os.replace

    def killing(source, aim, **options):
        is_it = Path(aim).name == name
        if is_it and is_before:
            kill_self()
        replace(source, aim, **options)
        if is_it:
            kill_self()

    os.replace = killing


def kill_in_half(name: str) -> None:
    import torch

    from utils.files.atomic import part_path
    save = torch.save

    def killing(payload, stream, **options):
        if os.path.basename(stream.name) != part_path(Path(name)).name:
            save(payload, stream, **options)
            return
        whole = io.BytesIO()
        save(payload, whole, **options)
        stream.write(whole.getvalue()[:whole.tell() // 2])
        stream.flush()
        kill_self()

    torch.save = killing


if __name__ == "__main__":
    serve()
