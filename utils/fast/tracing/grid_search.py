"""Where rays meet a surface: searched for on a grid of the SDF, converged with the SDF itself.

The part of `utils.fast.tracing.cpu_tracer` that works on the rays of one trace.
"""
from __future__ import annotations

import torch
from torch import Tensor

from utils.fast.tracing.grid_march import GridMarch, march_grid
from utils.fast.tracing.sdf_grid import SdfGrid
from utils.geometry.rays import Rays
from utils.geometry.sdf import SDF_THRESHOLD, Sdf

MAX_SETTLE_STEPS = 5              # of Newton's method, or secants
SETTLE_REACH = 1.0                # nodes' spacings that they may go; farther is another surface
SURE_STEP = 1e-3                  # object units; a Newton step that needs no look at where it ends
STEEP = 0.1                       # least slope at which it is trusted
SLOPE_REACH = 0.25                # nodes' spacings on either side over which a slope is taken
LOCAL_PARTS = (8, 8, 8)           # of a doubtful stretch of a ray, then about its least samples
DIP = 0.5                         # of the samples' second difference: how far the SDF may dip below
                                  # the least; a parabola does by an eighth, a thin edge by a half
LONG_STRETCH = 3.0                # nodes' spacings within the grid's error before a crossing: the
                                  # true crossing may be an earlier one
MAX_BRACKET_STEPS = 32            # of false position in a bracket of the SDF's own signs
WITHIN = 2.5e-4                   # object units along the ray: where it runs almost along the
                                  # surface, |SDF| <= SDF_THRESHOLD alone leaves the hit off by more
ROUNDING = 2e-6                   # of the SDF: no smaller threshold can be met


