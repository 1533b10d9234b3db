"""How a synthetic object looks: a colourful texture, soft lights, mild highlights."""
from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from utils.geometry.sdf import Sdf

#: Cells of the periodic noise volume along each axis.
NOISE_CELLS = 32
#: Blinn-Phong exponent of the highlights, and how far (object units) nearby walls shade a point.
SHININESS, SHADE_REACH = 24.0, 0.12
#: Colour of every ray that misses.
BACKGROUND = 0.04
PATTERNS = ("stripes", "checker", "marble", "spots")


class Albedo(Protocol):
    """What colour an object has."""

    def albedo(self, points: Tensor) -> Tensor:
        """Return RGB (N, 3) in [0, 1] at points (N, 3), object space."""
        ...


@dataclass(frozen=True)
class Texture:
    """The albedo of any point of object space.

    Attributes:
        noise: (3, D, D, D) periodic noise in [-1, 1], three independent channels.
        palette: (4, 3) RGB in [0, 1].
        pattern: one of PATTERNS, the large forms.
        axis: (3,) unit, direction of the stripes.
        frequency: periods of the large forms per object unit; finer octaves go up from there.
    """

    noise: Tensor
    palette: Tensor
    pattern: str
    axis: Tensor
    frequency: float

    def octaves(self, points: Tensor, frequency: float, count: int) -> Tensor:
        """Return the sum (N, 3) of `count` octaves of noise, each half as strong."""
        out = self._sample(points, frequency)
        for k in range(1, count):
            out = out + 0.5 ** k * self._sample(points, frequency * 2 ** k)
        return out / (2 - 0.5 ** (count - 1))

    def _sample(self, points: Tensor, frequency: float) -> Tensor:
        """Return trilinear, periodic noise (N, 3) with `frequency` cells per object unit."""
        cells = self.noise.shape[-1] - 1                               # the last cell is the first
        place = torch.remainder(points * frequency, cells)
        grid = (place * (2 / cells) - 1)[None, None, None]             # (1, 1, 1, N, 3)
        found = grid_sample(self.noise[None], grid, align_corners=True, padding_mode="border")
        return found[0, :, 0, 0].T

    def albedo(self, points: Tensor) -> Tensor:
        """Return RGB (N, 3) in [0, 1] at points (N, 3), object space."""
        coarse = self.octaves(points, self.frequency, 3)               # (N, 3)
        fine = self.octaves(points + 0.37, self.frequency * 4, 4)      # (N, 3)
        first = _sharpen(self._form(points, coarse[:, 0]))
        second = _sharpen(3 * coarse[:, 1] - 0.4)
        third = _sharpen(4 * fine[:, 0] - 0.2) * 0.6
        colour = torch.lerp(self.palette[0], self.palette[1], first[:, None])
        colour = torch.lerp(colour, self.palette[2].expand_as(colour), second[:, None] * 0.9)
        colour = torch.lerp(colour, self.palette[3].expand_as(colour), third[:, None])
        return (colour * (1 + 0.8 * fine[:, 1:2])).clamp(0, 1)

    def _form(self, points: Tensor, wobble: Tensor) -> Tensor:
        """Return large forms (N,) in [-1, 1] at points (N, 3), bent by wobble (N,)."""
        circular = 2 * torch.pi * self.frequency                       # radians per object unit
        if self.pattern == "stripes":
            return torch.sin(points @ self.axis * circular + 2 * wobble)
        if self.pattern == "checker":
            return 2.0 * torch.sin(points * (circular / 1.5)).prod(-1) + 0.3 * wobble
        if self.pattern == "marble":
            return torch.sin(points @ self.axis * (circular / 2) + 9 * wobble)
        return 4 * (wobble - 0.15)


@dataclass(frozen=True)
class Lighting:
    """Lights at infinity, and how they are reflected.

    Attributes:
        dirs: (L, 3) unit, object space, from the surface to the light.
        colours: (L, 3) RGB.
        ambient: (3,) RGB.
        highlight: strength of the highlights, the only part that depends on the view.
    """

    dirs: Tensor
    colours: Tensor
    ambient: Tensor
    highlight: float


