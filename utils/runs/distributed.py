"""Several processes that train together: who they are, what they exchange, and how they fail.

`python -m utils.launch N script.py ...` starts N ranks on one machine, torchrun on several; without
either there is one, and everything here returns at once. Sums are taken in the order of the ranks,
so that they are the same to the bit each time. `utils.runs.ranked_training` has the trainer that is
built on this.

A rank that dies is noticed at once: its connections close, and torchrun ends the others. A rank
that is alive and does not answer ends the run after TIMEOUT, which must be longer than any rank's
part of a step and than scoring and saving between steps. A rank that waits logs so every PATIENCE.
"""
from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.devices import pick_device
from utils.errors import ConfigError, RankError

log = logging.getLogger(__name__)

JOINING = timedelta(minutes=10)      # within this time all ranks must have started
TIMEOUT = timedelta(hours=6)         # a rank that neither answers nor dies ends the run after it
PATIENCE = timedelta(minutes=5)      # a rank that waits for others logs so every time it passes
ROLL_CALL = timedelta(seconds=5)     # ranks that do not answer within it count as gone
MESSAGE_BYTES = 600                  # of an error's text that is sent to the other ranks
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of the run.

    Attributes:
        rank: number of this process, from 0 to size - 1.
        size: number of processes.
        device: where this process computes; with CUDA a GPU of its own.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that reads and writes the run's folder."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of `count` items are this rank's: every size-th, an even division."""
        return range(self.rank, count, self.size)


#: A run without torchrun, on a CPU.
ONE_PROCESS = Ranks()


def start_ranks(device: str) -> Ranks:
    """Join the other processes of a run that torchrun started (gloo on a CPU, nccl on CUDA).

    Args:
        device: auto, cpu or cuda; each rank of a machine takes a GPU of its own.
    Returns:
        The place of this process.
    Raises:
        ConfigError: there is no such device, or fewer GPUs than ranks on this machine.
        RankError: the others cannot be reached, or do not start within JOINING.
    """
    found = pick_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    if size == 1:
        return Ranks(device=found)
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    if found.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(f"rank {rank} needs GPU {local}, this machine has "
                              f"{torch.cuda.device_count()}; give --nproc_per_node "
                              f"{torch.cuda.device_count()}, or --device cpu")
        torch.cuda.set_device(local)
        found = torch.device("cuda", local)
    keep_to_this_machine()
    import_module("torch._dynamo")             # see `finish_ranks`
    try:
        store = _store(size)
        store.set(f"joined/{rank}", "here")
        store.wait([f"joined/{other}" for other in range(size)], JOINING)
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo", store=store, rank=rank,
                                world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"rank {rank} of {size} cannot reach the others ({_first_line(error)}); "
                        "start all of them with torchrun") from error
    return Ranks(rank, size, found)


def _store(size: int) -> dist.Store:
    """Return where the processes find each other: a file, or what torchrun names."""
    if "METANLR_STORE" in os.environ:                # set by `utils.launch`
        return dist.FileStore(os.environ["METANLR_STORE"], size)
    return next(dist.rendezvous("env://", timeout=JOINING))[0]


def keep_to_this_machine() -> None:
    """Let ranks that all run on one machine communicate over its loopback interface alone.

    Otherwise gloo listens at the address of the machine's name, where others may reach it. The
    environment variables are left as they are where the user has set them.
    """
    if os.environ.get("MASTER_ADDR") in LOOPBACK and sys.platform == "linux":
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")


def finish_ranks() -> None:
    """Leave the group of processes, at the end of a run or after an error.

    This ends the group's threads, unless something still refers to the group, as torch._dynamo
    does where it is imported after the group was made (the first optimiser imports it). Such
    threads now and then let a process that exits right after its last message end with SIGABRT.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes of the run, and leave them after the block; see `start_ranks`."""
    ranks = start_ranks(device)
    try:
        yield ranks
    finally:
        finish_ranks()


def average_tensors(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace tensors, in place, by their means over all ranks.

    Args:
        tensors: floating point, the same shapes on every rank.
        ranks: the processes of the run.
    Raises:
        RankError: a rank is gone.
    """
    if ranks.size == 1 or not tensors:
        return
    with torch.no_grad():
        mean = sum_over_ranks(_flat(tensors), ranks) / ranks.size
        _unflatten(mean, tensors)


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace the gradients by their means over all ranks, before clipping and the step.

    A parameter without gradient on some ranks counts as zero there; one that has none on any rank
    stays without.

    Args:
        parameters: those of the model, the same on every rank.
        ranks: the processes of the run.
    Raises:
        RankError: a rank is gone.
    """
    parameters = [p for p in parameters if p.requires_grad]
    if ranks.size == 1 or not parameters:
        return
    with torch.no_grad():
        present = torch.tensor([float(p.grad is not None) for p in parameters],
                               device=parameters[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = sum_over_ranks(_flat([present, *gradients]), ranks)
        _unflatten(torch.cat([total[:len(present)], total[len(present):] / ranks.size]),
                   [present, *gradients])
        for parameter, gradient, count in zip(parameters, gradients, present.tolist(), strict=True):
            parameter.grad = gradient if count else None


def sum_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum of a tensor over all ranks, added in their order; not in place."""
    if ranks.size == 1:
        return values.clone()
    parts = [torch.empty_like(values) for _ in range(ranks.size)]
    with _naming_who_is_gone(ranks):
        dist.all_gather(parts, values.contiguous())
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def gather_in_turn(mine: Sequence[Sequence[Tensor]], like: Sequence[Tensor], count: int,
                   ranks: Ranks) -> list[list[Tensor]]:
    """Return what all ranks computed of a batch, in the order of the batch.

    Args:
        mine: floating point tensors of each of this rank's items, see `Ranks.share`.
        like: tensors of the shapes of one item's.
        count: items of the batch.
        ranks: the processes of the run.
    Raises:
        RankError: a rank is gone.
    """
    if ranks.size == 1:
        return [list(row) for row in mine]
    rows: list[list[Tensor]] = []
    with torch.no_grad(), _naming_who_is_gone(ranks):
        for turn in range(-(-count // ranks.size)):        # the last one may lack some ranks' items
            flat = _flat(mine[turn] if turn < len(mine) else [torch.zeros_like(x) for x in like])
            parts = [torch.empty_like(flat) for _ in range(ranks.size)]
            dist.all_gather(parts, flat)
            for part in parts:
                rows.append([torch.empty_like(x) for x in like])
                _unflatten(part, rows[-1])
    return rows[:count]


def broadcast_tensors(tensors: Sequence[Tensor], ranks: Ranks) -> None:
    """Give all ranks the main rank's values, in place; tensors of any dtype."""
    if ranks.size == 1:
        return
    with torch.no_grad(), _naming_who_is_gone(ranks):
        for tensor in tensors:
            value = tensor.contiguous()
            dist.broadcast(value, 0)
            tensor.copy_(value)


def broadcast_int(value: int, ranks: Ranks) -> int:
    """Return the main rank's whole number."""
    number = torch.tensor([value], device=ranks.device)
    broadcast_tensors([number], ranks)
    return int(number)


def broadcast_adam(optimizer: torch.optim.Adam, ranks: Ranks) -> None:
    """Give all ranks the main rank's moments and step counts; learning rates are left as they are.

    Args:
        optimizer: over the same parameters in the same order on every rank.
        ranks: the processes of the run.
    """
    state = optimizer.state
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    counts = torch.tensor([int(state[p]["step"]) if p in state else 0 for p in parameters],
                          device=ranks.device)
    broadcast_tensors([counts], ranks)
    for parameter, count in zip(parameters, counts.tolist(), strict=True):
        if not count:
            state.pop(parameter, None)
        elif not ranks.is_main:
            state[parameter] = {"step": torch.tensor(float(count)),
                                "exp_avg": torch.zeros_like(parameter),
                                "exp_avg_sq": torch.zeros_like(parameter)}
    moments = [state[p][name] for p in parameters if p in state
               for name in ("exp_avg", "exp_avg_sq")]
    broadcast_tensors(moments, ranks)


@contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Run a block on all ranks; after it an error of one of them is raised in all of them.

    The rank at fault raises its own error, the others a RankError with its number and text. If all
    errors are FloatingPointErrors, all ranks raise one, so that all of them skip the step.
    """
    if ranks.size == 1:
        yield
        return
    problem: Exception | None = None
    try:
        yield
    except RankError:
        raise                                  # the others know of it, or are gone
    except Exception as error:
        problem = error
    messages = _gather_texts("" if problem is None else f"{type(problem).__name__}: {problem}",
                             ranks)
    failed = [f"rank {rank} failed: {text}" for rank, text in enumerate(messages) if text]
    is_numeric = all(text.startswith(FloatingPointError.__name__) for text in messages if text)
    if problem is not None and (is_numeric or not isinstance(problem, FloatingPointError)):
        raise problem
    if failed:
        raise (FloatingPointError if is_numeric else RankError)("; ".join(failed))


def _gather_texts(text: str, ranks: Ranks) -> list[str]:
    """Return the texts of all ranks, each cut at MESSAGE_BYTES."""
    data = text.encode()[:MESSAGE_BYTES]
    line = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
    line[:len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    lines = [torch.empty_like(line, device=ranks.device) for _ in range(ranks.size)]
    with _naming_who_is_gone(ranks):
        dist.all_gather(lines, line.to(ranks.device))
        lines = [part.cpu() for part in lines]             # here the host waits for a GPU
    return [bytes(part.tolist()).rstrip(b"\0").decode(errors="ignore") for part in lines]


@contextmanager
def _naming_who_is_gone(ranks: Ranks) -> Iterator[None]:
    """Turn the backend's error about a lost rank into a RankError that names the rank.

    While the block waits for other ranks, a warning says for how long.
    """
    is_over = threading.Event()
    threading.Thread(target=_say_that_it_waits, args=(ranks, is_over), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        gone = _absent(ranks)
        which = f"rank {', '.join(map(str, gone))} of {ranks.size} is gone" if gone else \
            f"the ranks lost each other ({_first_line(error)})"
        raise RankError(f"{which}; its own message says why. The same command resumes from the "
                        "last checkpoint, on any number of ranks") from error
    finally:
        is_over.set()


def _say_that_it_waits(ranks: Ranks, is_over: threading.Event) -> None:
    """Log a warning every PATIENCE until the event is set."""
    waited = PATIENCE
    while not is_over.wait(PATIENCE.total_seconds()):
        log.warning("rank %d of %d has waited %s for the others; it gives up after %s", ranks.rank,
                    ranks.size, waited, TIMEOUT)
        waited += PATIENCE


def _absent(ranks: Ranks) -> list[int]:
    """Return the ranks that do not answer a roll call within ROLL_CALL."""
    store = dist.distributed_c10d._get_default_store()
    absent = []
    try:
        store.set(f"roll_call/{ranks.rank}", "here")
    except RuntimeError:
        return [0]                             # the store is kept by the main rank
    for rank in range(ranks.size):
        try:
            store.wait([f"roll_call/{rank}"], ROLL_CALL)
        except RuntimeError:
            absent.append(rank)
    return absent


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
