"""Views of scenes whose surfaces are known: nothing is traced."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.joint.surfaces import StartedScene
from utils.results.metrics import psnr
from utils.views.regions import ViewRegions
from utils.views.training_views import Sources, Targets


def render(model: nn.Module, scene: StartedScene, sources: Tensor, targets: Tensor, *,
           occ_threshold: float, regions: ViewRegions | None = None,
           change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Render views of a scene from others of it; a view never feeds itself.

    Args:
        model: encodes, corresponds, blends and decodes (`modules_sdf.ImageBasedModel`).
        sources, targets: numbers of its views, (K,) and (T,) int64.
        occ_threshold: squared distance in object units, see `visible_in_sources`.
        regions: what is read of the targets and the sources; None: all.
        change: of the sources' photographs (K, 3, H, W); None: they stay.
    Returns:
        Images (T, 3, H, W), not clamped, differentiable in the image networks.
    """
    views, surface = scene.views, scene.surface
    images = views.images[sources] if change is None else change(views.images[sources])
    feeding = Sources(views.cameras[sources], images, views.masks[sources],
                      surface.surface(sources))
    own = (sources[:, None] == targets[None]).to(views.images.device)
    shown = Targets(surface.surface(targets), surface.dirs[targets], own)
    return model(shown, feeding, occ_threshold, regions=regions)


@torch.no_grad()
def start_psnr(model: nn.Module, scene: StartedScene, occ_threshold: float) -> float:
    """Return the mean PSNR of a scene's held-out views, rendered from all its training views.

    Args:
        model, occ_threshold: as in `render`; the model is in evaluation mode.
        scene: with held-out views.
    """
    sources = torch.tensor(scene.sources)
    found = []
    for view in scene.scored:
        image = render(model, scene, sources, torch.tensor([view]), occ_threshold=occ_threshold)
        found.append(psnr(image[0], scene.views.images[view], scene.views.masks[view]))
    return sum(found) / len(found)
