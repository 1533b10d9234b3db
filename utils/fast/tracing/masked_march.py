"""Marching rays to the surface with a state of fixed shape: no branch reads a value.

Each step evaluates the SDF once on every ray and moves the ray by `advance`. Outside the surface a
ray goes forward by its SDF, and by MIN_STEP at least; the first value below zero brackets the
surface, which false position (Illinois) then finds. `triton_kernel` computes the same.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from utils.geometry.rays import Rays
from utils.geometry.sdf import SDF_THRESHOLD, Sdf

MIN_STEP = 1 / 512        # object units; what a ray crosses on a shorter way may be stepped over:
                          # sheets and rods thinner than 0.002, and the rims of others
NARROW = 2e-6             # object units; a bracket that float32 cannot halve much further


@dataclass(frozen=True)
class March:
    """Where R rays stand; all tensors are (R,).

    Attributes:
        t: distance of the next evaluation; of the surface where it is found.
        low, value_low: last point outside and its SDF; 0 where nothing outside was seen yet.
        high, value_high: first point inside and its SDF; 0 where nothing inside was seen yet.
            Either value may have been halved, so that both ends of the bracket move.
        side: 1 where the last evaluation was outside, -1 inside, 0 before the first.
        least, t_least: minimum SDF that was met, and where.
        going_mask: not converged yet.
        hit_mask: the surface is found.
    """

    t: Tensor
    low: Tensor
    value_low: Tensor
    high: Tensor
    value_high: Tensor
    side: Tensor
    least: Tensor
    t_least: Tensor
    going_mask: Tensor
    hit_mask: Tensor

    def __getitem__(self, index: Tensor) -> March:
        """The rays of an index tensor."""
        return March(*(getattr(self, field.name)[index] for field in fields(self)))

    def replaced(self, index: Tensor, rays: March) -> March:
        """With rays `index` (N,) from another state (N,); what repeats must be the same."""
        return March(*(getattr(self, field.name).index_copy(0, index, getattr(rays, field.name))
                       for field in fields(self)))

    def ended(self) -> March:
        """Out of steps: a bracket is a hit, everything else a miss that stands where it is least.

        What is still going outside the surface keeps its going_mask.
        """
        hit_mask = self.hit_mask | (self.going_mask & (self.value_high < 0))
        return March(torch.where(hit_mask, self.t, self.t_least), self.low, self.value_low,
                     self.high, self.value_high, self.side, self.least, self.t_least,
                     self.going_mask & ~hit_mask, hit_mask)


def begin_march(t: Tensor, low: Tensor, value_low: Tensor, going_mask: Tensor) -> March:
    """The state before the first evaluation.

    Args:
        t: (R,) distance of the first evaluation.
        low, value_low: (R,) a point before it that is outside, and its SDF > 0; 0, 0: none known.
        going_mask: (R,) bool, the other rays are known to miss.
    """
    zero = torch.zeros_like(t)
    return March(t, low, value_low, zero, zero, zero, torch.full_like(t, torch.inf), t, going_mask,
                 torch.zeros_like(going_mask))


def advance(state: March, value: Tensor, t_far: Tensor) -> March:
    """One step.

    Args:
        state: of R rays.
        value: (R,) SDF at state.t.
        t_far: (R,) where the rays end.
    """
    t, going = state.t, state.going_mask
    lower = going & (value < state.least)
    outside = value > 0
    begins_inside = (value < -SDF_THRESHOLD) & (state.value_low == 0)
    # where the same end moves twice, the other end's value is halved (Illinois)
    value_high = torch.where(outside, torch.where(state.side > 0, 0.5, 1.0) * state.value_high,
                             value)
    value_low = torch.where(outside, value,
                            torch.where(state.side < 0, 0.5, 1.0) * state.value_low)
    low, high = torch.where(outside, t, state.low), torch.where(outside, state.high, t)
    has_bracket = value_high < 0
    narrow = has_bracket & (high - low <= NARROW)
    found = going & ((value.abs() <= SDF_THRESHOLD) | begins_inside | narrow)
    forward = torch.minimum(t + value.clamp(min=MIN_STEP), t_far)
    share = value_low / (value_low - value_high).clamp(min=1e-12)
    next_t = torch.where(has_bracket, low + (high - low) * share, forward)
    left = going & ~found & ~(~has_bracket & (t >= t_far))
    return March(
        torch.where(left, next_t, t), torch.where(left, low, state.low),
        torch.where(left, value_low, state.value_low), torch.where(left, high, state.high),
        torch.where(left, value_high, state.value_high),
        torch.where(left, torch.where(outside, 1.0, -1.0).to(value), state.side),
        torch.where(lower, value, state.least), torch.where(lower, t, state.t_least),
        left, state.hit_mask | found)


def march_plain(sdf: Sdf, rays: Rays, state: March, num_steps: int) -> March:
    """`num_steps` steps of all rays; one evaluation a ray and step, converged or not."""
    for _ in range(num_steps):
        state = advance(state, sdf(rays.points(state.t)), rays.t_far)
    return state