class Appearance(Protocol):
    """How an object looks."""

    def shade(self, sdf: Sdf, points: Tensor, *, normals: Tensor, dirs: Tensor) -> Tensor:
        """Return the colour (N, 3) seen along rays that hit, RGB in [0, 1].

        Args:
            sdf: points (N, 3) to (N,).
            points: (N, 3) on the surface, object space.
            normals: (N, 3) outward unit.
            dirs: (N, 3) unit, camera to surface, object space.
        """
        ...


@dataclass(frozen=True)
class Look:
    """Texture and lights of one object."""

    texture: Albedo
    lighting: Lighting

    def shade(self, sdf: Sdf, points: Tensor, *, normals: Tensor, dirs: Tensor) -> Tensor:
        """Return `diffuse` plus Blinn-Phong highlights; see `Appearance.shade`."""
        lights = self.lighting
        halfway = normalize(lights.dirs[None] - dirs[:, None], dim=-1)     # (N, L, 3)
        gloss = (normals[:, None] * halfway).sum(-1).clamp_min(0) ** SHININESS
        highlight = lights.highlight * (gloss @ lights.colours)
        return (diffuse(sdf, self, points, normals) + highlight).clamp(0, 1)


def make_look(generator: torch.Generator) -> Look:
    """Draw a texture and lights from the generator."""
    return Look(*draw_look(generator))


def draw_look(generator: torch.Generator) -> tuple[Texture, Lighting]:
    """Draw a texture and lights from the generator."""
    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    noise = draw(3, NOISE_CELLS, NOISE_CELLS, NOISE_CELLS) * 2 - 1
    for axis in (1, 2, 3):
        noise = torch.cat([noise, noise.narrow(axis, 0, 1)], axis)     # periodic: first cell again
    pattern = PATTERNS[int(draw(1) * len(PATTERNS))]
    texture = Texture(noise, _palette(draw), pattern, normalize(draw(3) * 2 - 1, dim=0),
                      frequency=float(2.5 + 2 * draw(1)))
    front = normalize(torch.tensor([[0.5, 0.8, 0.7], [-0.8, 0.3, 0.5], [0.1, -0.4, -0.9]])
                      + 0.5 * (draw(3, 3) - 0.5), dim=-1)
    tint = 1 + 0.2 * (draw(3, 3) - 0.5)
    strength = torch.tensor([[0.8], [0.45], [0.5]])
    lighting = Lighting(front, strength * tint, torch.full((3,), 0.35), float(0.1 + 0.1 * draw(1)))
    return texture, lighting


def _palette(draw: Callable[..., Tensor]) -> Tensor:
    """Draw four colours (4, 3) whose hues go round the circle, light and dark alternating."""
    first, jitter = float(draw(1)), draw(4, 3)
    colours = [colorsys.hsv_to_rgb((first + 0.25 * k + 0.12 * float(jitter[k, 0])) % 1,
                                   0.5 + 0.45 * float(jitter[k, 1]),
                                   (1.0, 0.6)[k % 2] - 0.15 * float(jitter[k, 2]))
               for k in (0, 2, 1, 3)]
    return torch.tensor(colours)


def _sharpen(value: Tensor) -> Tensor:
    """Return a soft step from 0 to 1 around zero."""
    return torch.sigmoid(6 * value)


def diffuse(sdf: Sdf, look: Look, points: Tensor, normals: Tensor) -> Tensor:
    """Return the light that a surface point sends in all directions alike.

    albedo (ambient + sum over lights of colour ((1 + n.l) / 2)^2) times the openness of the place:
    f at a little distance outwards, as a fraction of that distance.

    Args:
        sdf: points (N, 3) to (N,).
        look: texture and lights.
        points: (N, 3) on the surface, object space.
        normals: (N, 3) outward unit.
    Returns:
        (N, 3) RGB, not clamped.
    """
    lights = look.lighting
    facing = (0.5 + 0.5 * (normals @ lights.dirs.T)).square()          # (N, L)
    light = lights.ambient + facing @ lights.colours                   # (N, 3)
    openness = (sdf(points + SHADE_REACH * normals) / SHADE_REACH).clamp(0, 1)
    return look.texture.albedo(points) * light * (0.45 + 0.55 * openness)[:, None]
