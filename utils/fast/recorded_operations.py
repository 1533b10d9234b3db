"""Operations written down once and done again in the same memory: a CUDA graph without CUDA.

It keeps what a graph keeps and no more: the operations, the memory that they read and write, and
numbers of the host as they were. What a graph cannot hold is refused here too. So that work which
repeats its numbers from here would do so from a graph; it is no faster than the work itself.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Outputs = Sequence[Tensor | None]
#: Operations whose result the host reads, or whose shape depends on values.
READING = frozenset({
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "nonzero_numpy", "masked_select",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "repeat_interleave", "bincount", "histc", "_linalg_check_errors"})


class RecordingError(RuntimeError):
    """Work cannot be recorded: the host reads a value in it, or a shape depends on values."""


class OperationNotes(TorchDispatchMode):
    """Does the operations of its block, below those of autograd, and notes them.

    Attributes:
        steps: each operation with what it took and what it returned, in order.
    Raises:
        RecordingError: a value is read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Do the operation, unless a value is read, and note it."""
        name = name_of(operation)
        if name in READING or (name.startswith(("index", "_unsafe_index", "_index_put"))
                               and _has_mask(args)):
            raise RecordingError(f"{operation} cannot be recorded: it reads values on the host, or "
                                 "has a result whose shape depends on them")
        kwargs = kwargs or {}
        found = operation(*args, **kwargs)
        self.steps.append((operation, args, kwargs, found))
        return found

    def shapes(self) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
        """Return the name of each operation and the shapes of its results, in order."""
        return [(name_of(operation), tuple(tuple(x.shape) for x in _tensors(found)))
                for operation, _, _, found in self.steps]

    def num_computing(self) -> int:
        """Return how many operations compute or copy; the others are views, and memory unfilled.

        On a GPU each of them is a launch, or several.
        """
        return sum(operation._schema.is_mutable or any(
            not _shares_memory(tensor, (args, kwargs)) for tensor in _tensors(found))
            for operation, args, kwargs, found in self.steps if "empty" not in name_of(operation))

    @torch.no_grad()
    def repeat(self) -> None:
        """Do all operations again, with what their memory holds now."""
        for operation, args, kwargs, found in self.steps:
            again = _tensors(operation(*args, **kwargs))
            for place, value in zip(_tensors(found), again, strict=True):
                if not _shares_memory(place, (args, kwargs)):
                    place.copy_(value)


class OperationRecording:
    """Work that was done once, and can be done again.

    Args:
        work: takes nothing, and returns tensors; it reads no value on the host.
    Attributes:
        outputs: what the work returned; doing it again writes into them.
        notes: its operations.
    Raises:
        RecordingError: the work reads a value.
    """

    def __init__(self, work: Callable[[], Outputs]) -> None:
        with OperationNotes() as self.notes:
            self.outputs = work()

    def replay(self) -> None:
        """Do all operations again, with what their memory holds now."""
        self.notes.repeat()


def name_of(operation: Any) -> str:
    """Return an operation's name without namespace and overload."""
    return operation._schema.name.split("::")[1]


def _has_mask(args: tuple) -> bool:
    """Whether rows are chosen by a mask."""
    return any(x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1:2]))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _shares_memory(found: Tensor, given: Any) -> bool:
    """Whether a result lies in memory that the operation was given: views, changes in place."""
    place = found.untyped_storage()._cdata
    return any(tensor.untyped_storage()._cdata == place for tensor in _tensors(given))
