"""Synthetic image pairs in the manner of FlyingChairs, with exact flow.

A background and several objects in front of it, each with a texture and a motion of its own: a
random affine map with smooth waves. Where each pixel moves and what hides it follows from the
motions and the order of the layers, in both directions, without any approximation.
"""
from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_processing.flow.files import write_flo, write_occlusion, write_pfm
from data_processing.flow.pairs import FlowPair
from data_processing.flow.synthetic_layers import (
    Motion,
    Shape,
    Texture,
    find_pictures,
    random_motion,
    random_shape,
    random_texture,
)
from utils.config.tool_sections import MakeFlowConfig
from utils.config.values import parse_resolution
from utils.errors import ConfigError, WriteError
from utils.files.atomic import write_text_atomic
from utils.results.pictures import save_png

log = logging.getLogger(__name__)

SETTINGS_FILE = "made_pairs.json"
MIN_OBJECTS, MAX_OBJECTS = 3, 10
#: Least side of a synthetic image, in pixels.
MIN_SIDE = 16
#: Rays along each side of a pixel.
SUPERSAMPLING = 2
#: How much more objects move than the background.
OBJECT_STRENGTH = 2.5
#: Pairs of an epoch of this source, which has no end.
PAIRS_AN_EPOCH = 1000
#: Streams of random numbers: pairs to train on, and held-out pairs to score.
TRAINING, HELD_OUT = 0, 1


@dataclass(frozen=True)
class Layer:
    """One layer of a pair; `shape` is None for the background, which covers everything."""

    motion: Motion
    texture: Texture
    shape: Shape | None = None

    def origins(self, points: np.ndarray, end: int) -> np.ndarray:
        """Return where points (..., 2) of image `end` are in image 0."""
        return self.motion.inverse(points) if end else points

    def box(self, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners (2,) and (2,) of an object's bounding box in image `end`."""
        assert self.shape is not None, "the background has no bounding box"
        rim = self.motion.forward(self.shape.rim()) if end else self.shape.rim()
        margin = 1 + 0.01 * np.ptp(rim, axis=0)            # what the rim's corners cut off
        return rim.min(0) - margin, rim.max(0) + margin


@dataclass(frozen=True)
class SyntheticPair:
    """A pair with flow, occlusion and layers in both directions.

    Attributes:
        image_0, image_1: (H, W, 3) uint8.
        flow_01, flow_10: (H, W, 2) float32, pixels, of the pixels of image 0 and image 1.
        occluded_01, occluded_10: (H, W) bool, pixels of image 0 hidden in image 1, and of image 1
            hidden in image 0; outside of the image counts as hidden.
        layers_0, layers_1: (H, W) uint8, the foremost layer at each pixel's centre; 0 is the
            background.
    """

    image_0: np.ndarray
    image_1: np.ndarray
    flow_01: np.ndarray
    flow_10: np.ndarray
    occluded_01: np.ndarray
    occluded_10: np.ndarray
    layers_0: np.ndarray
    layers_1: np.ndarray


def make_pair(layers: list[Layer], resolution: tuple[int, int], *,
              supersampling: int = SUPERSAMPLING) -> SyntheticPair:
    """Render both images of a stack of layers, with flow and occlusion in closed form.

    Args:
        layers: from back to front, the background first.
        resolution: (W, H) in pixels.
        supersampling: S; colours are the mean of S x S points of a pixel, flow and occlusion those
            of its centre.
    """
    centres = pixel_points(resolution, 1)
    sides, images = {}, {}
    for end in (0, 1):
        label = foremost(layers, centres, end)
        other = _moved(layers, centres, label, end)
        hidden = ~_framed(other, resolution)
        hidden |= foremost(layers, other, 1 - end) != label
        sides[end] = (other - centres).astype(np.float32), hidden, label
        images[end] = _render(layers, resolution, end, supersampling)
    return SyntheticPair(images[0], images[1], sides[0][0], sides[1][0], sides[0][1], sides[1][1],
                    sides[0][2], sides[1][2])


def pixel_points(resolution: tuple[int, int], supersampling: int) -> np.ndarray:
    """Return S x S points in each pixel, (H S, W S, 2); S = 1: pixel centres, whole numbers."""
    x, y = ((np.arange(side * supersampling) + 0.5) / supersampling - 0.5 for side in resolution)
    return np.stack(np.meshgrid(x, y), -1)


def foremost(layers: list[Layer], points: np.ndarray, end: int) -> np.ndarray:
    """Return the number (...) uint8 of the foremost layer at points (..., 2) of image `end`."""
    flat = points.reshape(-1, 2)
    label = np.zeros(len(flat), np.uint8)
    free = np.arange(len(flat))
    for number, layer in reversed(list(enumerate(layers))):
        if layer.shape is None:
            continue
        low, high = layer.box(end)
        left = flat[free]
        x, y = left[:, 0], left[:, 1]
        near = np.flatnonzero((x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]))
        covered = near[layer.shape.covers(layer.origins(left[near], end))]
        label[free[covered]] = number
        free = np.delete(free, covered)
    return label.reshape(points.shape[:-1])


