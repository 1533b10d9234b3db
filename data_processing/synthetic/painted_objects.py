"""Objects whose parts have colours of their own: what a demonstration likes to show.

Each is a function from seeded draws to parts: a solid in closed form, and the albedo of its points.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.scene_kinds import Dice, axis_rotation, fitted
from data_processing.synthetic.shading import Texture
from utils.geometry.sdf import Sdf

#: Points (N, 3) and noise (N, 3) in [-1, 1] at them to albedo (N, 3).
Paint = Callable[[Tensor, Tensor], Tensor]

#: How far noise lightens and darkens all paint, a fraction.
GRAIN = 0.35


@dataclass(frozen=True)
class Part:
    """A solid and its paint, both in the space in which the object is built."""

    solid: Sdf
    paint: Paint


@dataclass(frozen=True)
class PaintedTexture:
    """The albedo of an object that is put together of parts: that of the nearest one.

    Attributes:
        parts: in the space in which the object is built.
        grain: its noise makes the paint uneven.
        translation, scale: object space = scale * built space + translation.
    """

    parts: list[Part]
    grain: Texture
    translation: Tensor = field(default_factory=lambda: torch.zeros(3))
    scale: float = 1.0

    def albedo(self, points: Tensor) -> Tensor:
        """Return RGB (N, 3) in [0, 1] at points (N, 3), object space."""
        built = (points - self.translation) / self.scale
        nearest = torch.stack([part.solid(built) for part in self.parts]).argmin(0)
        noise = self.grain.octaves(points, self.grain.frequency * 4, 4)
        out = torch.empty_like(points)
        for number, part in enumerate(self.parts):
            mask = nearest == number
            out[mask] = part.paint(built[mask], noise[mask])
        return (out * (1 + GRAIN * noise[:, 1:2])).clamp(0, 1)


def owl(dice: Dice) -> tuple[Sdf, list[Part]]:
    """Return an owl on a piece of a branch."""
    tilt = dice.number(-0.06, 0.06)
    trunk = solids.ellipsoid((0.56, 0.74, 0.52), (0.0, -0.15, 0.0))
    head = solids.ellipsoid((0.53, 0.43, 0.46), (tilt, 0.56, 0.04))
    tufts = [solids.capsule((side * 0.27 + tilt, 0.8, 0.02), (side * 0.44 + tilt, 1.06, -0.02),
                            0.075) for side in (-1, 1)]
    body = solids.smooth_union(0.12, solids.smooth_union(0.2, trunk, head), *tufts)
    parts = [Part(body, _feathers)]
    for side in (-1, 1):
        lean = axis_rotation(torch.tensor([0.0, 0.0, 1.0]), side * 0.16)
        wing = solids.moved(solids.ellipsoid((0.14, 0.52, 0.36)), lean, (side * 0.53, -0.22, -0.04))
        disc = solids.ellipsoid((0.23, 0.23, 0.12), (side * 0.2 + tilt, 0.57, 0.4))
        pupil = solids.sphere(0.115, (side * 0.19 + tilt, 0.57, 0.45))
        parts += [Part(wing, _wing), Part(disc, _iris((side * 0.2 + tilt, 0.57))),
                  Part(pupil, _plain(0.06, 0.05, 0.07))]
        for toe in (-0.09, 0.0, 0.09):
            foot = solids.capsule((side * 0.22, -0.84, 0.2), (side * 0.22 + toe, -0.85, 0.42), 0.06)
            parts.append(Part(foot, _plain(0.93, 0.55, 0.13)))
    beak = solids.capsule((tilt, 0.5, 0.47), (tilt, 0.36, 0.53), 0.06)
    lying = axis_rotation(torch.tensor([0.0, 0.0, 1.0]), 1.57)
    branch = solids.bumpy(solids.moved(solids.cylinder(0.19, 0.8, rounding=0.06), lying,
                                       (0.0, -1.05, 0.22)), 0.015, 17.0, (0.3, 1.0, 2.0))
    parts += [Part(beak, _plain(0.95, 0.6, 0.12)), Part(branch, _bark)]
    whole = solids.union(solids.smooth_union(0.03, body, *(
        part.solid for part in parts if part.paint is _wing)),
        *(part.solid for part in parts[1:] if part.paint is not _wing))
    return whole, parts


def _plain(red: float, green: float, blue: float) -> Paint:
    """Return the paint that is one RGB colour in [0, 1] at every point."""
    return lambda points, noise: points.new_tensor([red, green, blue]).expand_as(points)


def _mix(first: tuple[float, float, float], second: tuple[float, float, float],
         share: Tensor) -> Tensor:
    """Return colours (N, 3) between two, by shares (N,) of the second, clamped to [0, 1]."""
    return torch.lerp(share.new_tensor([first]), share.new_tensor([second]),
                      share.clamp(0, 1)[:, None])


def _feathers(points: Tensor, noise: Tensor) -> Tensor:
    """Return a spotted brown back, and a cream belly with rows of crescents."""
    x, y, z = points.unbind(-1)
    spots = torch.sigmoid(9 * (noise[:, 2] - 0.12))
    back = _mix((0.6, 0.38, 0.21), (0.32, 0.19, 0.12), spots)
    row = y * 7.5
    across = x * 6.5 + 0.5 * torch.remainder(row.floor(), 2)
    u, v = across - across.round(), row - row.floor()
    crescent = torch.sigmoid(40 * ((u / 0.5).square() + (v - 1).square() - 0.62))
    belly = _mix((0.95, 0.87, 0.7), (0.55, 0.33, 0.2), crescent)
    bounds = (x / 0.42).square() + ((y + 0.2) / 0.58).square()
    is_belly = torch.sigmoid(25 * (1 - bounds)) * (z > 0.05)
    return torch.lerp(back, belly, is_belly[:, None])


def _wing(points: Tensor, noise: Tensor) -> Tensor:
    """Return dark bands across the feathers of a wing."""
    y, z = points[:, 1], points[:, 2]
    bands = torch.sigmoid(6 * torch.sin(17 * y + 5 * z + 1.5 * noise[:, 0]))
    return _mix((0.33, 0.2, 0.12), (0.72, 0.5, 0.28), bands)


def _iris(center: tuple[float, float]) -> Paint:
    """Return the paint of an eye: yellow about the pupil, white at the edge, with a dark rim."""
    def _paint(points: Tensor, noise: Tensor) -> Tensor:
        radius = (points[:, :2] - points.new_tensor(center)).norm(dim=-1)
        iris = _mix((0.98, 0.76, 0.1), (0.96, 0.93, 0.85), 40 * (radius - 0.155))
        return torch.lerp(iris, iris.new_tensor([0.2, 0.12, 0.08]),
                          (40 * (radius - 0.205)).clamp(0, 1)[:, None])
    return _paint


def _bark(points: Tensor, noise: Tensor) -> Tensor:
    """Return furrowed bark, and rings on the cut ends of the branch."""
    x, y, z = points.unbind(-1)
    radius = torch.hypot(y + 1.05, z - 0.22)
    rings = _mix((0.82, 0.66, 0.42), (0.56, 0.4, 0.22), torch.sigmoid(5 * torch.sin(75 * radius)))
    furrows = torch.sigmoid(5 * torch.sin(9 * torch.atan2(y + 1.05, z - 0.22) + 3 * noise[:, 0]))
    bark = _mix((0.42, 0.32, 0.22), (0.24, 0.17, 0.12), furrows)
    return torch.where((x.abs() > 0.775)[:, None], rings, bark)


#: Name of every painted object, as the command line spells it. `--kind all` leaves them out.
PAINTED_OBJECTS: dict[str, Callable[[Dice], tuple[Sdf, list[Part]]]] = {"owl": owl}


def make_painted(kind: str, generator: torch.Generator,
                 grain: Texture) -> tuple[Sdf, PaintedTexture]:
    """Return an object as `scene_kinds.make_solid` does, and its texture.

    Args:
        kind: a key of PAINTED_OBJECTS.
        generator: source of the draws.
        grain: the noise of the paint.
    """
    draft, parts = PAINTED_OBJECTS[kind](Dice(generator))
    translation, scale = fitted(draft, generator)
    solid = solids.moved(draft, translation=translation.tolist(), scale=scale)
    return solid, PaintedTexture(parts, grain, translation, scale)
