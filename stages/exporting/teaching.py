"""What the small networks are taught from: samples of virtual views, and the teacher's pictures.

A lesson is a tile of a virtual view, so that a step costs the same at any size of the views. It
keeps only samples that count, at 16 bits.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from realtime.blending import PlainBlending
from realtime.renderer import SceneRenderer, surface_points
from realtime.scene import straight_cameras
from realtime.students import direction_prior
from stages.mesh_rendering import MeshViewRenderer
from utils.geometry.cameras import Cameras

#: Pixels around the surface in which pictures are compared: what lies there is visible at the
#: outline, and counts where the mask of a photograph is larger than the surface.
OUTLINE = 6
#: Side of a tile, pixels, and its margin, which the student's two 3x3 convolutions read.
TILE, TILE_MARGIN = 160, 2
#: Samples of all lessons, 52 bytes each.
MAX_SAMPLES = 12_000_000


@dataclass(frozen=True)
class Lesson:
    """A tile of h x w pixels with M samples that count.

    Attributes:
        pixel: (M,) int64, number of the sample's pixel in the tile.
        features: (M, C) float16.
        colours: (M, 3) float16, in [0, 1].
        dirs_obj: (M, 3) float16, directions of the pixels' rays.
        prior: (M,), see `direction_prior`.
        weights: (M,) of the teacher, summing to 1 in each pixel.
        target: (3, h, w), the teacher's picture.
        counts_mask: (1, h, w) bool, where it is compared.
    """

    pixel: Tensor
    features: Tensor
    colours: Tensor
    dirs_obj: Tensor
    prior: Tensor
    weights: Tensor
    target: Tensor
    counts_mask: Tensor

    def blend(self, weights: Tensor) -> Tensor:
        """Return what the decoder takes, (1, C + 4, h, w), with weights (M,) of the samples."""
        height, width = self.target.shape[1:]
        total = torch.zeros(height * width, device=weights.device).index_add(0, self.pixel, weights)
        weights = weights / total[self.pixel]
        samples = torch.cat([self.features, self.colours], 1).float()
        samples = F.pad(samples, (0, 1), value=1.0) * weights[:, None]   # (M, C + 4)
        blended = samples.new_zeros(height * width, samples.shape[1]).index_add(
            0, self.pixel, samples)
        return blended.T.reshape(1, -1, height, width)


def make_lessons(teacher: MeshViewRenderer, student: SceneRenderer,
                 cameras: Cameras) -> list[Lesson]:
    """Return the lessons of virtual cameras, as many as there is room for.

    Args:
        teacher: the trained model, on the student's mesh.
        student: the exported scene.
        cameras: T virtual cameras.
    """
    lessons: list[Lesson] = []
    sources, count = PlainBlending(student.scene, student.device), 0
    for number in tqdm(range(len(cameras)), desc="teacher", unit="view", dynamic_ncols=True):
        if count > MAX_SAMPLES:
            break
        found = list(lessons_of(teacher, student, sources, cameras[number]))
        count += sum(len(lesson.pixel) for lesson in found)
        lessons += found
    return lessons


@torch.no_grad()
def lessons_of(teacher: MeshViewRenderer, student: SceneRenderer, sources: PlainBlending,
               camera: Cameras) -> Iterator[Lesson]:
    """Yield the lessons of one camera; `sources` are the student's."""
    straight = straight_cameras(camera).to(student.device)
    hits = student.rays.first_hits(straight)
    points = surface_points(straight, hits)
    if not len(points.pixels):
        return
    samples = sources.sample(points)
    rendered = teacher(camera)
    prior = direction_prior(sources.aggregation.prior, points.points_obj, points.dirs_obj,
                            sources.cameras.centers_obj, counts_mask=samples.counts_mask)
    weights = rendered.weights[:, 0].float().flatten(1)[:, points.pixels]    # (K, P)
    weights = (weights * samples.counts_mask).clamp(min=1e-6)
    near_mask = F.max_pool2d(hits.mask.float()[None, None], 2 * OUTLINE + 1, 1, OUTLINE)[0] > 0
    width = camera.resolution[0]
    view, point = samples.counts_mask.nonzero().unbind(-1)
    row, column = points.pixels[point] // width, points.pixels[point] % width
    packed = (samples.features[view, :, point].half(), samples.colours[view, :, point].half(),
              points.dirs_obj[point].half(), prior[view, point], weights[view, point])
    for top, bottom, left, right in tiles(near_mask[0]):
        own = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        pixel = (row[own] - top) * (right - left) + column[own] - left
        features, colours, dirs, priors, taught = (values[own] for values in packed)
        area = (slice(None), slice(top, bottom), slice(left, right))
        yield Lesson(pixel, features, colours, dirs, priors, taught,
                     rendered.images[0].float()[area].clamp(0, 1), near_mask[area])


def tiles(mask: Tensor) -> Iterator[tuple[int, int, int, int]]:
    """Yield top, bottom, left, right of tiles that hold a mask (H, W), with their margins."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    for top in range(int(rows[0]), int(rows[-1]) + 1, TILE):
        for left in range(int(columns[0]), int(columns[-1]) + 1, TILE):
            bottom, right = (min(top + TILE, int(rows[-1]) + 1),
                             min(left + TILE, int(columns[-1]) + 1))
            if mask[top:bottom, left:right].any():
                yield (max(top - TILE_MARGIN, 0), min(bottom + TILE_MARGIN, mask.shape[0]),
                       max(left - TILE_MARGIN, 0), min(right + TILE_MARGIN, mask.shape[1]))
