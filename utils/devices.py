"""Moving what the host drew to the device without waiting for it."""
from __future__ import annotations

import torch
from torch import Tensor


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
