"""A GPU that is pretended: tensors that say `cuda`, and hold their values on the CPU.

Whatever a GPU would refuse or wait for shows without one, and every number is real, so that the
code that CUDA takes can be compared with that of the CPU:

- an operation on tensors of both devices raises `MixedDevices`, as on a GPU;
- inside `no_waiting`, whatever makes the host wait for the device raises `HostWaits`: reading a
  value, a shape that depends on values, a copy that is not both pinned and asked not to be waited
  for. Outside it is let pass, as on a GPU.

What it cannot show: kernels of Triton, cuDNN and cuBLAS, their rounding, and the order of streams.
"""
from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from support.sync_checks import COPIES, FROM_NUMBERS, INDEXING, WAITING, HostWaits
from utils.fast.recorded_operations import OperationNotes

ROOT = Path(__file__).resolve().parents[2]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


class MixedDevices(AssertionError):
    """A GPU would refuse tensors of two devices in one operation."""


class _Watch:
    """Whether waits of the host are looked for now, and where those are noted that are let pass."""

    is_on = False
    places: set[str] | None = None

    @classmethod
    def tell(cls, what: str) -> None:
        """Refuse a wait, or note its place."""
        if not cls.is_on:
            return
        if cls.places is None:
            raise HostWaits(what)
        own = [frame for frame in traceback.extract_stack()
               if frame.filename.startswith(f"{ROOT}/") and frame.filename != __file__]
        cls.places.add(f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].name}")