def _moved(layers: list[Layer], points: np.ndarray, label: np.ndarray, end: int) -> np.ndarray:
    """Return where points of image `end`, on the layers of `label`, are in the other image."""
    out = np.empty_like(points)
    for number in np.unique(label):
        motion, on = layers[number].motion, label == number
        out[on] = motion.inverse(points[on]) if end else motion.forward(points[on])
    return out


def _framed(points: np.ndarray, resolution: tuple[int, int]) -> np.ndarray:
    """Return (...) bool: inside the image, whose pixels reach half a pixel beyond their centres."""
    x, y = points[..., 0], points[..., 1]
    return (x >= -0.5) & (x <= resolution[0] - 0.5) & (y >= -0.5) & (y <= resolution[1] - 0.5)


def _render(layers: list[Layer], resolution: tuple[int, int], end: int,
            supersampling: int) -> np.ndarray:
    """Return image `end`, (H, W, 3) uint8."""
    points = pixel_points(resolution, supersampling)
    label = foremost(layers, points, end)
    colours = np.empty((*label.shape, 3), np.float32)
    for number in np.unique(label):
        layer, on = layers[number], label == number
        colours[on] = layer.texture.colours(layer.origins(points[on], end))
    width, height = resolution
    parts = colours.reshape(height, supersampling, width, supersampling, 3)
    return np.rint(parts.mean((1, 3))).astype(np.uint8)


def random_layers(rng: np.random.Generator, resolution: tuple[int, int],
                  pictures: tuple[Path, ...] = ()) -> list[Layer]:
    """Draw a background and 3 to 10 objects, from back to front.

    Args:
        rng: drawn from.
        resolution: (W, H) in pixels; lengths are fractions of it.
        pictures: files that textures are cut out of; none: procedural textures.
    """
    size, middle = float(max(resolution)), (np.array(resolution) - 1) / 2
    drift = 0.025 * size * rng.standard_normal(2)
    layers = [Layer(random_motion(rng, middle, size, strength=1, drift=drift),
                    random_texture(rng, size, pictures))]
    for _ in range(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)):
        shape = random_shape(rng, resolution)
        motion = random_motion(rng, shape.centre, size, strength=OBJECT_STRENGTH, drift=drift)
        layers.append(Layer(motion, random_texture(rng, 0.6 * size, pictures), shape))
    return layers


