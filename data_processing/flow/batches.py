"""Batches of image pairs: random crops, colour changes, and an order that the seed fixes.

Sample number n of a run is step * batch_size + position. Which pair it is and how it is cropped and
coloured follow from (seed, n), so that neither worker processes, nor an interruption and a resume,
nor the number of training processes change what a step sees.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_processing.flow.pairs import FlowPair, PairSource
from utils.devices import to_device
from utils.errors import SceneError, UserError
from utils.runs.stopping import ignore_signals

#: Streams of random numbers beside those of `synthetic_pairs`: changes to a sample, order of pairs.
CHANGES, ORDER = 2, 3
#: Ranges of the colour changes: brightness, a channel's gain, contrast, saturation, gamma.
BRIGHTNESS, GAIN, CONTRAST, SATURATION, GAMMA = 0.1, 0.1, 0.25, 0.4, 0.25
#: Grey of an RGB colour (Rec. 601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class PairBatch:
    """B pairs of one size, as the networks take them.

    Attributes:
        image_0, image_1: (B, 3, H, W) RGB in [0, 1].
        flow_10: (B, 2, H, W) pixels, from image 1 to image 0.
        known_mask: (B, 1, H, W) bool, the flow or occlusion of the pixel of image 1 is known.
        seen_mask: (B, 1, H, W) bool, known and not occluded in image 0.
    """

    image_0: Tensor
    image_1: Tensor
    flow_10: Tensor
    known_mask: Tensor
    seen_mask: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on another device; the host does not wait for the copy."""
        return PairBatch(*(to_device(getattr(self, field.name), device) for field in fields(self)))


def as_batch(pairs: Sequence[FlowPair]) -> PairBatch:
    """Return pairs of one size as a batch; images may be uint8 levels or floats in [0, 1]."""
    def maps(values: Sequence[np.ndarray]) -> Tensor:
        """Return maps (H, W, C) as one tensor (B, C, H, W)."""
        stacked = np.stack(values)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(stacked, -1, 1)))

    def colours(values: Sequence[np.ndarray]) -> Tensor:
        """Return images (H, W, 3) as one tensor (B, 3, H, W) in [0, 1]."""
        found = maps(values)
        return found.float() / 255 if found.dtype == torch.uint8 else found

    known = [pair.known_mask[..., None] for pair in pairs]
    seen = [(pair.known_mask & ~pair.occluded_mask)[..., None] for pair in pairs]
    return PairBatch(colours([pair.image_0 for pair in pairs]),
                     colours([pair.image_1 for pair in pairs]),
                     maps([pair.flow_10 for pair in pairs]), maps(known), maps(seen))


def crop_pair(pair: FlowPair, size: tuple[int, int], rng: np.random.Generator) -> FlowPair:
    """Crop image 1 at random, and image 0 where most of that crop came from.

    Image 0's crop is moved by the median flow, which is subtracted from the flow, so that most of
    what image 1 shows is inside.

    Args:
        pair: at least as large as the crop.
        size: (W, H) of the crop in pixels.
        rng: drawn from.
    Raises:
        SceneError: the pair is smaller.
    """
    height, width = pair.known_mask.shape
    if width < size[0] or height < size[1]:
        raise SceneError(f"pair {pair.name} is {width}x{height}, need at least the crops' "
                         f"{size[0]}x{size[1]}; give --crop_size {min(width, size[0])}x"
                         f"{min(height, size[1])} or less")
    room = np.array([width - size[0], height - size[1]])
    corner = np.array([rng.integers(room[0] + 1), rng.integers(room[1] + 1)])
    window = _window(corner, size)
    seen = (pair.known_mask & ~pair.occluded_mask)[window]
    flow = pair.flow_10[window]
    moved = np.rint(np.median(flow[seen], axis=0)).astype(int) if seen.any() else 0
    from_corner = np.clip(corner + moved, 0, room)
    offset = (from_corner - corner).astype(np.float32)
    return replace(pair, image_0=pair.image_0[_window(from_corner, size)],
                   image_1=pair.image_1[window],
                   flow_10=np.where(seen[..., None], flow - offset, 0),
                   known_mask=pair.known_mask[window], occluded_mask=pair.occluded_mask[window])


