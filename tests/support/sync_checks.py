"""Catches what would make the host wait for a GPU, without a GPU: the device is torch's `meta`.

Tensors on `meta` have shapes and no values. Code that runs on them cannot have read one; what they
would let pass on top of that is refused here.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operations whose result is read by the host, or whose shape depends on values.
WAITING = {"_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "equal",
           "is_nonzero", "_unique", "_unique2", "unique_dim", "unique_consecutive",
           "unique_dim_consecutive", "repeat_interleave", "_linalg_check_errors", "bincount",
           "histc", "allclose"}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_",
            "_unsafe_index_put"}
COPIES = {"_to_copy", "copy_", "_copy_from"}
#: Functions that copy numbers of the host to the device, and wait for that.
FROM_NUMBERS = {"tensor", "as_tensor", "asarray", "new_tensor", "from_numpy"}


class HostWaits(AssertionError):
    """The host would wait here on a GPU."""


class _Operations(TorchDispatchMode):

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Refuse what waits; run the rest."""
        kwargs = kwargs or {}
        name = operation._schema.name.split("::")[1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            self.seen.add(name)
            if name in WAITING:
                raise HostWaits(f"{operation} of a tensor of the GPU")
            if name in INDEXING:
                _check_index([x for x in tree_leaves(args[1]) if isinstance(x, Tensor)])
        if name in COPIES:
            _check_copy(operation, tensors, kwargs, args)
        return operation(*args, **kwargs)


def _check_index(indices: list[Tensor]) -> None:
    """Only numbers of rows, and those on the device already."""
    for index in indices:
        if index.dtype in (torch.bool, torch.uint8):
            raise HostWaits("rows are chosen by a mask: how many are there?")
        if not index.is_meta:
            raise HostWaits("rows are chosen by an index of the host, which is copied")


def _check_copy(operation, tensors: list[Tensor], kwargs: dict, args: tuple) -> None:
    """Only copies from host to device that need not be waited for."""
    ends = [x.device.type for x in tensors]
    if kwargs.get("device") is not None:
        ends = [torch.device(kwargs["device"]).type, *ends]
    is_unwaited = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2] is True)
    if len(set(ends)) > 1 and not (is_unwaited and ends[0] == "meta"):
        raise HostWaits(f"{operation} between devices {ends}")


class _Functions(TorchFunctionMode):

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Refuse tensors made on the device from numbers."""
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in ("__getitem__", "__setitem__") and args[0].is_meta:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                raise HostWaits("rows are chosen by a list of the host, which is copied")
        made = function(*args, **kwargs)
        if getattr(function, "__name__", "") in FROM_NUMBERS and made.is_meta and not (
                args and isinstance(args[0], Tensor) and function is torch.as_tensor):
            raise HostWaits(f"{function.__name__}: numbers of the host, copied to the GPU")
        return made


class no_waiting:
    """Raises HostWaits inside the block; `seen` has the names of the operations on the device."""

    def __enter__(self) -> no_waiting:
        self.operations, self.functions = _Operations(), _Functions()
        self.operations.__enter__()
        self.functions.__enter__()
        self.seen = self.operations.seen
        return self

    def __exit__(self, *error) -> None:
        self.functions.__exit__(*error)
        self.operations.__exit__(*error)
