"""Image pairs reconstructed from features: warping, metrics of held-out pairs, an image grid.

The features of image 0 are decoded as they are, against image 0, and warped by the flow, against
image 1 (docs/method.md, section 7).
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_processing.flow.batches import PairBatch, as_batch
from data_processing.flow.pairs import FlowPair, PairSource
from sdf_rendering import sample_maps
from utils.devices import numbers_like
from utils.results.metrics import psnr_foreground
from utils.results.pictures import error_map, flow_to_rgb, image_grid, to_uint8

MAX_SCORED_PAIRS = 50     # of a folder's pairs, evenly spaced
MAX_SHOWN_PAIRS = 4       # rows of the image grid
FLOW_QUANTILE = 0.99      # of a pair's lengths of flow, which gets the full colour
#: Colour of pixels that the error in the image grid leaves out.
GREY = 128
COLUMNS = ("image 0", "reconstruction", "image 1", "flow from 1 to 0:\nhue direction, full\n"
           "colour the length below", "image 1 from warped\nfeatures of image 0",
           "its error, black 0 to\nyellow 0.2, grey: unseen")


@dataclass(frozen=True)
class Reconstruction:
    """One pair, and what a model makes of it.

    Attributes:
        batch: the pair as a batch of one.
        counted_mask: (1, H, W) bool on the CPU, pixels of image 1 that are seen in image 0.
        image_0: (3, H, W) RGB, decoded from the features of image 0.
        image_1: (3, H, W) RGB, decoded from those features after the warp.
    """

    batch: PairBatch
    counted_mask: Tensor
    image_0: Tensor
    image_1: Tensor


def warp(maps: Tensor, flow_10: Tensor) -> tuple[Tensor, Tensor]:
    """Warp maps of image 0 to the view of image 1: W(x) = maps(x + flow_10(x)), bilinear.

    Args:
        maps: (B, C, H, W) on the pixels of image 0.
        flow_10: (B, 2, H, W), pixels.
    Returns:
        (B, C, H, W), differentiable in maps, and (B, 1, H, W) bool, whether x + flow_10(x) is
        inside image 0, whose border is half a pixel beyond the outer centres. Outside the values
        of the border are repeated.
    """
    height, width = flow_10.shape[2:]
    size = numbers_like(flow_10, width, height)
    y, x = torch.meshgrid(*(torch.arange(side, device=flow_10.device) for side in (height, width)),
                          indexing="ij")
    at = torch.stack([x, y], -1).to(flow_10.dtype) + flow_10.permute(0, 2, 3, 1)   # (B, H, W, 2)
    inside_mask = ((at >= -0.5) & (at <= size - 0.5)).all(-1)[:, None]
    grid = at * (2 / (size - 1).clamp(min=1)) - 1          # first and last centre at -1 and 1
    return sample_maps(maps, grid[:, None])[:, 0], inside_mask


def reconstruct(model: nn.Module, pair: FlowPair) -> Reconstruction:
    """Reconstruct both images of a pair from the features of image 0, without gradient."""
    batch = as_batch([pair]).to(next(model.parameters()).device)
    with torch.no_grad():
        features = model.encode(batch.image_0)
        warped, inside_mask = warp(features, batch.flow_10)
        counted_mask = batch.seen_mask & inside_mask
        image_0, image_1 = (model.decode(maps)[0] for maps in (features, warped * counted_mask))
    return Reconstruction(batch, counted_mask[0].cpu(), image_0, image_1)


def pair_metrics(model: nn.Module, pairs: PairSource) -> dict[str, dict[str, float]]:
    """Return the PSNR in dB of held-out pairs, at most MAX_SCORED_PAIRS of them, by name.

    "psnr_reconstruction" is over all pixels of image 0. "psnr_warped", and for comparison
    "psnr_image_warped" of the warped image 0 itself, are over the pixels of image 1 that are seen
    in image 0; a pair without such pixels is left out.
    """
    metrics = {}
    for index in evenly_spaced(len(pairs), MAX_SCORED_PAIRS):
        pair = pairs.pair(index)
        found = reconstruct(model, pair)
        batch, counted_mask = found.batch, found.counted_mask
        warped_image = warp(batch.image_0, batch.flow_10)[0]
        if counted_mask.any():
            metrics[pair.name] = {
                "psnr_reconstruction": psnr_foreground(found.image_0, batch.image_0[0],
                                                       torch.ones_like(counted_mask)),
                "psnr_warped": psnr_foreground(found.image_1, batch.image_1[0], counted_mask),
                "psnr_image_warped": psnr_foreground(warped_image[0], batch.image_1[0],
                                                     counted_mask)}
    return metrics


def mean_metrics(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the pairs; empty without pairs."""
    rows = list(metrics.values())
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def pair_grid(model: nn.Module, pairs: PairSource, title: str) -> np.ndarray | None:
    """Return an image grid (H, W, 3) uint8: a row for each of some pairs, columns as in COLUMNS.

    None if there are no pairs.
    """
    rows, labels, captions = [], [], []
    for index in evenly_spaced(len(pairs), MAX_SHOWN_PAIRS):
        pair = pairs.pair(index)
        found = reconstruct(model, pair)
        error = error_map(found.image_1, found.batch.image_1[0])
        error[~found.counted_mask[0].numpy()] = GREY
        flow = found.batch.flow_10[0].cpu()
        lengths = flow.norm(dim=0)
        largest = float(lengths[torch.isfinite(lengths)].quantile(FLOW_QUANTILE))
        rows.append([pair.image_0, to_uint8(found.image_0), pair.image_1,
                     flow_to_rgb(flow, largest), to_uint8(found.image_1), error])
        captions.append(["", "", "", f"{largest:.3g} pixels", "", ""])
        labels.append(f"pair\n{pair.name}")
    return image_grid(rows, labels, COLUMNS, title, captions=captions) if rows else None


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 0 to count - 1, evenly spaced."""
    return [i * count // min(most, count) for i in range(min(most, count))]
