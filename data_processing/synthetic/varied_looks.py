"""Looks as various as those of real objects, for training on many of them.

One colour with stains, or fields of paint; one to three lights that cast soft shadows; highlights
of different width; different backgrounds, exposures and noise of the photographs.
"""
from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from data_processing.synthetic.scene_kinds import Dice
from data_processing.synthetic.shading import (
    BACKGROUND,
    Albedo,
    Appearance,
    Lighting,
    Texture,
    make_look,
)
from utils.geometry.sdf import Sdf

#: Rays to a light: where they begin, their shortest and longest step, and how many there are.
SHADOW_START, SHADOW_STEPS, NUM_SHADOW_STEPS = 0.03, (0.01, 0.12), 24
#: Distances along the normal (object units) at which walls keep ambient light off, and how much.
OPENNESS = ((0.06, 0.4), (0.15, 0.35), (0.35, 0.25))
#: Largest spread of the views' exposures, a fraction, and of the noise of a pixel.
EXPOSURE_SPREAD, PIXEL_NOISE = 0.08, 0.015


@dataclass(frozen=True)
class Stained:
    """An albedo of nearly one colour, such as plaster, clay or bone, with stains and grain.

    Attributes:
        noise: source of stains and grain.
        colours: (2, 3) RGB, between which the stains lie.
        frequency: of the stains, noise cells per object unit; grain_frequency is the grain's.
        sharpness: of the stains' edges.
        grain: how far the grain lightens and darkens, a fraction.
    """

    noise: Texture
    colours: Tensor
    frequency: float
    grain_frequency: float
    sharpness: float
    grain: float

    def albedo(self, points: Tensor) -> Tensor:
        """Return RGB (N, 3) in [0, 1] at points (N, 3), object space."""
        stain = self.noise.octaves(points, self.frequency, 2)[:, :1]
        grain = self.noise.octaves(points + 0.37, self.grain_frequency, 3)[:, 1:2]
        colour = torch.lerp(self.colours[:1], self.colours[1:],
                            torch.sigmoid(self.sharpness * stain))
        return (colour * (1 + self.grain * grain)).clamp(0, 1)


@dataclass(frozen=True)
class Fields:
    """An albedo of large fields of paint with sharp edges, and fine print on them.

    Attributes:
        noise: source of the fields and the print.
        colours: (4, 3) RGB: three of the fields, one of the print.
        frequency: of the fields, noise cells per object unit; print_frequency is the print's.
        sharpness: of all edges.
        strength: of the print, in [0, 1].
    """

    noise: Texture
    colours: Tensor
    frequency: float
    print_frequency: float
    sharpness: float
    strength: float

    def albedo(self, points: Tensor) -> Tensor:
        """Return RGB (N, 3) in [0, 1] at points (N, 3), object space."""
        large = self.noise.octaves(points, self.frequency, 1)
        fine = self.noise.octaves(points + 0.37, self.print_frequency, 2)
        shares = torch.stack([large[:, 0], large[:, 1] - 0.25, fine[:, 2] - 0.15], -1)
        shares = torch.sigmoid(self.sharpness * shares) * shares.new_tensor([1, 1, self.strength])
        colour = self.colours[0]
        for number in range(3):
            colour = torch.lerp(colour, self.colours[number + 1], shares[:, number:number + 1])
        return colour


@dataclass(frozen=True)
class ShadowedLook:
    """A texture under lights that cast soft shadows.

    Attributes:
        texture: albedo.
        lighting: L lights.
        shininess: Blinn-Phong exponent of the highlights.
        softness: of the shadows: the larger, the sharper.
    """

    texture: Albedo
    lighting: Lighting
    shininess: float
    softness: float

    def shade(self, sdf: Sdf, points: Tensor, *, normals: Tensor, dirs: Tensor) -> Tensor:
        """See `Appearance.shade`; shadows ask the SDF."""
        lights = self.lighting
        facing = (normals @ lights.dirs.T).clamp(min=0)                  # (N, L)
        lit = torch.stack([lit_fraction(sdf, points + 0.01 * normals, light, self.softness)
                           for light in lights.dirs], -1)
        openness = sum(share * (sdf(points + reach * normals) / reach).clamp(0, 1)
                       for reach, share in OPENNESS)
        sky = (0.775 + 0.225 * normals[:, 1]) * (0.25 + 0.75 * openness)
        light = sky[:, None] * lights.ambient + (facing * lit) @ lights.colours
        halfway = normalize(lights.dirs[None] - dirs[:, None], dim=-1)   # (N, L, 3)
        gloss = (normals[:, None] * halfway).sum(-1).clamp(min=0) ** self.shininess
        highlight = lights.highlight * (gloss * lit * (facing > 0)) @ lights.colours
        return (self.texture.albedo(points) * light + highlight).clamp(0, 1)


