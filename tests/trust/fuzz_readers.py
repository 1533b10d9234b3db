"""Fuzzes every reader of files: no exception but our own, no hang, no memory over 1 GB.

    python tests/trust/fuzz_readers.py --minutes 10
    python tests/trust/fuzz_readers.py --minutes 0.5 --readers ply,checkpoint

Each reader gets sound files made on the spot, of which one (sometimes two) is damaged: bytes,
numbers and words of text, values in JSON and pickles, entries of archives. Input number i of a
seed is always the same. A reader runs in a process of its own that may map 1 GB more than it does
at the start; one that is busy with one input for 20 s is ended and counted as hanging. Inputs that
fail are kept with their traceback in the output's folder failures/READER/NUMBER; once fixed, the
damaged files go to tests/trust/corpus/READER/CASE, which the test suite reads. The end is a table,
also as fuzz.json. Exit code 1 where anything failed.
"""
from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import numpy as np
import torch
from tqdm import tqdm
from trust.mutations import damaged
from trust.readers import READERS
from trust.reading import Reader

from utils.errors import UserError
from utils.results.text_tables import format_rows

MEMORY_BYTES, HANG_SECONDS = 2**30, 20.0
#: Where files need no disk; None: in the usual place for temporary files.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
MOST_KEPT = 20                    # failures kept of each reader
POLL_SECONDS = 0.2
#: Words of the allocators of torch and OpenCV, whose errors are no MemoryErrors.
OUT_OF_MEMORY = ("not enough memory", "can't allocate", "Insufficient memory", "bad_alloc",
                 "Cannot allocate memory")


@dataclass
class Outcome:
    """What became of a reader's inputs.

    Attributes:
        inputs: tried.
        accepted: read without an error, as the damage did no harm or was not to be seen.
        failures: number of the input to what happened, in a line.
        peak_mib: greatest resident memory over that at the start.
    """

    reader: str
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)


class Fuzzer:
    """Sound files of one reader in a folder, damaged one after the other.

    Args:
        reader: what is fuzzed.
        folder: empty; sound files go to its folder sound, the work is done beside it.
        seed: of the damage.
    """

    def __init__(self, reader: Reader, folder: Path, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        reader.make(self.work)
        self.sound = {path.relative_to(self.work).as_posix(): path.read_bytes()
                      for path in sorted(self.work.glob("**/*")) if path.is_file()}
        self.targets = sorted(path.relative_to(self.work).as_posix()
                              for path in self.work.glob(reader.files) if path.is_file())

    def mutant(self, number: int) -> dict[str, bytes]:
        """Names of the damaged files of an input, and their content."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.reader.name.encode()), number])
        count = 2 if not self.reader.is_single and rng.integers(8) == 0 else 1
        names = {self.targets[i] for i in rng.integers(len(self.targets), size=count)}
        return {name: damaged(name, self.sound[name], rng) for name in sorted(names)}

    def read(self, mutant: dict[str, bytes]) -> bool:
        """Read the damaged files; whether they were accepted.

        Raises:
            whatever the reader raises beside a UserError; MemoryError too where it was hidden.
        """
        for name, data in mutant.items():
            (self.work / name).write_bytes(data)
        try:
            target = self.work / next(iter(mutant)) if self.reader.is_single else self.work
            self.reader.read(target)
            return True
        except UserError as error:
            raise_hidden(error)
            return False
        finally:
            for name in mutant:
                (self.work / name).write_bytes(self.sound[name])


def raise_hidden(error: BaseException) -> None:
    """Raise MemoryError where one of our errors came from too large an allocation."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or any(word in str(seen) for word in OUT_OF_MEMORY):
            raise MemoryError(f"hidden behind: {error}")
        seen = seen.__cause__ or seen.__context__


def quiet() -> None:
    """One thread, no log, no warnings, no progress bars."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def fuzz_here(name: str, folder: Path, *, seed: int, first: int, count: int) -> Outcome:
    """Fuzz a reader in this process, without bounds of memory and time."""
    fuzzer, outcome = Fuzzer(READERS[name], folder, seed), Outcome(name)
    for number in range(first, first + count):
        _try(fuzzer, number, outcome)
    return outcome


def _try(fuzzer: Fuzzer, number: int, outcome: Outcome) -> str:
    """Read one input and note what happened; gives the traceback of a failure, else ''."""
    outcome.inputs += 1
    try:
        outcome.accepted += fuzzer.read(fuzzer.mutant(number))
    except Exception as error:                     # that is what is looked for
        outcome.failures[number] = f"{type(error).__name__}: {str(error)[:200]}"
        return traceback.format_exc()
    return ""


def _work(name: str, folder: Path, seed: int, first: int, current: Synchronized,
          results: multiprocessing.connection.Connection) -> None:
    """The child: fuzzes from number `first` on until it is ended."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)                               # progress bars and libraries' complaints
    quiet()
    fuzzer = Fuzzer(READERS[name], folder, seed)
    fuzzer.read({fuzzer.targets[0]: fuzzer.sound[fuzzer.targets[0]]})       # imports are done
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))
    at_start, number = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, first
    while True:
        current.value = number
        outcome = Outcome(name)
        told = _try(fuzzer, number, outcome)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start) / 1024
        results.send((number, outcome.accepted, peak, outcome.failures.get(number), told))
        number += 1


