"""Moving what the host drew to the device without waiting for it."""
from __future__ import annotations

import torch
from torch import Tensor

from utils.errors import ConfigError


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device; the host goes on at once.

    On CUDA the copy goes through pinned memory, which alone can be read while the host goes on.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pick_device(name: str) -> torch.device:
    """auto, cpu or cuda to a device; ConfigError where CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu, or install "
                          "a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
