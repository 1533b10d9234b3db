"""Pictures of meta-training: a view before and after adaptation, and the losses on the way."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from data_processing.scenes.pool import PoolScene
from stages.evaluation import current_renderer
from utils.results.drawing import new_figure, to_array
from utils.results.metrics import masked, psnr
from utils.results.pictures import ERROR_BAR, error_map, image_grid, on_white

#: Scenes of a picture, the first ones.
MAX_SHOWN_SCENES = 2
COLUMNS = ("before adaptation", "after it", "photograph", "error before", "error after")


@dataclass(frozen=True)
class ShownView:
    """One training view of a scene, and how it is rendered from the others.

    Attributes:
        label: scene and view.
        photograph: (3, H, W) RGB.
        mask: (1, H, W) bool.
        images: rendered, (3, H, W) each, before and after adaptation.
    """

    label: str
    photograph: Tensor
    mask: Tensor
    images: tuple[Tensor, Tensor]


def shown_index(scene: PoolScene, reference_view: int) -> int:
    """Return which training view is shown: `reference_view` if it is one, else the middle one."""
    if reference_view in scene.numbers:
        return scene.numbers.index(reference_view)
    return len(scene.views) // 2


def rendered_while_adapting(task: Any, scene: PoolScene, reference_view: int,
                            num_steps: int) -> ShownView:
    """Render a training view, adapt the task's model to the scene, and render the view again.

    The view is kept from feeding itself.

    Args:
        task: the `SceneTrainer` of the scene; its model has the weights to start from.
        scene: the same.
        reference_view: number in the scene's folder.
        num_steps: of the adaptation.
    """
    index = shown_index(scene, reference_view)
    images = []
    for steps in (0, num_steps):
        for number in range(steps):
            task.train_step(number)
        rendering = current_renderer(task, steps)(scene.views.cameras[index], index)
        images.append(rendering.images[0].detach().cpu().float().clamp(0, 1))
    return ShownView(f"{scene.name}\nview {scene.views.names[index]}",
                     scene.views.images[index].cpu(), scene.views.masks[index].cpu(),
                     (images[0], images[1]))


def adaptation_grid(shown: Sequence[ShownView], title: str) -> np.ndarray:
    """Return an image grid (H, W, 3) uint8: a row a view, columns as in COLUMNS.

    Predictions stand before white outside the true mask, as only what is inside is scored.
    """
    rows, captions = [], []
    for view in shown:
        truth = masked(view.photograph, view.mask)
        errors = [error_map(masked(image, view.mask), truth) for image in view.images]
        rows.append([*(on_white(image, view.mask) for image in (*view.images, view.photograph)),
                     *errors])
        captions.append([*(f"{psnr(image, view.photograph, view.mask):.2f} dB"
                           for image in view.images), "", "", ""])
    return image_grid(rows, [view.label for view in shown], COLUMNS, title, captions=captions,
                      bars={3: ERROR_BAR, 4: ERROR_BAR})


def inner_loss_plot(losses: Sequence[Mapping[str, Tensor]], title: str) -> np.ndarray:
    """Plot the unweighted losses of the inner steps on one scene, on a logarithmic scale.

    Args:
        losses: by name, a row a step; a loss may be absent from some steps.
        title: a line above it.
    Returns:
        (H, W, 3) uint8.
    """
    figure, _ = new_figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    panel = figure.subplots()
    for name in dict.fromkeys(name for row in losses for name in row):
        points = [(number, float(row[name])) for number, row in enumerate(losses) if name in row]
        panel.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker=".")
    panel.set(xlabel="inner step", ylabel="loss", title=title, yscale="log")
    panel.grid(alpha=0.3)
    if losses:
        panel.legend(loc="best", fontsize=9)
    return to_array(figure)
