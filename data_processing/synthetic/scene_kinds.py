"""The kinds of synthetic objects: each a function from seeded draws to a solid in closed form."""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from data_processing.synthetic import analytic_sdf as solids
from data_processing.synthetic.exact_tracing import spread_points
from utils.geometry.sdf import Sdf

#: Objects are scaled to this radius of object space; BOUND also holds corners that drawn points
#: miss.
OBJECT_RADIUS, BOUND = 0.8, 0.84
#: Kinds are built in a space of their own, inside this radius.
DRAFT_RADIUS = 1.7


class Dice:
    """Numbers drawn one after another from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def number(self, low: float, high: float) -> float:
        """Draw a number in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def count(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def direction(self) -> Tensor:
        """Draw a unit vector (3,), evenly over the sphere."""
        return torch.nn.functional.normalize(torch.randn(3, generator=self.generator), dim=0)

    def rotation(self) -> Tensor:
        """Draw a rotation (3, 3) about a random axis by a random angle."""
        return axis_rotation(self.direction(), self.number(0, 2 * math.pi))


def axis_rotation(axis: Tensor, angle: float) -> Tensor:
    """Return the rotation (3, 3) by `angle` radians about the unit vector axis (3,)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _rotation_y(angle: float) -> Tensor:
    """Return the rotation (3, 3) about the y axis."""
    return axis_rotation(torch.tensor([0.0, 1.0, 0.0]), angle)


def blobs(dice: Dice) -> Sdf:
    """Return balls that melt into each other."""
    balls, centers, radii = [], [torch.zeros(3)], [dice.number(0.5, 0.65)]
    for _ in range(dice.count(5, 8)):
        parent = dice.count(0, len(centers) - 1)
        radius = dice.number(0.25, 0.45)
        reach = 0.7 * (radii[parent] + radius)
        place = centers[parent] + dice.direction() * reach
        centers.append(place * min(1.0, 0.85 / float(place.norm())))
        radii.append(radius)
    balls = [solids.sphere(r, c.tolist()) for r, c in zip(radii, centers)]
    return solids.smooth_union(dice.number(0.08, 0.2), *balls)


def tori(dice: Dice) -> Sdf:
    """Return rings rotated against each other around a ball."""
    rings = [solids.moved(solids.torus(dice.number(0.62, 0.85), dice.number(0.12, 0.22)),
                          dice.rotation(), (dice.direction() * 0.12).tolist())
             for _ in range(dice.count(3, 4))]
    return solids.union(solids.sphere(dice.number(0.3, 0.45)), *rings)


def carved_box(dice: Dice) -> Sdf:
    """Return a rounded box with a bore along each axis and bites out of its corners."""
    half = [dice.number(0.45, 0.75) for _ in range(3)]
    block = solids.box(half, rounding=0.06)
    rotations = [None, axis_rotation(torch.tensor([1.0, 0.0, 0.0]), math.pi / 2),
                 axis_rotation(torch.tensor([0.0, 0.0, 1.0]), math.pi / 2)]
    bores = [solids.moved(solids.cylinder(dice.number(0.18, 0.34), 2.0), rotation,
                          [dice.number(-0.15, 0.15) for _ in range(3)]) for rotation in rotations]
    bites = []
    for _ in range(dice.count(2, 4)):
        corner = [size * (1 if dice.number(-1, 1) > 0 else -1) for size in half]
        bites.append(solids.sphere(dice.number(0.2, 0.4), corner))
    return solids.moved(solids.subtract(block, *bores, *bites), _rotation_y(dice.number(0, 6.3)))


def vase(dice: Dice) -> Sdf:
    """Return a thin vessel with a ring below the rim and two handles."""
    swell, waves, phase = dice.number(0.08, 0.2), dice.number(0.6, 1.3), dice.number(0, 6.3)
    base = dice.number(0.55, 0.7)
    heights = [-0.9 + 1.8 * k / 12 for k in range(13)]
    walls = [base + swell * math.sin(2 * math.pi * waves * (y + 0.9) / 1.8 + phase)
             for y in heights]
    shell = solids.lathe([(0.0, -0.9), *zip(walls, heights)], thickness=0.05)
    rim = solids.moved(solids.torus(walls[-2], 0.08), translation=(0.0, heights[-2], 0.0))
    upright = axis_rotation(torch.tensor([1.0, 0.0, 0.0]), math.pi / 2)
    middle = dice.count(5, 8)
    handles = [solids.moved(solids.torus(dice.number(0.24, 0.34), 0.075), upright,
                            (side * walls[middle], heights[middle], 0.0)) for side in (-1, 1)]
    # Handles end at the wall: what would reach into the vessel is cut off.
    room = solids.lathe([(0.0, -0.9), (0.0, 0.9)], thickness=min(walls) - 0.02)
    handles = solids.subtract(solids.union(*handles), room)
    whole = solids.smooth_union(0.04, shell, rim, handles)
    return solids.moved(whole, _rotation_y(dice.number(0, 6.3)))


def figurine(dice: Dice) -> Sdf:
    """Return a small person: head, trunk, limbs in a drawn pose, on a round base."""
    hip, shoulder = 0.2, dice.number(0.26, 0.34)
    trunk = solids.capsule((0, -0.1, 0), (0, 0.15, 0), dice.number(0.38, 0.46))
    head = solids.sphere(dice.number(0.32, 0.4), (0.0, 0.7, 0.03))
    parts = [trunk, head]
    for side in (-1, 1):
        knee = (side * (hip + dice.number(0.05, 0.2)), -0.42, dice.number(-0.05, 0.25))
        foot = (side * (hip + dice.number(0.05, 0.25)), -0.62, dice.number(-0.15, 0.1))
        elbow = (side * dice.number(0.5, 0.65), dice.number(0.0, 0.4), dice.number(-0.1, 0.3))
        hand = (side * dice.number(0.6, 0.75), dice.number(-0.1, 0.5), dice.number(0.1, 0.4))
        parts += [solids.capsule((side * hip, -0.2, 0), knee, 0.22),
                  solids.capsule(knee, foot, 0.2),
                  solids.capsule((side * shoulder, 0.3, 0), elbow, 0.18),
                  solids.capsule(elbow, hand, 0.16)]
    person = solids.smooth_union(0.08, *parts)
    stand = solids.moved(solids.cylinder(0.62, 0.1, rounding=0.03),
                         translation=(0.0, -0.8, 0.0))
    return solids.moved(solids.union(person, stand), _rotation_y(dice.number(-0.9, 0.9)))


def bumpy_sphere(dice: Dice) -> Sdf:
    """Return a ball with waves all over and a few dents."""
    ball = solids.sphere(0.8)
    dents = [solids.sphere(dice.number(0.2, 0.35), (dice.direction() * 0.95).tolist())
             for _ in range(dice.count(1, 4))]
    phases = [dice.number(0, 6.3) for _ in range(3)]
    return solids.bumpy(solids.subtract(ball, *dents), dice.number(0.03, 0.07),
                        dice.number(7, 12), phases)


def stack(dice: Dice) -> Sdf:
    """Return boxes and drums on top of each other, each rotated."""
    parts, top = [], -0.6
    for level in range(dice.count(3, 4)):
        half, width = dice.number(0.17, 0.24), dice.number(0.6, 0.8) - 0.05 * level
        if dice.number(0, 1) < 0.65:
            part = solids.box((width, half, dice.number(0.7, 1.0) * width), rounding=0.03)
        else:
            part = solids.cylinder(width, half, rounding=0.03)
        place = (dice.number(-0.12, 0.12), top + half, dice.number(-0.12, 0.12))
        parts.append(solids.moved(part, _rotation_y(dice.number(0, 6.3)), place))
        top += 2 * half - 0.01
    return solids.union(*parts)


#: Name of every kind, as the command line spells it.
SCENE_KINDS: dict[str, Callable[[Dice], Sdf]] = {
    build.__name__: build
    for build in (blobs, tori, carved_box, vase, figurine, bumpy_sphere, stack)}


def make_solid(kind: str, generator: torch.Generator) -> Sdf:
    """Return a solid of the given kind, centred and scaled to OBJECT_RADIUS.

    Args:
        kind: a key of SCENE_KINDS.
        generator: source of the draws.
    Returns:
        Distance in object space, positive outside radius BOUND.
    """
    draft = SCENE_KINDS[kind](Dice(generator))
    translation, scale = fitted(draft, generator)
    return solids.moved(draft, translation=translation.tolist(), scale=scale)


def fitted(draft: Sdf, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return the translation (3,) and the scale that bring a solid to OBJECT_RADIUS, centred.

    Args:
        draft: inside DRAFT_RADIUS.
        generator: source of the points of its surface that are looked at.
    """
    points = spread_points(draft, 10_000, DRAFT_RADIUS, generator)
    center = (points.amin(0) + points.amax(0)) / 2
    scale = OBJECT_RADIUS / float((points - center).norm(dim=-1).max())
    return -center * scale, scale
