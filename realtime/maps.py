"""Feature, depth and colour maps as 8-bit WebP images without alpha, and back.

Lossless, so that bytes are numbers. Sizes are read from a file's head and compared before anything
is decoded: the format states up to 16,383 x 16,383 pixels in ten bytes.
"""
from __future__ import annotations

import io
import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realtime.scene import MAX_CODE, DepthMaps, FeatureMaps
from utils.errors import ExportedSceneError
from utils.files.images import DAMAGE

#: Longest side of a WebP image.
MAX_SIDE = 16_383
#: Effort of the compression, 0 to 6 and 0 to 100: smaller files, not other pixels.
METHOD, EFFORT = 4, 80
#: Quality of pictures that are only looked at.
POSTER_QUALITY = 85


def encode_lossless(image: np.ndarray) -> bytes:
    """Return an image (H, W, 3) uint8 as lossless WebP."""
    return _encode(image, lossless=True, quality=EFFORT, method=METHOD)


def encode_picture(image: np.ndarray) -> bytes:
    """Return an image (H, W, 3) uint8 as WebP that looks the same."""
    return _encode(image, quality=POSTER_QUALITY, method=METHOD)


def _encode(image: np.ndarray, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", **options)
    return stream.getvalue()


def decode(data: bytes, name: str, *, size: tuple[int, int] | None = None,
           is_lossless: bool = True) -> np.ndarray:
    """Return a WebP image as (H, W, 3) uint8.

    Args:
        data: the file.
        name: what errors call it.
        size: (W, H) that it must have; None: any up to 4,096 pixels a side.
        is_lossless: it must be a lossless one.
    Raises:
        ExportedSceneError: another format, size or kind; damaged.
    """
    found, lossless = _head(data, name)
    if size is not None and found != size:
        raise ExportedSceneError(f"{name}: {found[0]}x{found[1]} pixels, need {size[0]}x{size[1]} "
                                 "as scene.json says; export the scene again")
    if size is None and max(found) > 4096:
        raise ExportedSceneError(f"{name}: {found[0]}x{found[1]} pixels, need at most 4096 a "
                                 "side; export the scene again")
    if is_lossless and not lossless:
        raise ExportedSceneError(f"{name}: a lossy WebP image, need a lossless one: its bytes are "
                                 "numbers; export the scene again")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except DAMAGE as problem:
        raise ExportedSceneError(f"{name}: a damaged WebP image ({problem}); export or copy the "
                                 "scene again") from problem
    if pixels.shape != (found[1], found[0], 3):
        raise ExportedSceneError(f"{name}: its head states another size than it has; export or "
                                 "copy the scene again")
    return pixels


def _head(data: bytes, name: str) -> tuple[tuple[int, int], bool]:
    """Return size (W, H) of a simple WebP file, and whether it is lossless; nothing is decoded."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        kind, body = data[12:16], data[20:]
        if kind == b"VP8L" and body[0] == 0x2F:
            bits = struct.unpack("<I", body[1:5])[0]
            return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), True
        if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", body[6:10])
            return (width & 0x3FFF, height & 0x3FFF), False
    raise ExportedSceneError(f"{name}: not a simple WebP image without alpha; export or copy the "
                             "scene again")


def quantise_features(features: Tensor, counts_mask: Tensor) -> FeatureMaps:
    """Return feature maps at 8 bits, the range of each channel that of the pixels that count.

    Args:
        features: (V, C, H, W), finite.
        counts_mask: (V, 1, H, W) bool; elsewhere codes are 0.
    """
    kept = features.float().cpu().transpose(0, 1)[:, counts_mask[:, 0].cpu()]        # (C, N)
    if not kept.shape[1]:
        kept = torch.zeros(features.shape[1], 1)
    low, high = kept.amin(1), kept.amax(1)
    high = torch.where(high > low, high, low + 1)
    scale = (255 / (high - low))[:, None, None]
    codes = ((features.float().cpu() - low[:, None, None]) * scale).round().clamp(0, 255)
    return FeatureMaps((codes * counts_mask.cpu()).to(torch.uint8), low, high)


def quantise_depths(depth: Tensor, hit_mask: Tensor) -> DepthMaps:
    """Return depth maps at 16 bits.

    Args:
        depth: (V, 1, H, W) along the axis, object units.
        hit_mask: (V, 1, H, W) bool; elsewhere the code is 0.
    """
    ranges, codes = [], []
    for values, mask in zip(depth[:, 0].double().cpu(), hit_mask[:, 0].cpu(), strict=True):
        found = values[mask] if mask.any() else torch.tensor([0.0, 1.0]).double()
        # ranges are stored as float32: what the reader computes from them must be what was meant
        near, far = (side.float().double() for side in (found.min(), found.max()))
        far = far if far > near else near + 1
        code = 1 + ((values - near) / (far - near) * (MAX_CODE - 1)).round().clamp(0, MAX_CODE - 1)
        codes.append(torch.where(mask, code, torch.zeros_like(code)).to(torch.int32))
        ranges.append(torch.stack([near, far]).float())
    return DepthMaps(torch.stack(codes), torch.stack(ranges))


def feature_images(codes: Tensor) -> list[np.ndarray]:
    """Return the codes (C, H, W) of a view as ceil(C / 3) images (H, W, 3) uint8."""
    missing = -len(codes) % 3
    padded = torch.cat([codes, codes.new_zeros(missing, *codes.shape[1:])])
    return [part.permute(1, 2, 0).contiguous().numpy() for part in padded.split(3)]


def features_of(images: list[np.ndarray], channels: int) -> Tensor:
    """Return the codes (C, H, W) uint8 of the images of a view: the inverse of `feature_images`."""
    planes = np.concatenate([image.transpose(2, 0, 1) for image in images])
    return torch.from_numpy(np.ascontiguousarray(planes[:channels]))


def depth_image(codes: Tensor, mask: Tensor) -> np.ndarray:
    """Return depth codes (H, W) and a mask (1, H, W) as one image (H, W, 3) uint8."""
    code = codes.numpy()
    return np.stack([code >> 8, code & 255, mask[0].numpy() * 255], -1).astype(np.uint8)


def depth_of(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return depth codes (H, W) int32 and mask (1, H, W): the inverse of `depth_image`."""
    high, low, mask = (torch.from_numpy(image[..., i].astype(np.int32)) for i in range(3))
    return high * 256 + low, mask[None] >= 128
