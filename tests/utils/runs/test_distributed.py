"""Processes that train together: means over ranks, who fails, and one process alone."""
from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from support.tiny_runs import start_as_ranks
from torch import nn

from utils.errors import RankError
from utils.runs import distributed
from utils.runs.distributed import (
    Ranks,
    average_gradients,
    average_tensors,
    broadcast_int,
    failing_together,
    finish_ranks,
    start_ranks,
    sum_over_ranks,
)

pytestmark = pytest.mark.long

PRELUDE = """
import os, sys
import torch
from torch import nn
from utils.runs import distributed
from utils.runs.distributed import *
from utils.errors import RankError
ranks = start_ranks("cpu")
"""


def test_one_process_is_the_main_one_and_changes_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    ranks = start_ranks("cpu")
    assert ranks == Ranks(0, 1, torch.device("cpu")) and ranks.is_main
    values = torch.tensor([1.0, 2.0])
    average_tensors([values], ranks)
    assert values.tolist() == [1.0, 2.0] and sum_over_ranks(values, ranks).tolist() == [1.0, 2.0]
    assert broadcast_int(5, ranks) == 5 and list(ranks.share(3)) == [0, 1, 2]
    layer = nn.Linear(2, 1)
    average_gradients(layer.parameters(), ranks)
    assert layer.weight.grad is None
    with pytest.raises(ZeroDivisionError), failing_together(ranks):
        raise ZeroDivisionError
    finish_ranks()


def test_shares_are_even_and_whole():
    for size in (1, 2, 3, 4):
        shares = [list(Ranks(rank, size).share(5)) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(5))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_means_and_failures_of_three_ranks(project_root):
    """Sums in the order of the ranks; a rank that raises is named by the others."""
    ended = start_as_ranks("-c", PRELUDE + """
generator = torch.Generator().manual_seed(ranks.rank)
mine = [torch.randn(3, 2, generator=generator), torch.randn((), generator=generator)]
parts = []
for rank in range(3):
    generator = torch.Generator().manual_seed(rank)
    parts.append([torch.randn(3, 2, generator=generator), torch.randn((), generator=generator)])
average_tensors(mine, ranks)
for k, value in enumerate(mine):
    assert torch.equal(value, (parts[0][k] + parts[1][k] + parts[2][k]) / 3)

one, other, none, frozen = (nn.Parameter(torch.zeros(2)) for _ in range(4))
frozen.requires_grad_(False)
one.grad = torch.full((2,), float(ranks.rank))
if ranks.rank == 2:
    other.grad = torch.ones(2)
average_gradients([one, other, none, frozen], ranks)
assert one.grad.tolist() == [1, 1] and none.grad is None and frozen.grad is None
torch.testing.assert_close(other.grad, torch.full((2,), 1 / 3))

value = torch.full((2,), float(ranks.rank))
broadcast_tensors([value], ranks)
assert value.tolist() == [0, 0] and broadcast_int(ranks.rank + 7, ranks) == 7
with failing_together(ranks):
    pass
for number, kind in enumerate((FloatingPointError, ValueError)):
    try:
        with failing_together(ranks):
            if ranks.rank == 1:
                raise kind("loss not finite: eikonal")
    except (FloatingPointError, RankError, ValueError) as error:
        print(number, type(error).__name__, error)
try:
    with failing_together(ranks):
        if ranks.rank:
            raise FloatingPointError("not finite") if ranks.rank == 1 else KeyError("lost")
except (FloatingPointError, RankError, KeyError) as error:
    print(2, type(error).__name__)
finish_ranks()
""", cwd=project_root, size=3)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    for number, kind, others in ((0, "FloatingPointError", "FloatingPointError"),
                                 (1, "ValueError", "RankError")):     # skipped by all, ends all
        told = f"{number} {others} rank 1 failed: {kind}: loss not finite: eikonal"
        assert told in ended[0][1] and told in ended[2][1]
        assert f"{number} {kind} loss not finite: eikonal" in ended[1][1]
    kinds = ["2 RankError", "2 RankError", "2 KeyError"]
    assert all(kind in output for kind, (_, output) in zip(kinds, ended, strict=True))


def test_a_rank_that_dies_is_named(project_root):
    """At once, though one that lives has hours to answer; until then the other says it waits."""
    ended = start_as_ranks("-c", PRELUDE + """
import time
from datetime import timedelta
distributed.ROLL_CALL, distributed.PATIENCE = timedelta(seconds=0.5), timedelta(seconds=0.2)
average_tensors([torch.ones(2)], ranks)
if ranks.rank == 1:
    time.sleep(1)
    os._exit(9)
try:
    average_tensors([torch.ones(2)], ranks)
except RankError as error:
    print(error)
""", cwd=project_root)
    assert [code for code, _ in ended] == [0, 9], ended
    assert "rank 1 of 2 is gone" in ended[0][1] and "last checkpoint" in ended[0][1]
    assert "rank 0 of 2 has waited 0:00:00.200000 for the others" in ended[0][1]
    assert "gives up after 6:00:00" in ended[0][1]


def test_ranks_that_cannot_meet_are_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RankError, match="rank 0 of 2 cannot reach"):
        start_ranks("cpu")


def test_a_rank_that_never_starts_is_not_waited_for_long(project_root, monkeypatch):
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "JOINING", timedelta(seconds=0.5))
    with pytest.raises(RankError, match="rank 0 of 2 cannot reach"):
        start_ranks("cpu")