def lit_fraction(sdf: Sdf, points: Tensor, light: Tensor, softness: float) -> Tensor:
    """Return how much of a light reaches points, (N,) in [0, 1].

    On the way to the light the least of softness * distance to the object / distance gone counts.

    Args:
        sdf: points (N, 3) to (N,).
        points: (N, 3) a little outside the surface, object space.
        light: (3,) unit, towards the light.
        softness: 1 / radians; the larger, the sharper the shadows.
    """
    gone, least = torch.full_like(points[:, 0], SHADOW_START), torch.ones_like(points[:, 0])
    for _ in range(NUM_SHADOW_STEPS):
        free = sdf(points + gone[:, None] * light)
        least = torch.minimum(least, (softness * free / gone).clamp(min=0))
        gone = gone + free.clamp(*SHADOW_STEPS)
    return least.square() * (3 - 2 * least)


def draw_varied_look(generator: torch.Generator) -> Appearance:
    """Draw a look: half of them stained, a fifth in fields, the others colourful textures.

    One in ten is that of `shading.make_look`, lights included.
    """
    dice, noise = Dice(generator), make_look(generator)
    number = dice.count(0, 9)
    if number == 9:
        return noise
    texture = noise.texture
    assert isinstance(texture, Texture), "make_look draws no other"
    albedo = _stained(texture, dice) if number < 5 else _fields(texture, dice) if number < 7 else \
        texture
    dirs = torch.stack([_light_dir(dice, 1.2 if light < 2 else 3.0)
                        for light in range(dice.count(1, 3))])
    ambient = dice.number(0.25, 0.7)
    share = torch.tensor([dice.number(0.3, 1) for _ in dirs])
    strength = 1.3 * (dice.number(0.75, 1.05) - 0.7 * ambient) * share / share.sum()
    tints = torch.tensor([[dice.number(0.92, 1.08) for _ in range(3)]
                          for _ in range(len(dirs) + 1)])
    lighting = Lighting(dirs, strength[:, None] * tints[1:], ambient * tints[0],
                        highlight=dice.number(0, 0.3))
    return ShadowedLook(albedo, lighting, shininess=dice.number(6, 60),
                        softness=dice.number(3, 14))


def _light_dir(dice: Dice, azimuth: float) -> Tensor:
    """Draw a unit vector (3,) in the upper half, up to `azimuth` radians to either side of +z."""
    around, height = dice.number(-azimuth, azimuth), dice.number(0.1, 1.3)
    return torch.tensor([math.sin(around) * math.cos(height), math.sin(height),
                         math.cos(around) * math.cos(height)])


def _colour(dice: Dice, saturation: tuple[float, float], value: tuple[float, float]) -> Tensor:
    """Draw an RGB colour (3,) of any hue."""
    return torch.tensor(colorsys.hsv_to_rgb(dice.number(0, 1), dice.number(*saturation),
                                            dice.number(*value)))


def _stained(noise: Texture, dice: Dice) -> Stained:
    """Draw a `Stained` albedo."""
    base = _colour(dice, (0, 0.45), (0.35, 0.95))
    other = base * torch.tensor([dice.number(0.5, 1.1) for _ in range(3)])
    return Stained(noise, torch.stack([base, other.clamp(0, 1)]), dice.number(1.6, 5),
                   dice.number(6, 28), sharpness=dice.number(3, 15), grain=dice.number(0.02, 0.35))


def _fields(noise: Texture, dice: Dice) -> Fields:
    """Draw a `Fields` albedo."""
    colours = torch.stack([_colour(dice, (0, 0.9), (0.15, 1)) for _ in range(4)])
    return Fields(noise, colours, dice.number(2, 8), dice.number(8, 24),
                  sharpness=dice.number(8, 40), strength=dice.number(0, 0.8))


def as_photographed(images: Tensor, coverage: Tensor, generator: torch.Generator) -> Tensor:
    """Return renderings as photographs: with a background, different exposures, and noise.

    Args:
        images: (V, 3, H, W) RGB in [0, 1] on the background of `shading.BACKGROUND`.
        coverage: (V, 1, H, W) in [0, 1], how much of a pixel is object.
        generator: of the draws.
    Returns:
        (V, 3, H, W) RGB in steps of 1/255.
    """
    dice = Dice(generator)
    num_views, size = len(images), tuple(images.shape[2:])
    kind = dice.count(0, 3)
    plain = {0: torch.full((3,), BACKGROUND), 1: torch.full((3,), dice.number(0, 0.3)),
             2: _colour(dice, (0, 0.5), (0.2, 0.95))}
    if kind in plain:
        background = plain[kind][:, None, None]
    else:
        coarse = torch.rand(num_views, 3, dice.count(3, 9), dice.count(3, 9), generator=generator)
        background = interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(0, 1)
        background = background * dice.number(0.3, 1)
    images = images + (1 - coverage) * (background - BACKGROUND)
    spread, noise = (dice.number(0, most) * (dice.number(0, 1) < 0.5)
                     for most in (EXPOSURE_SPREAD, PIXEL_NOISE))
    images = images * (1 + spread * torch.randn(num_views, 1, 1, 1, generator=generator))
    images = images + noise * torch.randn(images.shape, generator=generator)
    return (images.clamp(0, 1) * 255).round() / 255