class GridSearch:
    """The rays of one trace, and what is known of them so far.

    Attributes:
        t, hit_mask: (R,) results; of a miss, the distance of the least interpolated SDF.
        tangents: (3, R) of hits that were found by Newton steps: distance, SDF and slope there.
        num_evaluations: of the SDF.
    """

    def __init__(self, rays: Rays, grid: SdfGrid, evaluate: Sdf) -> None:
        self.rays, self.grid, self._evaluate = rays, grid, evaluate
        self.t, self.hit_mask = rays.t_near.clone(), torch.zeros_like(rays.sphere_mask)
        self.tangents = torch.full((3, len(rays)), torch.nan).to(rays.t_near)
        self.num_evaluations = 0

    def evaluate(self, index: Tensor, t: Tensor) -> Tensor:
        """SDF at distances t (R', ...) of rays `index` (R',)."""
        self.num_evaluations += t.numel()
        points = self.rays[index].points(t)
        return self._evaluate(points.reshape(-1, 3)).reshape(t.shape)

    def run(self) -> Tensor:
        """March all rays on the grid and settle what they meet.

        Returns:
            Those that the reference tracer must settle.
        """
        index = self._begin_inside()
        march = march_grid(self.grid, self.rays[index], self.rays.t_near[index])
        self.t[index] = march.t_least
        crossed = march.crossed_mask.nonzero()[:, 0]
        is_long = (march.high - march.close)[crossed] > LONG_STRETCH * self.grid.spacing
        has_converged = torch.zeros_like(is_long)
        has_converged[~is_long] = self._settle(index, march, crossed[~is_long])
        left = crossed[~has_converged]
        rows = torch.cat([march.graze_rows, left])
        entry = self._look_around(index[rows], torch.cat([march.graze_close, march.close[left]]),
                                  torch.cat([march.graze_high, march.high[left]]))
        first = torch.full_like(march.low, torch.inf).scatter_reduce(0, rows, entry, "amin")
        converged = torch.where(self.hit_mask[index], self.t[index], torch.inf)
        found = (first < converged).nonzero()[:, 0]          # what a ray grazes, it meets before
        self._hit(index[found], first[found])
        self.tangents[:, index[found]] = torch.nan
        return index[left[first[left].isinf()]]

    def _hit(self, index: Tensor, t: Tensor) -> None:
        self.t[index], self.hit_mask[index] = t, True

    def _begin_inside(self) -> Tensor:
        """Rays that begin inside hit where they begin, as in the reference tracer.

        Returns:
            All others, those that miss the unit sphere left out.
        """
        index = self.rays.sphere_mask.nonzero()[:, 0]
        start = self.rays.t_near
        value = self.grid(self.rays[index].points(start[index]))
        maybe = index[value < self.grid.error]
        if not len(maybe):
            return index
        inside = maybe[self.evaluate(maybe, start[maybe]) < -SDF_THRESHOLD]
        self._hit(inside, start[inside])
        return index[~self.hit_mask[index]]

    def _settle(self, index: Tensor, march: GridMarch, rows: Tensor) -> Tensor:
        """Find the hits next to the grid's crossings, rows of the march, with the SDF itself.

        Returns:
            (R',) bool: it was found near the crossing.
        """
        low, high = march.low[rows], march.high[rows]
        value_low, value_high = march.value_low[rows], march.value_high[rows]
        slope = (value_high - value_low) / (high - low).clamp(min=1e-6)     # negative
        index = index[rows]
        crossing = self._refined(index, low - value_low / slope.clamp(max=-1e-3), low, high)
        if hasattr(self._evaluate, "value_and_derivative"):
            t, converged, tangents = self._newton(index, crossing)
        else:
            t, converged = self._secant(index, crossing, slope)
            tangents = self.tangents[:, index]
        converged &= (t - crossing).abs() <= SETTLE_REACH * self.grid.spacing
        rays = self.rays[index]
        converged &= (t >= rays.t_near) & (t <= rays.t_far)
        self._hit(index[converged], t[converged])
        self.tangents[:, index[converged]] = tangents[:, converged]
        return converged

    def _refined(self, index: Tensor, crossing: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """One Newton step of crossings (R',) on the refined interpolation, kept in low to high."""
        rays, reach = self.rays[index], SLOPE_REACH * self.grid.spacing
        ahead, behind = (self.grid(rays.points(crossing + by)) for by in (reach, -reach))
        slope = ((ahead - behind) / (2 * reach)).clamp(max=-STEEP)
        step = self.grid.refined(rays.points(crossing)) / slope
        return torch.minimum(torch.maximum(crossing - step, low), high)

    def _newton(self, index: Tensor, crossing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Newton steps of rays `index` (R',) from distances (R',).

        A step of at most SURE_STEP is the last: that far, the SDF's curvature K moves the surface
        by K SURE_STEP^2 / 2; 99 % of crossings of networks in training have K < 25.

        Returns:
            Distances, which are the surface's, and their tangents (3, R').
        """
        t, converged = crossing.clone(), torch.zeros_like(crossing, dtype=torch.bool)
        tangents = torch.full((3, len(index)), torch.nan).to(crossing)
        left, at = torch.arange(len(index), device=t.device), crossing
        for _ in range(MAX_SETTLE_STEPS):
            if not len(left):
                break
            rays = self.rays[index[left]]
            value, slope = self._evaluate.value_and_derivative(rays.points(at), rays.dirs_obj)
            self.num_evaluations += 2 * len(left)
            is_steep, after = slope < -STEEP, at - value / slope.clamp(max=-1e-2)
            is_sure = is_steep & ((after - at).abs() <= SURE_STEP)
            done = is_sure | (value.abs() <= _threshold(slope))
            t[left], converged[left] = torch.where(is_steep, after, at), done
            tangents[:, left] = torch.stack([at, value, slope])
            going = (~done).nonzero()[:, 0]
            left, at = left[going], after[going]
        return t, converged, tangents

    def _secant(self, index: Tensor, crossing: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Secant steps, for an SDF whose derivative is not at hand; as `_newton`."""
        t, converged = crossing.clone(), torch.zeros_like(crossing, dtype=torch.bool)
        left, at = torch.arange(len(index), device=t.device), crossing
        before, value_before = None, None
        for _ in range(MAX_SETTLE_STEPS):
            if not len(left):
                break
            value = self.evaluate(index[left], at)
            done = value.abs() <= _threshold(slope)
            t[left], converged[left] = at, done
            if before is not None:
                slope = _secant_slope(at - before, value - value_before, slope)
            going = (~done).nonzero()[:, 0]
            left, before, value_before, slope = left[going], at[going], value[going], slope[going]
            at = before - value_before / slope
        return t, converged

    def _look_around(self, index: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """Look for the first entry from a node's spacing before `start` to one after `stop` (R',).

        The stretch is sampled, and more closely about samples before the first entry which are less
        than their neighbours and so near the surface that it may hide beside them.

        Returns:
            (R',) distance at which ray `index` enters the surface there; infinite: it does not.
        """
        start = torch.maximum(start - self.grid.spacing, self.rays.t_near[index])
        stop = torch.minimum(stop + self.grid.spacing, self.rays.t_far[index])
        rows = torch.arange(len(index), device=index.device)
        t = torch.stack([start, stop], 1)
        value = self.evaluate(index, t)
        entry = torch.full((4, len(index)), torch.inf).to(start)     # a piece's ends, values there
        for parts in LOCAL_PARTS:
            t, value = self._cut(index[rows], t, value, parts)
            enters = (value[:, :-1] > 0) & (value[:, 1:] <= 0)
            piece, part = enters.nonzero(as_tuple=True)
            found = torch.stack([x[piece, part + end] for x in (t, value) for end in (0, 1)])
            earliest = entry[0].scatter_reduce(0, rows[piece], found[0], "amin")
            chosen = found[0] == earliest[rows[piece]]
            entry[:, rows[piece[chosen]]] = found[:, chosen]
            before, at, after = value[:, :-2], value[:, 1:-1], value[:, 2:]
            hides = (at > 0) & (at <= before) & (at <= after) & (t[:, 2:] <= entry[0][rows, None])
            hides &= at < DIP * (before + after - 2 * at)
            piece, part = hides.nonzero(as_tuple=True)
            rows = rows[piece]
            t, value = (torch.stack([x[piece, part], x[piece, part + 2]], 1) for x in (t, value))
        found = entry[0].isfinite().nonzero()[:, 0]
        return entry[0].index_copy(0, found,
                                   self._false_position(index[found], *entry[:, found]))

    def _cut(self, index: Tensor, t: Tensor, value: Tensor, parts: int) -> tuple[Tensor, Tensor]:
        """From distances and SDF (P, 2) at the ends of pieces of rays `index` (P,) to those at the
        ends of their equal parts, (P, parts + 1)."""
        shares = torch.arange(1, parts).to(t) / parts
        between = t[:, :1] + (t[:, 1:] - t[:, :1]) * shares
        values = self.evaluate(index, between)
        return (torch.cat([t[:, :1], between, t[:, 1:]], 1),
                torch.cat([value[:, :1], values, value[:, 1:]], 1))

    def _false_position(self, index: Tensor, low: Tensor, high: Tensor, value_low: Tensor,
                        value_high: Tensor) -> Tensor:
        """(R',) distances where |SDF| <= SDF_THRESHOLD, between one outside and one inside.

        An end that stays twice has its value halved (Illinois), so that both ends move.
        """
        t, left = low.clone(), torch.arange(len(low), device=low.device)
        for _ in range(MAX_BRACKET_STEPS):
            if not len(left):
                break
            share = value_low / (value_low - value_high).clamp(min=1e-12)
            at = low + (high - low) * share.clamp(0, 1)
            value = self.evaluate(index[left], at)
            t[left] = at
            slope = (value_low - value_high) / (high - low).clamp(min=1e-6)
            outside = value > 0
            low, high = torch.where(outside, at, low), torch.where(outside, high, at)
            value_low, value_high = (torch.where(outside, value, 0.5 * value_low),
                                     torch.where(outside, 0.5 * value_high, value))
            going = (value.abs() > _threshold(slope)).nonzero()[:, 0]
            left, low, high = left[going], low[going], high[going]
            value_low, value_high = value_low[going], value_high[going]
        return t


def _threshold(slope: Tensor) -> Tensor:
    """(R,) |SDF| at which rays on which it falls at `slope` (R,) have arrived."""
    return (WITHIN * slope.abs()).clamp(ROUNDING, SDF_THRESHOLD)


def _secant_slope(step: Tensor, change: Tensor, fallback: Tensor) -> Tensor:
    """change / step where that is a usable descent, else the slope so far."""
    slope = change / torch.where(step.abs() < 1e-9, torch.full_like(step, 1e-9), step)
    return torch.where((slope < -1e-2) & (step.abs() >= 1e-9), slope, fallback)
