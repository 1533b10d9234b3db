"""The memory that a training step takes, computed without a GPU.

A step is taken on torch's `meta` device, whose tensors have sizes and no values, on the paths that
CUDA takes. What a real allocator adds (fragments, workspaces of convolutions, the context, some
1 GB) is not in it.
"""
from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.gpu_figures.setup import IMAGE_STEP, SCRATCH, SHAPE_STEP, MeasureSetup
from stages.models import build_model
from stages.scene import build_scene_trainer
from training import SceneTrainer
from utils.config.parser import Config
from utils.geometry.cameras import Cameras
from utils.views.training_views import TrainingViews

GB = 1e9
CARDS_GB = (24, 48, 80)   # memory of GPUs that there are


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations in the block make, while they are held.

    Attributes:
        held: bytes now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Run the operation; count the memory that is new among its results."""
        found = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def step_memory(setup: MeasureSetup, num_views: int, size: tuple[int, int]) -> dict[str, Any]:
    """Compute the memory of training on some views in fp32, all of them sources of each step.

    Args:
        setup: its scene has the cameras.
        num_views: K.
        size: (W, H) of the images.
    Returns:
        GB held between steps, and at the peaks of a step that trains the shape and of one that does
        not; the cards of CARDS_GB that hold the largest.
    """
    config = setup.config(SCRATCH, "--source_views_per_target", -1, "--precision", "fp32",
                          "--device", "cpu")
    cameras = setup.subject(device="cpu").scene.cameras[:num_views].resized(*size)
    with LiveMemory() as memory:
        trainer = meta_trainer(config, cameras)
        found: dict[str, float] = {}
        for name, step in (("shape", SHAPE_STEP), ("image", IMAGE_STEP)):
            trainer.train_step(step)                       # the moments of Adam are made
            memory.peak = memory.held
            trainer.train_step(step)
            found[f"{name}_step_gb"] = memory.peak / GB
        found["held_gb"] = memory.held / GB
    largest = max(found.values())
    return found | {"views": num_views, "resolution": "x".join(map(str, size)),
                    "fits": [card for card in CARDS_GB if largest < card]}


def meta_trainer(config: Config, cameras: Cameras) -> SceneTrainer:
    """Return a trainer on the `meta` device, of photographs that have sizes alone."""
    width, height = cameras.resolution
    views = TrainingViews(
        torch.zeros(len(cameras), 3, height, width, device="meta"),
        torch.zeros(len(cameras), 1, height, width, dtype=torch.bool, device="meta"),
        cameras.to("meta"), tuple(map(str, range(len(cameras)))))
    model = build_model(config.sdf, config.cnn, config.views, config.run).to("meta")
    trainer = build_scene_trainer(model, views, config,
                                  generator=torch.Generator().manual_seed(0))
    trainer.trace_all()
    return trainer
