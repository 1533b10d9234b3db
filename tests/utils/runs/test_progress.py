"""How far a run is: what metrics.json and a checkpoint say of it."""
from __future__ import annotations

import pytest
import torch
from support.tiny_runs import config_of

from utils.checkpoints.checkpoint import latest_checkpoint, open_checkpoint
from utils.checkpoints.manifest import sha256_of
from utils.checkpoints.storage import save_checkpoint
from utils.errors import CheckpointError
from utils.runs.progress import run_facts, stored_progress
from utils.runs.run import start_run
from utils.runs.task import LoopOptions


def test_facts_and_progress_of_a_run(make_loop, tmp_path):
    made, _ = make_loop(LoopOptions(num_steps=2), "--seed", 5, "--device", "cpu")
    run = start_run(config_of("--logging_root", tmp_path, "--experiment_name", "other", "--seed",
                              5, "--device", "cpu"))
    progress = made.run()
    facts = run_facts(run, progress)
    assert facts == {"steps": 2, "train_seconds": round(progress.seconds, 3), "seed": 5,
                     "device": "cpu", "threads": torch.get_num_threads(), "skipped_steps": 0,
                     "notices": [], "checkpoint_sha256": sha256_of(
                         made.folder.checkpoints / "step_000002.pth")}
    stored = stored_progress(latest_checkpoint(made.folder.checkpoints))
    assert (stored.step, stored.curve) == (2, progress.curve)
    assert stored.checkpoint_sha256 == facts["checkpoint_sha256"]
    save_checkpoint(tmp_path / "release.pth", {"enc_net.encs.0.weight": torch.ones(1)})
    assert stored_progress(open_checkpoint(tmp_path / "release.pth")).step == 0


@pytest.mark.parametrize("content", [{"step": None}, {"config": 3}, {"curve": 5}])
def test_progress_of_other_kinds_is_refused(tmp_path, content):
    save_checkpoint(tmp_path / "odd.pth", {"task": {}} | content)
    with pytest.raises(CheckpointError, match=r"odd\.pth.*another kind"):
        stored_progress(open_checkpoint(tmp_path / "odd.pth"))
