"""The device that the flags ask for, and what gets there without the host waiting for it."""
from __future__ import annotations

import torch
from torch import Tensor

from utils.errors import ConfigError


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor of the host on a device, without waiting for the copy.

    On CUDA the copy goes through pinned memory: only that can be read while the host continues.
    """
    target = torch.device(device)
    if target.type == "cpu":
        return tensor
    if target.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(target, non_blocking=True)


def numbers_like(like: Tensor, *numbers: float) -> Tensor:
    """Return numbers as a tensor (N,) of another's device and dtype, made there.

    `new_tensor` would copy them to the device, and the host would wait for that.
    """
    return torch.cat([like.new_full((1,), number) for number in numbers])


def pick_device(name: str) -> torch.device:
    """Return the device of auto, cpu or cuda; raise ConfigError where CUDA is absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu, or install "
                          "a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
