"""E and D compiled by `torch.compile`: fewer passes over memory between convolutions.

The twin is the network itself, to rounding. Copies of a compiled network, such as that of averaged
weights which renders views, are not compiled.
"""
from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import nn

from utils.errors import ConfigError, MissingExtraError

#: Programs that compile C++ for torch, where the environment names none in CXX.
COMPILERS = ("g++", "clang++")


def compile_networks(device: torch.device | str, *networks: nn.Module,
                     backend: str = "inductor") -> None:
    """Let networks be compiled when they are first called, and again for other shapes.

    Args:
        device: on which they are.
        networks: in place; names of their weights stay.
        backend: of `torch.compile`; those other than inductor need no compiler.
    Raises:
        ConfigError: there is no compiler.
        MissingExtraError: triton is missing, which compiles for a GPU.
    """
    if backend == "inductor":
        check_compiler(torch.device(device))
    for network in networks:
        network.compile(backend=backend)


def check_compiler(device: torch.device) -> None:
    """Raise an error where torch cannot compile for a device."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise MissingExtraError("--compile_networks 1 needs triton, which is not installed; "
                                "`pip install triton`, or give --compile_networks 0")
    asked = os.environ.get("CXX")
    names = (asked,) if asked else COMPILERS
    if not any(map(shutil.which, names)):
        raise ConfigError(f"--compile_networks 1 needs a C++ compiler, and finds no "
                          f"{' or '.join(names)}; install g++, or give --compile_networks 0")


def is_compiled(network: nn.Module) -> bool:
    """Return whether calls of a network are those of a compiled one."""
    return network._compiled_call_impl is not None
