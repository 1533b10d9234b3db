"""Semi-global aggregation against a slow twin, and the parabola's closed form."""
from __future__ import annotations

import torch

from data_processing.stereo.aggregation import PATHS, aggregate, least_planes


def slow_path(costs, path, small, large):
    """One path, pixel by pixel and plane by plane."""
    planes, height, width = costs.shape
    rows = range(height) if path[0] >= 0 else range(height - 1, -1, -1)
    columns = range(width) if path[1] >= 0 else range(width - 1, -1, -1)
    out = costs.clone()
    for row in rows:
        for column in columns:
            before = row - path[0], column - path[1]
            if not (0 <= before[0] < height and 0 <= before[1] < width):
                continue
            last = out[:, before[0], before[1]]
            for plane in range(planes):
                ways = [last[plane], last.min() + large]
                ways += [last[near] + small for near in (plane - 1, plane + 1)
                         if 0 <= near < planes]
                out[plane, row, column] = costs[plane, row, column] + min(ways) - last.min()
    return out


def test_aggregation_is_the_mean_of_its_paths():
    costs = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = sum(slow_path(costs, path, 0.1, 0.4) for path in PATHS) / len(PATHS)
    torch.testing.assert_close(aggregate(costs, small_penalty=0.1, large_penalty=0.4), truth)


def test_noise_of_single_pixels_is_outvoted():
    costs = torch.ones(9, 12, 12)
    costs[4] = 0.5                                   # all but one pixel prefer plane 4
    costs[:, 6, 6], costs[0, 6, 6] = 1.0, 0.4
    found = aggregate(costs, small_penalty=0.1, large_penalty=0.8).argmin(0)
    assert (found == 4).all()


def test_the_parabola_finds_the_vertex():
    planes = torch.arange(9.0)[:, None, None]
    vertex = torch.tensor([[3.3, 4.0, 5.75]])
    index, place = least_planes((planes - vertex).square())
    assert index.tolist() == [[3, 4, 6]]
    torch.testing.assert_close(place, vertex)


def test_least_planes_at_the_ends_stay_there():
    costs = torch.stack([torch.arange(5.0), 4 - torch.arange(5.0), torch.zeros(5)], -1)[:, None]
    index, place = least_planes(costs)
    assert place.tolist() == [[0.0, 4.0, float(index[0, 2])]]
