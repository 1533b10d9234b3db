"""Modules of loops in machine code, where numba, an extra, is installed; plain forms do without."""
from __future__ import annotations

import importlib
import logging
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

log = logging.getLogger(__name__)

INSTALL_COMMAND = "pip install numba"


def loops_for(like: Tensor, name: str) -> ModuleType | None:
    """`utils.<name>`, where there is numba and its loops take such tensors: float32 on the CPU."""
    is_ours = like.device.type == "cpu" and like.dtype == torch.float32
    return _loops(name) if is_ours else None


@lru_cache
def _loops(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"utils.{name}")
    except (ImportError, RuntimeError) as error:   # no numba, or nowhere to keep what it compiles
        log.info("%s: the plain form is used, which is slower (%s); install numba with: %s",
                 name, error, INSTALL_COMMAND)
        return None
