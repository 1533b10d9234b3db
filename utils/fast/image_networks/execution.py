"""Networks computed sooner: in bf16, on parts of maps, on the samples that count.

The twin is `modules_sdf.PlainExecution`: the same numbers to the rounding of the precision.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.fast.image_networks.compiling import is_compiled
from utils.fast.image_networks.sparse_blending import blend_samples, surface_hits
from utils.fast.siren.evaluator import is_siren_chain
from utils.fast.threads import only_shares
from utils.geometry.rays import Surface
from utils.views.regions import Region
from utils.views.training_views import Correspondence, Targets

#: Fraction of all pixels that regions may hold where maps are computed region by region, one after
#: another, not whole and at once.
REGIONS_PAY = 0.75
#: Narrower images are convolved in fp32: the gradient that oneDNN (torch 2.13) gives the weights of
#: a bf16 convolution of stride 2 holds what was in memory before where the input is one pixel wide,
#: as images up to 16 wide are at the last stage of the deepest E.
LEAST_BF16_WIDTH = 17
#: Samples that G weighs in bf16 are filled up to a multiple of it: oneDNN prepares itself for each
#: number of them, and forgets as much of what convolutions need again.
BF16_SAMPLES = 4096


@dataclass(frozen=True)
class FastExecution:
    """An `Execution` of `modules_sdf`.

    Attributes:
        precision: of E, G and D in training, fp32 or bf16; evaluation is fp32.
        is_compact: on a CPU, only the samples that count are taken and weighed, and no more of a
            map is computed than is read: the same result for less work. Elsewhere the host would
            have to wait until it knows how many there are.
        channels_last: maps and weights of E and D lie channels last, as matrix units of GPUs and
            bf16 of CPUs want them; otherwise they are copied for each convolution.
    """

    precision: str = "fp32"
    is_compact: bool = False
    channels_last: bool = False

    def passes(self, sdf: nn.Module) -> AbstractContextManager:
        """Return a context in which torch's own threads rest until the last of the passes.

        Each pass lets them rest by itself; whatever lies between two passes would wake them, and
        they would then keep the cores busy while the next one begins.
        """
        if not (self.is_compact and is_siren_chain(sdf)):
            return nullcontext()
        return only_shares() if next(sdf.parameters()).device.type == "cpu" else nullcontext()

    def run(self, network: nn.Module, maps: Tensor, regions: list[Region] | None, *,
            is_training: bool) -> Tensor:
        """Return network(maps), computed on the regions alone where that pays.

        What is compiled is the network of whole maps.
        """
        if regions is not None and (is_compiled(network) or not self._pays(regions, maps)):
            regions = None
        is_low = is_training and self.precision == "bf16" and maps.shape[-1] >= LEAST_BF16_WIDTH
        dtype = maps.dtype
        if self.channels_last:
            maps = maps.contiguous(memory_format=torch.channels_last)
        with self._autocast(maps) if is_low else nullcontext():
            found = network.in_regions(maps, regions) if regions else network(maps)
            return found.to(dtype)

    def aggregate(self, network: nn.Module, features: Tensor, dirs: Tensor, *,
                  is_training: bool) -> Tensor:
        """Return G of features (..., C) and directions (..., 3); rows (N, C) may be filled up."""
        if self.precision != "bf16" or not is_training:                # metrics are of fp32
            return network(features, dirs)
        count = len(features)
        if features.ndim == 2:
            filled = -count % BF16_SAMPLES
            features, dirs = (F.pad(x, (0, 0, 0, filled)) for x in (features, dirs))
        with self._autocast(features):
            return network(features, dirs).to(features.dtype)[:count]

    def lay_out(self, *networks: nn.Module) -> None:
        """Put weights into channels-last memory where convolutions are faster so."""
        for network in networks:
            if self.channels_last:
                network.to(memory_format=torch.channels_last)

    def is_sparse(self, like: Tensor, occlusion: str) -> bool:
        """Whether only samples that count are taken from maps like this tensor."""
        return self.is_compact and occlusion == "raytrace" and like.device.type == "cpu"

    def surface_hits(self, targets: Targets) -> tuple[Surface, Tensor, Tensor | None]:
        """Return the pixels that see the surface; see `sparse_blending.surface_hits`."""
        return surface_hits(targets)

    def blend_samples(self, features: Tensor, correspondence: Correspondence, weigh,
                      *, shape: tuple[int, ...], is_normalised: bool) -> tuple[Tensor, Tensor]:
        """Blend the samples that count alone; see `sparse_blending.blend_samples`."""
        return blend_samples(features, correspondence, weigh, shape=shape,
                             is_normalised=is_normalised)

    def _autocast(self, like: Tensor) -> AbstractContextManager:
        return torch.autocast(like.device.type, dtype=torch.bfloat16)

    def _pays(self, regions: list[Region], maps: Tensor) -> bool:
        """Whether it takes less time to compute the regions than whole maps."""
        if not self.is_compact or maps.device.type != "cpu":
            return False
        num_read = sum(region.num_pixels for region in regions)
        return num_read < REGIONS_PAY * maps[:, 0].numel()


def network_precision(flag: str, device: str, is_fast: bool) -> str:
    """Return `auto` as bf16 or fp32: bf16 where the fast path is allowed and it is native."""
    if flag != "auto":
        return flag
    if torch.cuda.is_available() and device != "cpu":
        is_native = torch.cuda.is_bf16_supported()
    else:
        is_native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if is_fast and is_native else "fp32"
