"""Work of fixed shapes, recorded once and replayed: one launch in place of hundreds.

The twin is the work itself. On CUDA the record is a CUDA graph, elsewhere the list of
`recorded_operations`, by which tests and trials without a GPU take the same way.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import ConfigError
from utils.fast.recorded_operations import OperationRecording, Outputs

#: Times that work is done before it is recorded: libraries prepare themselves, kernels are compiled
#: and chosen, constants are copied to the device.
NUM_BEFORE = 2


class Replayed:
    """Work that is done as it is at first, then recorded, and from then on replayed.

    Args:
        work: tensors to tensors (or None). Shapes and everything else that it reads stay the same
            from call to call, but for what lies in the same memory, such as weights; the host reads
            no value of the device.
        device: that does it.
    """

    def __init__(self, work: Callable[..., Outputs], device: torch.device | str) -> None:
        self.work, self.is_cuda = work, torch.device(device).type == "cuda"
        self.num_done, self.recording = 0, None
        self._places: tuple[Tensor, ...] = ()
        self._stream: Any = torch.cuda.Stream() if self.is_cuda else None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Return what the work returns of these inputs; it stays so until the next call.

        Raises:
            ConfigError: the work cannot be recorded.
            ValueError: the inputs have other shapes than those that were recorded.
        """
        self.num_done += 1
        if self.recording is not None:
            self._put(inputs)
            self.recording.replay()
            return self.recording.outputs
        if self.num_done <= NUM_BEFORE:
            return self._aside(lambda: self.work(*inputs))
        self._places = tuple(value.clone() for value in inputs)
        self.recording = self._record(lambda: self.work(*self._places))
        return self.recording.outputs

    def _put(self, inputs: Sequence[Tensor]) -> None:
        """Copy inputs to where the recorded work reads them."""
        before, now = ([(tuple(value.shape), value.dtype) for value in values]
                       for values in (self._places, inputs))
        if before != now:
            raise ValueError(f"recorded for inputs {before}, cannot be replayed with {now}")
        for place, value in zip(self._places, inputs, strict=True):
            place.copy_(value)

    def _aside(self, work: Callable[[], Outputs]) -> Outputs:
        """Do work on the stream on which it will be recorded."""
        if not self.is_cuda:
            return work()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            found = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return found

    def _record(self, work: Callable[[], Outputs]) -> OperationRecording | GraphRecording:
        """Record work, and do it once."""
        try:
            return GraphRecording(work, self._stream) if self.is_cuda else OperationRecording(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(f"--cuda_graphs 1: this work cannot be recorded ({reason[0]}); give "
                              "--cuda_graphs 0") from error


class GraphRecording:
    """A CUDA graph of work that was done once.

    Args:
        work: as that of `OperationRecording`.
        stream: on which it was done before.
    Attributes:
        outputs: as those of `OperationRecording`.
    """

    def __init__(self, work: Callable[[], Outputs], stream: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.outputs = work()
        self.replay()                                      # nothing was computed so far

    def replay(self) -> None:
        """Do the work again, with what its memory holds now."""
        self.graph.replay()
