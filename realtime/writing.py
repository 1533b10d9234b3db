"""An exported scene to a folder or a zip archive (docs/scene_format.md)."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from realtime.archive import DESCRIPTION, write_parts
from realtime.description import AGGREGATION, DECODER, FORMAT, MAX_NAME, SUM, VERSION, sum_of
from realtime.glb import write_glb
from realtime.maps import (
    MAX_SIDE,
    depth_image,
    encode_lossless,
    encode_picture,
    feature_images,
)
from realtime.scene import ExportedScene
from utils.errors import UserError
from utils.geometry.cameras import Cameras, intrinsics_from_projection

MESH, POSTER, WEIGHTS = "mesh.glb", "poster.webp", "weights.bin"


def write_scene(scene: ExportedScene, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an exported scene.

    Args:
        scene: all of it.
        path: a folder, or a file that ends in .zip.
        overwrite: an earlier exported scene may be there.
    Returns:
        the path.
    Raises:
        UserError: the images are too large for WebP.
        WriteError: something is there already, or nothing can be written.
    """
    return write_parts(path, scene_parts(scene), overwrite=overwrite)


def scene_parts(scene: ExportedScene) -> dict[str, bytes]:
    """Return all files of an exported scene by name, scene.json first."""
    width, height = scene.cameras.resolution
    if max(width, height) > MAX_SIDE:
        raise UserError(f"views of {width}x{height} pixels, need at most {MAX_SIDE} a side for "
                        "WebP; give a smaller --load_im_scale")
    weights, layers = _weights(scene.aggregation, scene.decoder)
    parts = {MESH: write_glb(scene.mesh, scene.up), WEIGHTS: weights,
             POSTER: encode_picture(scene.poster)}
    views = [_add_view(scene, number, parts) for number in range(len(scene))]
    content = {
        "format": FORMAT, "version": VERSION, "name": scene.name[:MAX_NAME],
        "made_by": scene.made_by, "resolution": [width, height],
        "background": list(scene.background), "up": list(scene.up),
        "depth_tolerance": scene.depth_tolerance, "mesh": MESH, "poster": POSTER,
        "weights": WEIGHTS,
        "features": {"channels": scene.features.codes.shape[1],
                     "low": scene.features.low.tolist(), "high": scene.features.high.tolist()},
        "aggregation": {"kind": AGGREGATION, "prior": scene.aggregation.prior,
                        "layers": layers[:2]},
        "decoder": {"kind": DECODER, "layers": layers[2:]}, "views": views,
        "parts": [{"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for name, data in parts.items()]}
    content[SUM] = sum_of(content)
    # names of views may hold bytes that are not UTF-8, which JSON's escapes keep
    text = json.dumps(content, indent=1, allow_nan=False)
    return {DESCRIPTION: text.encode("ascii"), **parts}


def _add_view(scene: ExportedScene, number: int, parts: dict[str, bytes]) -> dict[str, Any]:
    """Add the images of a source view to the parts; its entry of scene.json."""
    folder = f"views/{number}"
    photograph, depth = f"{folder}/photograph.webp", f"{folder}/depth.webp"
    parts[photograph] = encode_lossless(_as_image(scene.photographs[number]))
    features = []
    for i, image in enumerate(feature_images(scene.features.codes[number])):
        features.append(f"{folder}/features_{i}.webp")
        parts[features[-1]] = encode_lossless(image)
    parts[depth] = encode_lossless(depth_image(scene.depths.codes[number], scene.masks[number]))
    return {"name": scene.view_names[number][:MAX_NAME], **camera_entry(scene.cameras[number]),
            "photograph": photograph, "features": features, "depth": depth,
            "depth_range": scene.depths.ranges[number].tolist()}


def camera_entry(camera: Cameras) -> dict[str, Any]:
    """Return one camera straight from object space as it stands in scene.json."""
    return {"intrinsics": _intrinsics(camera),
            "object_to_camera": camera.object_to_camera[0].tolist()}


def _as_image(image: Tensor) -> np.ndarray:
    """Return an image (3, H, W) as (H, W, 3)."""
    return image.permute(1, 2, 0).contiguous().numpy()


def _intrinsics(camera: Cameras) -> dict[str, float]:
    """Return the intrinsics of one camera, the corner of the top left pixel at (0, 0)."""
    k = intrinsics_from_projection(camera.projection.double(), camera.resolution)[0]
    return {"fx": float(k[0, 0]), "fy": float(k[1, 1]), "cx": float(k[0, 2]) + 0.5,
            "cy": float(k[1, 2]) + 0.5, "skew": float(k[0, 1])}


def _weights(*networks: nn.Module) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the weights of networks of two layers each, and where each layer's lie."""
    numbers: list[Tensor] = []
    layers, count = [], 0
    for network in networks:
        for name, activation in (("hidden", "relu"), ("out", "none")):
            layer = network.get_submodule(name)
            starts, shape = [], list(layer.weight.shape)
            for tensor in (layer.weight, layer.bias):
                starts.append(count)
                numbers.append(tensor.detach().reshape(-1).float().cpu())
                count += tensor.numel()
            layers.append({"kind": "conv3x3" if len(shape) == 4 else "linear", "shape": shape,
                           "weight": starts[0], "bias": starts[1], "activation": activation})
    return torch.cat(numbers).numpy().astype("<f4").tobytes(), layers