def fuzz_apart(name: str, output: Path, *, seconds: float, seed: int) -> Outcome:
    """Fuzz a reader in child processes until the time is over."""
    outcome, end = Outcome(name), time.monotonic() + seconds
    start, number = time.monotonic(), 0
    with tqdm(total=round(seconds), desc=name, unit="s", dynamic_ncols=True) as bar:
        while time.monotonic() < end:
            number = _one_child(name, output, outcome, first=number, end=end, seed=seed, bar=bar)
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _one_child(name: str, output: Path, outcome: Outcome, *, first: int, end: float, seed: int,
               bar: tqdm) -> int:
    """Run one child until it dies, hangs, or the time is over; the number to continue from."""
    context = multiprocessing.get_context("fork")
    current = context.Value("q", first)
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=IN_MEMORY) as folder:
        child = context.Process(target=_work, args=(name, Path(folder), seed, first, current,
                                                    sender), daemon=True)
        child.start()
        sender.close()
        why, number, changed = "", first - 1, time.monotonic()
        while not why and time.monotonic() < end:
            before = number
            number, closed = _receive(receiver, outcome, output, seed, number)
            now = time.monotonic()
            changed = now if number != before else changed
            bar.n = min(bar.total, round(bar.total - (end - now)))
            bar.set_postfix(inputs=outcome.inputs, failed=len(outcome.failures))
            if closed:
                child.join(5)
                why = f"the process died (exit code {child.exitcode})"
            elif now - changed > HANG_SECONDS:
                why = f"no end after {HANG_SECONDS:g} s"
        child.kill()
        child.join()
    if why:
        number = current.value
        outcome.inputs += 1
        outcome.failures[number] = why
        _keep(output, name, number, seed, why)
    return number + 1


def _receive(receiver: multiprocessing.connection.Connection, outcome: Outcome, output: Path,
             seed: int, number: int) -> tuple[int, bool]:
    """Take in what the child sent; the last number, and whether the child is gone."""
    until = time.monotonic() + POLL_SECONDS
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            number, accepted, peak, failure, told = receiver.recv()
            outcome.inputs += 1
            outcome.accepted += accepted
            outcome.peak_mib = round(max(outcome.peak_mib, peak), 1)
            if failure:
                outcome.failures[number] = failure
                _keep(output, outcome.reader, number, seed, told)
            if time.monotonic() > until:
                break
    except EOFError:
        return number, True
    return number, False


def _keep(output: Path, name: str, number: int, seed: int, told: str) -> None:
    """Write a failing input, made once more, with its traceback."""
    folder = output / "failures" / name / str(number)
    if len(list(folder.parent.glob("*"))) >= MOST_KEPT:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traceback.txt").write_text(told, errors="replace")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        for file, data in Fuzzer(READERS[name], Path(place), seed).mutant(number).items():
            (folder / file.replace("/", "__")).write_bytes(data)


def table_of(outcomes: list[Outcome]) -> str:
    """A line a reader, and their sum."""
    rows = [("reader", "inputs", "accepted", "seconds", "peak MiB", "failures")]
    rows += [(o.reader, f"{o.inputs:,}", f"{o.accepted:,}", f"{o.seconds:.0f}",
              f"{o.peak_mib:.0f}", str(len(o.failures))) for o in outcomes]
    rows.append(("all", f"{sum(o.inputs for o in outcomes):,}",
                 f"{sum(o.accepted for o in outcomes):,}",
                 f"{sum(o.seconds for o in outcomes):.0f}",
                 f"{max(o.peak_mib for o in outcomes):.0f}",
                 str(sum(len(o.failures) for o in outcomes))))
    return format_rows(rows)


def main(argv: list[str] | None = None) -> int:
    """Fuzz what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    parser.add_argument("--readers", default=",".join(READERS), help="names, commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("logs/fuzz"))
    flags = parser.parse_args(argv)
    names = flags.readers.split(",")
    unknown = [name for name in names if name not in READERS]
    if unknown:
        parser.error(f"no reader {', '.join(unknown)}; there are {', '.join(READERS)}")
    for name in names:
        shutil.rmtree(flags.output / "failures" / name, ignore_errors=True)
    outcomes = []
    for name in names:
        outcomes.append(fuzz_apart(name, flags.output, seconds=60 * flags.minutes,
                                   seed=flags.seed))
        flags.output.mkdir(parents=True, exist_ok=True)
        (flags.output / "fuzz.json").write_text(json.dumps(
            {"seed": flags.seed, "outcomes": [asdict(o) for o in outcomes]}, indent=2) + "\n")
    print(table_of(outcomes))
    for outcome in outcomes:
        for number, what in list(outcome.failures.items())[:MOST_KEPT]:
            print(f"  {outcome.reader} {number}: {what}")
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
