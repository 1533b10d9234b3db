"""The tracing kernel compiled for a kind of GPU, without one: its registers and memory.

Imports triton, which is optional.
"""
from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, compile

from utils.fast.tracing.masked_march import MIN_STEP, NARROW
from utils.fast.tracing.triton_kernel import MAX_STEPS, _march_kernel
from utils.geometry.sdf import SDF_THRESHOLD

TYPES = {"count": "i32", "out_spent": "*i32", "open_flags": "*i8", "out_going": "*i8",
           "out_hit": "*i8"}


@dataclass(frozen=True)
class Compiled:
    """What ptxas says of the kernel.

    Attributes:
        ptx: the text that it assembles.
        shared: bytes of shared memory a program.
        registers: a thread.
        spilled: bytes that a thread writes from registers to memory.
    """

    ptx: str
    shared: int
    registers: int
    spilled: int


def compiled(capability: int, block: tuple[int, int], folder: Path, *, width: int = 128,
             num_hidden: int = 3) -> Compiled:
    """Compile the march of a network for a GPU.

    Args:
        capability: 80, 89, 90, ...
        block: rays of a program and its warps.
        folder: for what ptxas reads and writes.
        width, num_hidden: of the network.
    """
    constants = {"WIDTH": width, "NUM_HIDDEN": num_hidden, "BLOCK_RAYS": block[0],
                 "STEPS": MAX_STEPS, "ON": SDF_THRESHOLD, "SHORTEST": MIN_STEP,
                 "NARROWEST": NARROW, "PRECISION": "tf32x3"}
    kinds = TYPES | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in _march_kernel.arg_names}
    made = compile(ASTSource(_march_kernel, signature, constants),
                   target=GPUTarget("cuda", capability, 32),
                   options={"num_warps": block[1], "num_stages": 1})
    ptx = made.asm["ptx"]
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    target = re.search(r"\.target (sm_\w+)", ptx).group(1)
    told = subprocess.run([get_ptxas(capability).path, "-v", f"--gpu-name={target}", source, "-o",
                           folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    registers = re.search(r"Used (\d+) registers", told.stderr).group(1)
    spilled = re.search(r"(\d+) bytes spill stores", told.stderr).group(1)
    return Compiled(ptx, made.metadata.shared, int(registers), int(spilled))
