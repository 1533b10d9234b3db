"""A checkpoint as an object: what it holds, which is taken, and that its file is read once."""
from __future__ import annotations

import pytest
import torch
from support.opened_files import count_opened

from utils.checkpoints.checkpoint import Checkpoint, latest_checkpoint, open_checkpoint
from utils.checkpoints.storage import CHECKPOINT_FORMAT, checkpoint_name, save_checkpoint
from utils.errors import CheckpointError


def saved(folder, step, **entries):
    path = folder / checkpoint_name(step)
    save_checkpoint(path, {"step": step} | entries)
    return path


def test_a_file_is_opened_once_and_serves_all(tmp_path, monkeypatch):
    path = saved(tmp_path, 3, task={"model": {"sdf.weight": torch.ones(2)}, "micro": 4})
    counts = count_opened(monkeypatch)
    found = open_checkpoint(path)
    path.unlink()
    assert found.path == path and found.content["step"] == 3 and found.task["micro"] == 4
    assert torch.equal(found.networks.tensors["sdf"]["weight"], torch.ones(2))
    assert counts == {path.name: 1}


def test_files_of_old_torch_are_opened_once_too(tmp_path, monkeypatch):
    torch.save({"sdf": {"weight": torch.arange(6.0)}}, tmp_path / "old.pth",
               _use_new_zipfile_serialization=False)
    counts = count_opened(monkeypatch)
    stored = open_checkpoint(tmp_path / "old.pth").networks
    assert torch.equal(stored.tensors["sdf"]["weight"], torch.arange(6.0))
    assert counts == {"old.pth": 1}


@pytest.mark.parametrize("entries", [{}, {"task": 5}])
def test_what_no_training_run_wrote_has_an_empty_task(tmp_path, entries):
    assert open_checkpoint(saved(tmp_path, 1, **entries)).task == {}


def test_released_content_is_gone_and_the_path_stays(tmp_path):
    found = open_checkpoint(saved(tmp_path, 1, task={"model": {}}))
    found.release()
    assert found.content == {} and found.task == {} and found.path.name == "step_000001.pth"


@pytest.mark.parametrize("number", [CHECKPOINT_FORMAT + 1, "next", None])
def test_formats_of_later_versions_are_refused(tmp_path, number):
    """Also by `latest_checkpoint`: an older file would not be what the run has reached."""
    saved(tmp_path, 1, format=CHECKPOINT_FORMAT)
    path = saved(tmp_path, 2, format=number)
    for read in (lambda: open_checkpoint(path), lambda: latest_checkpoint(tmp_path)):
        with pytest.raises(CheckpointError, match=f"step_000002.pth: of format {number}.*update"):
            read()


def test_the_latest_that_can_be_read_is_taken(tmp_path, caplog, monkeypatch):
    assert latest_checkpoint(tmp_path / "absent") is None
    for step in (9, 10, 1000000):
        saved(tmp_path, step)
    (tmp_path / "best.pth").write_bytes(b"")
    assert latest_checkpoint(tmp_path).path.name == "step_1000000.pth"
    (tmp_path / "step_1000000.pth").write_bytes(b"PK")
    counts = count_opened(monkeypatch)
    found = latest_checkpoint(tmp_path)
    assert (found.path.name, found.content["step"]) == ("step_000010.pth", 10)
    assert "skipped: " in caplog.text and "step_1000000.pth" in caplog.text
    assert counts["step_000010.pth"] == 1 and "step_000009.pth" not in counts


def test_a_file_that_is_replaced_meanwhile_is_not_what_was_checked(tmp_path, monkeypatch):
    """The stream that was checked is the one that is loaded."""
    from utils.checkpoints import storage
    path, check = saved(tmp_path, 1), storage.check_checkpoint

    def check_and_replace(stream):
        check(stream)
        save_checkpoint(path, {"step": 2})

    monkeypatch.setattr(storage, "check_checkpoint", check_and_replace)
    assert open_checkpoint(path).content["step"] == 1


def test_messages_do_not_print_tensors():
    assert "tensor" not in repr(Checkpoint("a.pth", {"weight": torch.ones(3)}))
