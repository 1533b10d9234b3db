"""Training that several processes share: which state is sent to the others, and when."""
from __future__ import annotations

import json

import pytest
import torch
from support.tiny_runs import ROOT, final_state, start_as_ranks
from torch import nn

pytestmark = pytest.mark.long

#: Each rank fits a line to a point of its own. At the full rate steps 1 to 3 fail, so that the
#: run returns to its start, where the main rank's Adam has no state and the other's has.
LINE = """
import json, os, signal, sys
sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "tests")]
import torch
from torch import nn
from support.tiny_runs import config_of
from utils.runs.distributed import (average_gradients, broadcast_adam, broadcast_tensors,
                                    joined_ranks)
from utils.runs.ranked_training import RankedTrainer, train_on_ranks
from utils.runs.run import start_run
from utils.runs.stopping import RunStopped
from utils.runs.task import LoopOptions

class Line(RankedTrainer):
    def __init__(self, ranks):
        super().__init__(ranks)
        torch.manual_seed(ranks.rank)
        self.model, self.tried = nn.Linear(1, 1), []
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def shared_step(self, step):
        self.tried.append((step, self.rate_factor))
        if step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGTERM)
        if self.rate_factor == 1 and step:
            raise FloatingPointError("not finite")
        loss = (self.model(torch.full((1,), 1.0 + self.ranks.rank)) - 3).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.model.parameters(), self.ranks)
        self.optimizer.param_groups[0]["lr"] = 0.1 * self.rate_factor
        self.optimizer.step()
        return {"total": loss.detach()}

    def share_state(self):
        broadcast_tensors(list(self.model.state_dict().values()), self.ranks)
        broadcast_adam(self.optimizer, self.ranks)

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state_changed()

with joined_ranks("cpu") as ranks:
    trainer = Line(ranks)
    run = start_run(config_of("--logging_root", sys.argv[2], "--experiment_name", "run"),
                    is_main=ranks.is_main)
    try:
        progress = train_on_ranks(trainer, run, LoopOptions(num_steps=4))
    except RunStopped as stopped:
        progress = print("STOPPED", stopped.message)
threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in threads), threads       # they may abort the exit
weights = [value.item() for value in trainer.model.parameters()]
print("END", json.dumps([weights, trainer.tried, progress and progress.step]))
"""


def test_a_return_to_the_start_reaches_all_ranks(tmp_path):
    ended = start_as_ranks("-c", LINE, ROOT, tmp_path, -1, cwd=tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    main, other = (json.loads(output.split("END")[1]) for _, output in ended)
    tried = [[step, 1.0] for step in range(4)] + [[step, 0.5] for step in range(4)]
    assert main[1] == other[1] == tried
    assert (main[2], other[2]) == (4, None)
    assert main[0] == other[0]
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.tensor([[1.0], [2.0]])) - 3).square().mean().backward()
        optimizer.step()
    expected = [value.item() for value in model.parameters()]
    assert main[0] == pytest.approx(expected, rel=1e-5)        # another order of sums


def test_a_signal_to_all_ranks_stops_them_after_the_same_step(tmp_path):
    ended = start_as_ranks("-c", LINE, ROOT, tmp_path, 0, cwd=tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    assert [json.loads(output.split("END")[1])[1] for _, output in ended] == [[[0, 1.0]]] * 2
    assert "STOPPED 1 steps are saved in" in ended[0][1]
    assert "STOPPED the main process says" in ended[1][1]
    assert final_state(tmp_path / "run")["step"] == 1
