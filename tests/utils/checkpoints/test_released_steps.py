"""After how many steps a released checkpoint was written."""
from __future__ import annotations

import pytest
import torch

from utils.checkpoints.checkpoint import open_checkpoint
from utils.checkpoints.released_steps import released_step
from utils.runs.progress import stored_progress

WEIGHTS = {"decoder_sdf.net.0.weight": torch.ones(2)}


def adam_after(num_steps):
    """What torch saves of an Adam that took so many steps."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter])
    for _ in range(num_steps):
        parameter.grad = torch.ones(3)
        optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("content, step", [
    ({"total_steps": 7000, "epoch": 3}, 7000), ({"epoch": 3}, 147), (adam_after(4), 4),
    ({"optimizer_state_dict": adam_after(5), "epoch": 1}, 5), ({"lr": 0.5}, None)])
def test_the_optimizers_file_tells(tmp_path, content, step):
    path = tmp_path / "model_current.pth"
    torch.save(WEIGHTS, path)
    torch.save(content, tmp_path / "optim_current.pth")
    found = released_step(path, 49)
    assert found == (None if step is None else (step, str(tmp_path / "optim_current.pth")))


@pytest.mark.parametrize("name, step", [
    ("model_epoch_0002_iter_001234.pth", 1234), ("model_epoch_0002.pth", 98),
    ("model_final.pth", None), ("step_500.pth", 500)])
def test_else_the_name_tells(tmp_path, name, step):
    found = released_step(tmp_path / name, 49)
    assert (found and found[0]) == step


def test_a_damaged_file_beside_is_skipped(tmp_path, caplog):
    (tmp_path / "optim_epoch_0002.pth").write_bytes(b"nothing")
    assert released_step(tmp_path / "model_epoch_0002.pth", 10)[0] == 20
    assert "skipped" in caplog.text


def test_progress_says_whether_the_step_is_known(tmp_path):
    for name, content, expected in (
            ("model_epoch_0004.pth", WEIGHTS, (40, True)), ("model_final.pth", WEIGHTS, (0, False)),
            ("meta_final.pth", {f"hypo_module.{key}": value for key, value in WEIGHTS.items()},
             (0, True)), ("networks.pth", {"sdf": {"weight": torch.ones(2)}}, (0, True))):
        torch.save(content, tmp_path / name)
        found = stored_progress(open_checkpoint(tmp_path / name), 10)
        assert (found.step, found.is_step_known) == expected, name