class DeviceTensor(Tensor):
    """A tensor that says that it is on the GPU; `held` has its values, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        """Wrap a tensor of the CPU; no copy, no gradient."""
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=CPU)
        made.held = held
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        """Number of the GPU."""
        return 0

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """Values, with the device that it says."""
        return f"{self.held!r} on {CUDA}"

    def __deepcopy__(self, memo: dict) -> DeviceTensor:
        """A leaf with the same values."""
        if id(self) not in memo:
            made = DeviceTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
            for name, value in vars(self).items():
                if name != "held":
                    setattr(made, name, value)
            memo[id(self)] = made
            if self.grad is not None:
                made.grad = copy.deepcopy(self.grad, memo)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        """Check what the operation is given, and compute it on the values."""
        kwargs = kwargs or {}
        name = operation._schema.name.split("::")[1]
        _check_devices(operation, name, args, kwargs)
        if name in WAITING:
            _Watch.tell(f"{operation} of a tensor of the GPU")
        if name in INDEXING:
            _check_index(args[1])
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs = kwargs | {"device": CPU}
        found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
        return return_and_correct_aliasing(operation, args, kwargs, tree_map(_wrapped, found))


def _held(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def _wrapped(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and not isinstance(value, DeviceTensor)
    return DeviceTensor(value) if is_plain else value


def _check_devices(operation, name: str, args: tuple, kwargs: dict) -> None:
    """Refuse tensors of the CPU beside those of the GPU; single numbers may be on the CPU."""
    if name in COPIES:
        return
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        args = (args[0], *args[2:])                # rows may be chosen by an index of the CPU
    if name == "scatter" and torch._C._current_graph_task_id() >= 0:
        args = args[1:]                            # torch 2.11's own zeros, in a backward pass
    others = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)
              and not isinstance(x, DeviceTensor) and x.ndim > 0]
    if others:
        shapes = [(x.device.type, tuple(x.shape)) for x in tree_leaves((args, kwargs))
                  if isinstance(x, Tensor)]
        raise MixedDevices(f"{operation} of {shapes}")


def _check_index(indices: Any) -> None:
    """Refuse rows chosen by a mask, or by an index of the CPU."""
    for index in tree_leaves(indices):
        if isinstance(index, Tensor):
            if index.dtype in (torch.bool, torch.uint8):
                _Watch.tell("rows are chosen by a mask: how many are there?")
            if not isinstance(index, DeviceTensor):
                _Watch.tell("rows are chosen by an index of the host, which is copied")


class _Move(torch.autograd.Function):
    """A copy to the other device; its gradient goes back."""

    @staticmethod
    def forward(context, tensor):
        """Return the copy."""
        if isinstance(tensor, DeviceTensor):
            return tensor.held.detach().clone()
        return DeviceTensor(tensor.detach().clone())

    @staticmethod
    def backward(context, gradient):
        """Return the gradient on the device that the tensor came from."""
        return _Move.apply(gradient)


class PretendedGpu(TorchFunctionMode):
    """Makes tensors on the pretended GPU, and moves them to it and back."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Take what names a device; the rest is torch's own."""
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        special = getattr(self, f"_{name}", None)
        if special is not None and args and isinstance(args[0], Tensor):
            return special(*args, **kwargs)
        if isinstance(args[0] if args else None, DeviceTensor) and name in FROM_NUMBERS:
            return self._from_numbers(function, args[0].held, *args[1:], **kwargs)
        if name == "__getitem__" and isinstance(args[0], DeviceTensor):
            _check_lists(args[1])
        asked = kwargs.get("device")
        if asked is None or torch.device(asked).type != "cuda":
            return function(*args, **kwargs)
        kwargs["device"] = CPU
        if name in FROM_NUMBERS:
            if args and isinstance(args[0], DeviceTensor):
                return function(*args, **kwargs)
            return self._from_numbers(function, *args, **kwargs)
        return tree_map(_wrapped, function(*args, **kwargs))

    def _from_numbers(self, function, *args, **kwargs) -> DeviceTensor:
        """A tensor made of numbers of the host, which are copied."""
        _Watch.tell(f"{function.__name__}: numbers of the host, copied to the GPU")
        return _wrapped(function(*args, **kwargs))

    def _to(self, tensor: Tensor, *args, **kwargs) -> Tensor:
        """Tensor.to, in all its forms."""
        if args and isinstance(args[0], Tensor):
            other = args[0]
            args, kwargs = args[1:], kwargs | {"device": other.device, "dtype": other.dtype}
        elif kwargs.get("other") is not None:
            other = kwargs.pop("other")
            kwargs |= {"device": other.device, "dtype": other.dtype}
        copies = kwargs.pop("copy", False)
        device, dtype, unwaited, layout = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and (device.type == "cuda") != isinstance(tensor, DeviceTensor):
            is_pinned = getattr(tensor, "is_pinned_here", False)
            if not (device.type == "cuda" and unwaited and is_pinned):
                _Watch.tell(f"a copy of {tuple(tensor.shape)} to {device}, waited for")
            tensor = _Move.apply(tensor)
        dtype = tensor.dtype if dtype is None else dtype
        options = {} if layout is None else {"memory_format": layout}
        return Tensor.to(tensor, dtype, copy=copies, **options)

    def _cpu(self, tensor: Tensor, **kwargs) -> Tensor:
        return self._to(tensor, CPU)

    def _cuda(self, tensor: Tensor, *args, **kwargs) -> Tensor:
        return self._to(tensor, CUDA)

    def _pin_memory(self, tensor: Tensor) -> Tensor:
        """A copy from which the GPU reads while the host goes on."""
        if isinstance(tensor, DeviceTensor):
            raise MixedDevices("pin_memory of a tensor of the GPU")
        pinned = tensor.clone()
        pinned.is_pinned_here = True
        return pinned

    def _numpy(self, tensor: Tensor, **kwargs):
        """As CUDA does: refused for tensors of the GPU."""
        if isinstance(tensor, DeviceTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        return Tensor.numpy(tensor, **kwargs)

    def ___array__(self, tensor: Tensor, *args, **kwargs):
        """What numpy asks for."""
        if isinstance(tensor, DeviceTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        return Tensor.__array__(tensor, *args, **kwargs)

    def _quantile(self, tensor: Tensor, q: Tensor | float, *args, **kwargs) -> Tensor:
        """A share that is a number is made where the tensor is."""
        if isinstance(tensor, DeviceTensor) and not isinstance(q, Tensor):
            q = DeviceTensor(torch.tensor(q, dtype=tensor.dtype))
        return Tensor.quantile(tensor, q, *args, **kwargs)

    def _tolist(self, tensor: Tensor):
        return Tensor.tolist(self._to(tensor, CPU))

    def _data_ptr(self, tensor: Tensor):
        """An address of the GPU is of no use to the host."""
        if isinstance(tensor, DeviceTensor):
            raise MixedDevices("data_ptr of a tensor of the GPU, on the host")
        return Tensor.data_ptr(tensor)


def _check_lists(index: Any) -> None:
    """Refuse rows chosen by a list, which is copied to the GPU."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, list) for part in parts):
        _Watch.tell("rows are chosen by a list of the host, which is copied")


@contextmanager
def no_waiting(places: set[str] | None = None) -> Iterator[None]:
    """Refuse, inside the block, what makes the host wait for the pretended GPU.

    Args:
        places: waits are let pass, and their places put here: "folder/file.py:function".
    """
    before = _Watch.is_on, _Watch.places
    _Watch.is_on, _Watch.places = True, places
    try:
        yield
    finally:
        _Watch.is_on, _Watch.places = before


def on_host(value: Any) -> Any:
    """Return nested containers with their tensors on the CPU, as files hold them."""
    if isinstance(value, dict):
        return type(value)((key, on_host(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(on_host, value))
    return value.held.detach() if isinstance(value, DeviceTensor) else value


def _saved(save):
    return lambda value, *args, **kwargs: save(on_host(value), *args, **kwargs)


def _loaded(load):
    def loading(*args, map_location=None, **kwargs):
        found = load(*args, map_location="cpu", **kwargs)
        is_wanted = map_location is not None and torch.device(map_location).type == "cuda"
        return tree_map(_wrapped, found) if is_wanted else found

    return loading


class _Autocast(torch.autocast):
    """Lower precision on the pretended GPU is that of the CPU which computes it."""

    def __init__(self, device_type: str, *args, **kwargs) -> None:
        super().__init__("cpu", *args, **kwargs)


def _grouped(tensors: list[list], with_indices: bool = False) -> dict:
    """Groups of tensors by the device that they say, and dtype; torch asks them otherwise."""
    groups: dict = {}
    for number, first in enumerate(tensors[0]):
        lists, indices = groups.setdefault((first.device, first.dtype), ([[] for _ in tensors], []))
        for part, column in zip(lists, tensors, strict=True):
            part.append(column[number])
        indices.append(number)
    return groups


class PretendedGraph:
    """A CUDA graph of the pretended GPU: operations that are done again in the same memory."""

    notes: OperationNotes
    is_new = False

    def replay(self) -> None:
        """Do the operations again; recording them did it once, which on a GPU it does not."""
        if not self.is_new:
            self.notes.repeat()
        self.is_new = False


@contextmanager
def _recording(graph: PretendedGraph, **options: Any) -> Iterator[None]:
    """Record what is done in the block; as on a GPU, nothing in it may wait."""
    with OperationNotes() as notes, no_waiting():
        yield
    graph.notes, graph.is_new = notes, True


#: What torch.cuda says of the pretended GPU.
SAYINGS = {"is_available": True, "is_initialized": False, "device_count": 1,
           "get_device_name": "pretended GPU", "is_bf16_supported": True,
           "get_device_capability": (9, 0), "get_rng_state_all": [], "set_rng_state_all": None,
           "synchronize": None, "set_device": None, "empty_cache": None,
           "reset_peak_memory_stats": None, "max_memory_allocated": 0,
           "mem_get_info": (2 ** 36, 2 ** 36), "Stream": mock.Mock(),
           "current_stream": mock.Mock(), "stream": nullcontext(), "set_sync_debug_mode": None,
           "is_current_stream_capturing": False}


@contextmanager
def pretended_gpu(*, has_bf16: bool = False) -> Iterator[None]:
    """Let torch say, inside the block, that there is a GPU.

    Args:
        has_bf16: whether it computes bf16, in which numbers differ from those of fp32 by 1 %.
    """
    with ExitStack() as stack:
        for name, value in (SAYINGS | {"is_bf16_supported": has_bf16}).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, value=value,
                                                  **__: value))
        stack.enter_context(mock.patch.object(torch.cuda, "CUDAGraph", PretendedGraph))
        stack.enter_context(mock.patch.object(torch.cuda, "graph", _recording))
        # Adam asks the driver of a build for CUDA whether a graph is recorded
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator",
                                              lambda *_, **__: None))
        stack.enter_context(mock.patch.object(torch, "save", _saved(torch.save)))
        stack.enter_context(mock.patch.object(torch, "load", _loaded(torch.load)))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        stack.enter_context(mock.patch("torch.nn.utils.clip_grad."
                                       "_group_tensors_by_device_and_dtype", _grouped))
        stack.enter_context(mock.patch("utils.fast.tracing.gpu_tracer.has_triton", lambda: False))
        # modules that move get new parameters: these share no storage with those of the CPU
        stack.enter_context(_overwritten_parameters())
        stack.enter_context(PretendedGpu())
        yield


@contextmanager
def _overwritten_parameters() -> Iterator[None]:
    """Let `Module.to` replace parameters, instead of their data."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