def _window(corner: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a crop."""
    return (slice(int(corner[1]), int(corner[1]) + size[1]),
            slice(int(corner[0]), int(corner[0]) + size[0]))


def change_colours(pair: FlowPair, rng: np.random.Generator) -> FlowPair:
    """Change brightness, contrast, saturation and gamma of both images at random, alike.

    Returns:
        The pair with float32 images in [0, 1].
    """
    gain = 1 + rng.uniform(-GAIN, GAIN, 3)
    contrast = 1 + rng.uniform(-CONTRAST, CONTRAST)
    saturation = 1 + rng.uniform(-SATURATION, SATURATION)
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    gamma = np.exp(rng.uniform(-GAMMA, GAMMA))

    def changed(image: np.ndarray) -> np.ndarray:
        """Return one of the images, changed."""
        grey = (image @ LUMA)[..., None]
        colours = grey + saturation * (image - grey)
        colours = (colours / 255 - 0.5) * contrast * gain + 0.5 + brightness
        return (np.clip(colours, 0, 1) ** gamma).astype(np.float32)

    return replace(pair, image_0=changed(pair.image_0), image_1=changed(pair.image_1))


class TrainingSamples(Dataset):
    """Cropped and coloured pairs by sample number.

    Args:
        source: of whole pairs.
        size: (W, H) of the crops in pixels.
        seed: of order, crops and colours.
    """

    def __init__(self, source: PairSource, size: tuple[int, int], seed: int) -> None:
        self.source, self.size, self.seed = source, size, seed

    def __getitem__(self, number: int) -> FlowPair | UserError:
        """Return sample `number`, or the error that occurred.

        It is returned as a value, as an error that a worker process raises would lose its type.
        """
        rng = np.random.default_rng([self.seed, CHANGES, number])
        try:
            pair = self.source.pair(self.pair_index(number))
            return change_colours(crop_pair(pair, self.size, rng), rng)
        except UserError as error:
            return error

    def pair_index(self, number: int) -> int:
        """Return which pair a sample is.

        An endless source gives a new pair each time; of others each pair comes once in an epoch, in
        an order of its own.
        """
        if self.source.is_endless:
            return number
        epoch, position = divmod(number, len(self.source))
        return int(_order(self.seed, epoch, len(self.source))[position])


@lru_cache(2)
def _order(seed: int, epoch: int, num_pairs: int) -> np.ndarray:
    """Return the order of the pairs in an epoch."""
    return np.random.default_rng([seed, ORDER, epoch]).permutation(num_pairs)


class BatchStream:
    """The micro-batches of each step, in order, from any step on.

    Args:
        samples: by number.
        batch_size: samples of a step over all processes.
        micro: how many parts a step's batch has.
        share: which of the parts are wanted here.
        num_workers: processes that prepare them; 0: this process.
    """

    def __init__(self, samples: TrainingSamples, batch_size: int, *, micro: int = 1,
                 share: Sequence[int] = (0,), num_workers: int = 0) -> None:
        if batch_size % micro:
            raise ValueError(f"batch_size {batch_size} is no multiple of {micro} parts")
        self.samples, self.batch_size, self.micro = samples, batch_size, micro
        self.share, self.num_workers = tuple(share), num_workers
        self._next_step, self._loaded = -1, iter(())

    def numbers(self, step: int, part: int) -> range:
        """Return the sample numbers of one part of a step's batch."""
        size = self.batch_size // self.micro
        first = step * self.batch_size + part * size
        return range(first, first + size)

    def at(self, step: int) -> list[PairBatch]:
        """Return the parts of a step's batch that are wanted here.

        Raises:
            UserError: a pair cannot be read.
        """
        if step != self._next_step:
            self._loaded = self._load_from(step)
        self._next_step = step + 1
        parts = []
        for _ in self.share:
            part = next(self._loaded)
            if isinstance(part, UserError):
                self.close()
                raise part
            parts.append(part)
        return parts

    def close(self) -> None:
        """Stop the worker processes; a later step starts new ones."""
        self._next_step, self._loaded = -1, iter(())

    def _load_from(self, step: int) -> Iterator[PairBatch | UserError]:
        """Return an iterator over the wanted parts from a step on."""
        return iter(DataLoader(
            self.samples, batch_sampler=_Numbers(self, step), num_workers=self.num_workers,
            collate_fn=_collate, worker_init_fn=_prepare_worker,
            generator=torch.Generator()))                  # not the global one: it is resumed


class _Numbers:
    """Sample numbers of all wanted parts from a step on, without end."""

    def __init__(self, stream: BatchStream, step: int) -> None:
        self.stream, self.step = stream, step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.step
        while True:
            yield from (list(self.stream.numbers(step, part)) for part in self.stream.share)
            step += 1


def _collate(samples: list[FlowPair | UserError]) -> PairBatch | UserError:
    """Return samples as a batch, or the first error among them."""
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    return errors[0] if errors else as_batch(
        [sample for sample in samples if isinstance(sample, FlowPair)])


def _prepare_worker(worker: int) -> None:
    """Work in one thread, as OpenCV's do not survive the fork; leave signals to the parent."""
    cv2.setNumThreads(0)
    ignore_signals()
