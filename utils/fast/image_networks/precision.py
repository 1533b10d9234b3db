"""In which precision and memory layout E, G and D run."""
from __future__ import annotations

import torch

#: Narrower images are convolved in fp32: the gradient that oneDNN (torch 2.13) gives the weights of
#: a bf16 convolution of stride 2 holds what was in memory before where the input is one pixel wide,
#: as images up to 16 wide are at the last stage of the deepest E.
LEAST_BF16_WIDTH = 17


def network_precision(flag: str, device: str, is_fast: bool) -> str:
    """`auto` as bf16 or fp32: bf16 where allowed and computed natively."""
    if flag != "auto":
        return flag
    if torch.cuda.is_available() and device != "cpu":
        is_native = torch.cuda.is_bf16_supported()
    else:
        is_native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if is_fast and is_native else "fp32"
