"""What each step of an export costs: pictures against photographs, and against full D."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules_sdf import LEARNED
from realtime.renderer import SceneRenderer
from realtime.scene import straight_cameras
from stages.evaluation import TrainedScene
from stages.exporting.assembly import PRIOR_OF
from utils.geometry.cameras import Cameras
from utils.results.evaluation import score_view
from utils.results.lpips import LPIPS
from utils.results.metric_table import METRICS
from utils.results.text_tables import format_rows

#: A camera and the number of a source view that is left out, or None, to an image (3, H, W), not
#: clamped, its hit mask (1, H, W), and how much of each pixel the surface covers, (1, H, W).
Draw = Callable[[Cameras, int | None], tuple[Tensor, Tensor, Tensor]]
NAMES = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class StepScore:
    """Mean metrics of one step's pictures; None where a metric is not available.

    Attributes:
        to_photographs: by name, against photographs.
        to_first: by name, against the first step's pictures; empty for itself.
        cut_out: PSNR of the whole picture as it is shown, on the background, against the
            photograph cut out by its mask.
    """

    to_photographs: dict[str, float | None]
    to_first: dict[str, float | None]
    cut_out: float


class StepScores:
    """Scores steps on the same views, one after the other.

    Args:
        trained: the scene and the views that are scored; a training view never feeds itself.
        lpips: None leaves its metrics empty.
        background: RGB in [0, 1], behind what is cut out.
    """

    def __init__(self, trained: TrainedScene, lpips: LPIPS | None,
                 background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.trained, self.lpips = trained, lpips
        self.background = torch.tensor(background)[:, None, None]
        self.first: dict[int, Tensor] = {}
        self.scores: dict[str, StepScore] = {}

    def add(self, title: str, draw: Draw) -> StepScore:
        """Score a step; the first one is what the others are compared with."""
        to_photographs, to_first, cut_out, scene = [], [], [], self.trained.scene
        is_first = not self.scores
        for view in self.trained.scored:
            own = self.trained.train.index(view) if view in self.trained.train else None
            image, hit_mask, covered = (x.float().cpu() for x in draw(scene.cameras[view], own))
            masks = scene.masks[view], hit_mask > 0
            cut_out.append(self._psnr_cut_out(image, covered, view))
            to_photographs.append(self._score(image, scene.images[view], *masks))
            if is_first:
                self.first[view] = image.clamp(0, 1)
            else:
                to_first.append(self._score(image, self.first[view], *masks))
        self.scores[title] = StepScore(_means(to_photographs), _means(to_first),
                                       sum(cut_out) / len(cut_out))
        return self.scores[title]

    def _psnr_cut_out(self, image: Tensor, covered: Tensor, view: int) -> float:
        shown = self.background.lerp(image.clamp(0, 1), covered)
        scene = self.trained.scene
        target = torch.where(scene.masks[view], scene.images[view].float(), self.background)
        return -10 * math.log10(max(float((shown - target).square().mean()), 1e-10))

    def _score(self, image: Tensor, target: Tensor, mask: Tensor,
               hit_mask: Tensor) -> dict[str, float | None]:
        found = vars(score_view(image, target, mask, hit_mask=hit_mask, lpips=self.lpips))
        return {name: found[name] for name in NAMES}

    def table(self) -> str:
        """Return the scores as lines of text."""
        titles = [METRICS[name].title for name in NAMES]
        rows = [["step", *titles, "cut out", *(f"{title} to full D" for title in titles)]]
        for title, score in self.scores.items():
            rows.append([title, *_texts(score.to_photographs), METRICS["psnr"].text(score.cut_out),
                         *_texts(score.to_first)])
        return format_rows(rows, rules_before=(1,))


class TeacherAggregation(nn.Module):
    """Full G in the place of the small one: the same samples, the teacher's weights.

    Args:
        model: trained; where its weights are not learned, the prior alone gives them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.is_learned = model.settings.aggregation in LEARNED
        self.prior = PRIOR_OF.get(model.settings.aggregation, "none")
        self.network = model.aggregation

    def forward(self, features: Tensor, dirs_obj: Tensor) -> Tensor:
        """Return weights (N,) of features (N, C) and directions (N, 3)."""
        if not self.is_learned:
            return torch.ones_like(features[:, 0])
        return self.network(features, dirs_obj)


def student_draw(renderer: SceneRenderer) -> Draw:
    """Return what draws pictures of an exported scene."""
    def draw(camera: Cameras, exclude: int | None) -> tuple[Tensor, Tensor, Tensor]:
        frame = renderer.render(straight_cameras(camera), exclude)
        return frame.image, frame.hit_mask, frame.coverage[None]
    return draw


def full_draw(render: Callable) -> Draw:
    """Return what draws pictures with the full networks; `render` is a `ViewRenderer`."""
    def draw(camera: Cameras, exclude: int | None) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            found = render(camera, exclude)
        covered = found.hit_mask if found.coverage is None else found.coverage
        return found.images[0], found.hit_mask[0], covered[0]
    return draw


def _means(scores: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the means of metrics over the views that have them."""
    found: dict[str, float | None] = {}
    scores = list(scores)
    for name in NAMES:
        values = [score[name] for score in scores if score[name] is not None]
        found[name] = sum(values) / len(values) if values else None          # type: ignore
    return found


def _texts(scores: Mapping[str, float | None]) -> list[str]:
    """Return metrics as cells of a table."""
    return [METRICS[name].text(scores.get(name)) for name in NAMES] if scores else [""] * len(NAMES)
