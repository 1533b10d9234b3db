"""An exported scene from a folder or a zip archive: no training code, no pickle."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from realtime.archive import DESCRIPTION, MAX_DESCRIPTION_BYTES, Parts, open_parts
from realtime.description import Description, Layer, ViewEntry, parse_description
from realtime.glb import read_glb
from realtime.maps import decode, depth_of, features_of
from realtime.scene import DepthMaps, ExportedScene, FeatureMaps, rigid_cameras
from realtime.students import StudentAggregation, StudentDecoder
from utils.errors import ExportedSceneError
from utils.files.limits import check_memory


def read_scene(path: str | Path) -> ExportedScene:
    """Read an exported scene.

    Args:
        path: a folder, or a zip archive.
    Raises:
        ExportedSceneError: it is missing, damaged, of a later version, or not consistent.
    """
    with open_parts(path) as parts:
        data = parts.read(DESCRIPTION, MAX_DESCRIPTION_BYTES)
        description = parse_description(data, f"{path}: {DESCRIPTION}")
        return _Assembly(description, parts, str(path)).scene()


class _Assembly:
    """Parts that become a scene, each compared with its length and sum first."""

    def __init__(self, description: Description, parts: Parts, where: str) -> None:
        self.description, self.parts, self.where = description, parts, where

    def scene(self) -> ExportedScene:
        """Return the scene; raises ExportedSceneError."""
        told, (width, height) = self.description, self.description.resolution
        channels = len(told.low)
        check_memory(len(told.views) * width * height * (channels + 3 + 1 + 4),
                     f"{self.where}: {len(told.views)} views of {width}x{height}",
                     "export fewer or smaller views", error=ExportedSceneError)
        views = [self._view(view) for view in told.views]
        photographs, features, depths, masks = (torch.stack(maps) for maps in zip(*views))
        aggregation, decoder = self._networks(channels)
        poster = decode(self._read(told.poster), self._named(told.poster), is_lossless=False)
        return ExportedScene(
            told.name, told.made_by, tuple(view.name for view in told.views), self._cameras(),
            photographs, masks,
            FeatureMaps(features, torch.tensor(told.low), torch.tensor(told.high)),
            DepthMaps(depths, torch.tensor([view.depth_range for view in told.views])),
            read_glb(self._read(told.mesh), self._named(told.mesh)), aggregation, decoder,
            told.depth_tolerance, told.background, told.up, poster)

    def _named(self, name: str) -> str:
        return f"{self.where}: {name}"

    def _read(self, name: str) -> bytes:
        """Return a part that has the length and sum that scene.json states."""
        part = self.description.parts[name]
        data = self.parts.read(name, part.num_bytes)
        if len(data) != part.num_bytes:
            raise ExportedSceneError(f"{self._named(name)}: {len(data):,} bytes, need "
                                     f"{part.num_bytes:,} as scene.json says: it is truncated; "
                                     "export or copy the scene again")
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise ExportedSceneError(f"{self._named(name)}: its SHA-256 is not the one in "
                                     "scene.json: it is damaged or was changed; export or copy the "
                                     "scene again")
        return data

    def _image(self, name: str) -> np.ndarray:
        return decode(self._read(name), self._named(name), size=self.description.resolution)

    def _view(self, view: ViewEntry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return photograph, features, depth codes and mask of a view."""
        photograph = torch.from_numpy(self._image(view.photograph).copy()).permute(2, 0, 1)
        features = features_of([self._image(name) for name in view.features],
                               len(self.description.low))
        return photograph.contiguous(), features, *depth_of(self._image(view.depth))

    def _cameras(self):
        """Return the cameras of the views."""
        views = self.description.views
        intrinsics = torch.zeros(len(views), 3, 3, dtype=torch.float64)
        for matrix, (fx, fy, cx, cy, skew) in zip(intrinsics, [v.intrinsics for v in views]):
            matrix[:] = torch.tensor([[fx, skew, cx], [0, fy, cy], [0, 0, 1]])
        poses = torch.tensor([view.object_to_camera for view in views], dtype=torch.float64)
        return rigid_cameras(poses, intrinsics, self.description.resolution).to(torch.float32)

    def _networks(self, channels: int) -> tuple[StudentAggregation, StudentDecoder]:
        """Return the two networks with their weights."""
        told, name = self.description, self.description.weights
        data = self._read(name)
        if len(data) % 4:
            raise ExportedSceneError(f"{self._named(name)}: {len(data):,} bytes, need whole float32"
                                     " numbers; export or copy the scene again")
        numbers = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32))
        if not torch.isfinite(numbers).all():
            raise ExportedSceneError(f"{self._named(name)}: weights that are not finite; export "
                                     "the scene again")
        networks = (StudentAggregation(channels, told.aggregation[0].shape[0], told.prior),
                    StudentDecoder(channels, told.decoder[0].shape[0]))
        for network, layers in zip(networks, (told.aggregation, told.decoder), strict=True):
            for layer, child in zip(layers, ("hidden", "out"), strict=True):
                self._fill(network.get_submodule(child), layer, numbers)
            network.requires_grad_(False).eval()
        return networks

    def _fill(self, module: nn.Module, layer: Layer, numbers: Tensor) -> None:
        """Copy a layer's numbers into a module."""
        for tensor, start in ((module.weight, layer.weight), (module.bias, layer.bias)):
            found = numbers[start:start + tensor.numel()]
            if len(found) != tensor.numel():
                raise ExportedSceneError(
                    f"{self._named(self.description.weights)}: {len(numbers):,} numbers, a layer "
                    f"needs those from {start:,} to {start + tensor.numel():,}; export or copy the "
                    "scene again")
            tensor.data.copy_(found.reshape(tensor.shape))
