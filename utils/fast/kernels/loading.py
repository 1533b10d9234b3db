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
CACHE_HINT = ("numba keeps what it compiles in utils/fast/kernels/__pycache__; empty that folder, "
              "or set NUMBA_CACHE_DIR to one that can be written")


def loops_for(like: Tensor, name: str) -> ModuleType | None:
    """Module `name` of this package; None without numba, or for tensors its loops do not take.

    They take float32 on the CPU.
    """
    is_ours = like.device.type == "cpu" and like.dtype == torch.float32
    return _loops(name) if is_ours else None


@lru_cache
def _loops(name: str) -> ModuleType | None:
    try:
        # compiles, or reads what it compiled before
        return importlib.import_module(f"utils.fast.kernels.{name}")
    except ImportError as error:
        cure, problem = f"install numba with: {INSTALL_COMMAND}", error
    except Exception as error:             # whatever keeps an extra from working: do without it
        cure, problem = CACHE_HINT, error
    log.info("%s: plain forms are used, which are slower (%s: %s); %s", name,
             type(problem).__name__, problem, cure)
    return None