class SyntheticPairs:
    """Synthetic pairs by number, each the same every time, as a `PairSource`.

    Args:
        resolution: (W, H) in pixels.
        seed: of all pairs.
        pictures: folder of pictures for the textures; empty: procedural textures.
        stream: TRAINING or HELD_OUT, which have no pair in common.
        num_pairs: of an epoch; pair numbers may go on beyond it, each a new pair.
    Raises:
        ConfigError: the images would be too small.
        SceneError: there are no pictures in the folder.
    """

    is_endless = True

    def __init__(self, resolution: tuple[int, int], seed: int, *, pictures: str = "",
                 stream: int = TRAINING, num_pairs: int = PAIRS_AN_EPOCH) -> None:
        if min(resolution) < MIN_SIDE:
            raise ConfigError(f"synthetic pairs of {resolution[0]}x{resolution[1]} pixels: need "
                              f"sides of at least {MIN_SIDE}; give a larger --resolution, or "
                              "--crop_size in pre-training")
        self.resolution, self.seed, self.stream = resolution, seed, stream
        self.num_pairs = num_pairs
        self.pictures = find_pictures(pictures) if pictures else ()

    def __len__(self) -> int:
        return self.num_pairs

    def exact_pair(self, index: int) -> SyntheticPair:
        """Render pair number `index` with everything that is known of it."""
        rng = np.random.default_rng([self.seed, self.stream, index])
        return make_pair(random_layers(rng, self.resolution, self.pictures), self.resolution)

    def pair(self, index: int) -> FlowPair:
        """Render pair number `index` as pre-training takes it."""
        exact = self.exact_pair(index)
        flow = np.where(exact.occluded_10[..., None], np.float32(0), exact.flow_10)
        return FlowPair(f"{index:07d}", exact.image_0, exact.image_1, flow,
                        np.ones_like(exact.occluded_10), exact.occluded_10)


def write_pair(pair: SyntheticPair, folder: Path, name: str) -> None:
    """Write a pair's eight files by the naming of FlyingChairs2, image 1 last."""
    for suffix, flow, occluded in (("01", pair.flow_01, pair.occluded_01),
                                   ("10", pair.flow_10, pair.occluded_10)):
        write_flo(folder / f"{name}-flow_{suffix}.flo", flow)
        write_occlusion(folder / f"{name}-occ_{suffix}.png", occluded)
        write_pfm(folder / f"{name}-occ_weights_{suffix}.pfm", occluded.astype(np.float32))
    save_png(folder / f"{name}-img_0.png", pair.image_0)
    save_png(folder / f"{name}-img_1.png", pair.image_1)


def make_pair_folder(settings: MakeFlowConfig) -> Path:
    """Write a folder of synthetic pairs; a folder of the same settings is completed.

    Args:
        settings: config section with output, num_pairs, resolution, seed, pictures.
    Returns:
        The folder.
    Raises:
        ConfigError, SceneError, WriteError: see `SyntheticPairs`; or the folder holds other files.
    """
    folder = Path(settings.output).expanduser()
    source = SyntheticPairs(parse_resolution(settings.resolution), settings.seed,
                       pictures=settings.pictures)
    _claim(folder, settings)
    for index in tqdm(range(settings.num_pairs), desc=folder.name, unit="pair"):
        name = f"{index:07d}"
        if not (folder / f"{name}-img_1.png").is_file():
            write_pair(source.exact_pair(index), folder, name)
    log.info("%s: %d pairs of %s", folder, settings.num_pairs, settings.resolution)
    return folder


def _claim(folder: Path, settings: MakeFlowConfig) -> None:
    """Write the settings into the folder; raise WriteError where it has others, or other files."""
    wanted = {name: value for name, value in asdict(settings).items()
              if name in ("resolution", "seed", "pictures")}
    path = folder / SETTINGS_FILE
    try:
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == wanted:
            return
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except (OSError, ValueError):
        taken = True
    if taken:
        raise WriteError(f"{folder}: holds other files, or pairs of other settings than "
                         f"{wanted}; need an empty folder or the same settings; give another "
                         "--output")
    write_text_atomic(path, json.dumps(wanted, indent=2) + "\n")
