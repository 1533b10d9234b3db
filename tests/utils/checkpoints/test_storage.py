"""Atomic saving, safe loading, fitting states."""
from __future__ import annotations

import errno
import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.checkpoints import storage as ckpt
from utils.errors import CheckpointError, WriteError


def folder_names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail_with(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))
    return fail


def test_what_was_saved_is_loaded_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "step_000001.pth"
    payload = {"net": {"w": torch.arange(6.0).reshape(2, 3)}, "step": 1, "name": "a", "list": [1]}
    ckpt.save_checkpoint(path, payload)
    loaded = ckpt.load_checkpoint(path)
    assert torch.equal(loaded["net"]["w"], payload["net"]["w"])
    assert (loaded["step"], loaded["name"], loaded["list"]) == (1, "a", [1])
    assert folder_names(path.parent) == ["step_000001.pth"]


@pytest.mark.parametrize("number, words", [
    (errno.ENOSPC, ["is full", "MiB free", "--logging_root"]),
    (errno.EACCES, ["no permission", "--logging_root"]),
    (errno.EROFS, ["no permission"]),
    (errno.EIO, ["cannot write"]),
])
def test_a_failed_write_leaves_the_previous_file(tmp_path, monkeypatch, number, words):
    path = tmp_path / "step_000001.pth"
    ckpt.save_checkpoint(path, {"step": 1})
    monkeypatch.setattr(ckpt.os, "fsync", fail_with(number))
    with pytest.raises(WriteError) as caught:
        ckpt.save_checkpoint(path, {"step": 2})
    assert all(word in str(caught.value) for word in [str(path), *words])
    assert ckpt.load_checkpoint(path)["step"] == 1
    assert folder_names(tmp_path) == ["step_000001.pth"]


def test_a_disk_that_fills_inside_torch_is_told_as_such(tmp_path, monkeypatch):
    path = tmp_path / "step_000001.pth"

    def torch_save_without_space(_payload, _stream):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(ckpt.torch, "save", torch_save_without_space)
    with pytest.raises(WriteError, match="is full"):
        ckpt.save_checkpoint(path, {"step": 2})
    assert folder_names(tmp_path) == []


class Filling(io.BufferedWriter):
    """A file on a disk with room for 20,000 bytes."""

    def write(self, data):
        if self.tell() + len(memoryview(data).cast("B")) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_disk_that_fills_in_the_midst_of_a_tensor(tmp_path, monkeypatch):
    path = tmp_path / "step_000001.pth"
    ckpt.save_checkpoint(path, {"step": 1, "weights": torch.ones(10)})
    monkeypatch.setattr(Path, "open", lambda part, mode: Filling(io.FileIO(part, "w")))
    with pytest.raises(WriteError, match=f"the disk of {tmp_path} is full"):
        ckpt.save_checkpoint(path, {"step": 2, "weights": torch.ones(100, 100)})
    monkeypatch.undo()
    assert ckpt.load_checkpoint(path)["step"] == 1
    assert folder_names(tmp_path) == ["step_000001.pth"]


def test_errors_that_are_not_the_disks_stay_what_they_are(tmp_path, monkeypatch):
    def broken(_payload, _stream):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(ckpt.torch, "save", broken)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        ckpt.save_checkpoint(tmp_path / "step_000001.pth", {})
    assert folder_names(tmp_path) == []


def test_a_kill_before_the_rename_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "step_000001.pth"
    ckpt.save_checkpoint(path, {"step": 1})

    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ckpt.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ckpt.save_checkpoint(path, {"step": 2})
    assert ckpt.load_checkpoint(path)["step"] == 1


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        ckpt.save_checkpoint(tmp_path / "run" / "step_000001.pth", {})


class Harmful:
    """Makes a folder when it is unpickled the usual way."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))],
                         ids=["zip", "bare pickle"])
def test_code_is_refused_by_name_and_not_run(tmp_path, save):
    path, target = tmp_path / "bad.pth", tmp_path / "harm"
    save({"net": Harmful(target)}, path)
    with pytest.raises(CheckpointError, match="mkdir") as caught:
        ckpt.load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not target.exists()


def test_truncated_at_any_place(tmp_path):
    whole = tmp_path / "whole.pth"
    ckpt.save_checkpoint(whole, {"w": torch.zeros(500)})
    data = whole.read_bytes()
    path = tmp_path / "part.pth"
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(data[:int(share * len(data))])
        with pytest.raises(CheckpointError, match="truncated|empty|not a checkpoint") as caught:
            ckpt.load_checkpoint(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"hello\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04 no zip"])
def test_other_files_are_not_checkpoints(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint|damaged"):
        ckpt.load_checkpoint(path)


def test_missing_file_folder_and_bare_tensor(tmp_path):
    with pytest.raises(CheckpointError, match="found nothing"):
        ckpt.load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="found a folder"):
        ckpt.load_checkpoint(tmp_path)
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        ckpt.load_checkpoint(tmp_path / "tensor.pth")


def test_states_that_do_not_fit_are_listed():
    state = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).state_dict()
    wanted = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(1, 1))
    state["foreign"] = torch.zeros(1)
    before = wanted[0].weight.detach().clone()
    with pytest.raises(CheckpointError) as caught:
        ckpt.load_state(wanted, state, "the SDF of x.pth")
    told = str(caught.value)
    for part in ("the SDF of x.pth", "1 of 6 tensors fit", "missing: 2.weight, 2.bias",
                 "unexpected: foreign", "0.weight [4, 3] for [5, 3]"):
        assert part in told
    assert torch.equal(wanted[0].weight, before)


def test_only_the_first_names_are_listed():
    wanted = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(CheckpointError, match="and 4 more"):
        ckpt.load_state(wanted, {}, "x")


def test_not_strict_loads_what_fits_and_says_so(caplog):
    source, wanted = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    state = {f"0.{name}": value for name, value in source.state_dict().items()}
    ckpt.load_state(wanted, state, "x", strict=False)
    assert torch.equal(wanted[0].weight, source.weight)
    assert "loaded 2 of 4" in caplog.text


def test_nothing_fitting_is_an_error_even_if_not_strict():
    with pytest.raises(CheckpointError, match="0 of 2"):
        ckpt.load_state(nn.Linear(3, 4), {"a": torch.zeros(1)}, "x", strict=False)


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    for step in range(1, 6):
        ckpt.save_checkpoint(tmp_path / ckpt.checkpoint_name(step), {})
    (tmp_path / "other.txt").write_text("")
    ckpt.keep_latest(tmp_path, 2)
    assert folder_names(tmp_path) == ["other.txt", "step_000004.pth", "step_000005.pth"]
    with pytest.raises(ValueError, match="at least 1"):
        ckpt.keep_latest(tmp_path, 0)


def test_no_flipped_bit_gives_other_numbers(tmp_path, project_root):
    """One bit of a copy is flipped at a time: it is refused, or loads with the same numbers (a bit
    of the archive's padding, dates or modes), and most are refused."""
    whole = (project_root / "assets" / "base" / "sphere_ours_sine_128x3.pth").read_bytes()
    path, generator = tmp_path / "flipped.pth", torch.Generator().manual_seed(0)
    path.write_bytes(whole)
    truth = ckpt.load_checkpoint(path)
    num_refused = 0
    for bit in torch.randint(8 * len(whole), (200,), generator=generator).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = ckpt.load_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            num_refused += 1
            continue
        assert loaded["error"] == truth["error"]
        assert all(torch.equal(loaded["sdf"][name], value) for name, value in truth["sdf"].items())
    assert num_refused > 180


def test_a_flipped_bit_is_told_with_its_cure(tmp_path):
    path = tmp_path / "step_000001.pth"
    ckpt.save_checkpoint(path, {"w": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(b"\0\0\x80\x3f" * 10) + 3] ^= 0x40            # 1 becomes infinite or tiny
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="bits have changed.*copy it again, or delete it"):
        ckpt.load_checkpoint(path)


def test_shipped_weights_are_found_from_any_folder(tmp_path, monkeypatch):
    """As configs/own.txt names them; a file of that name that lies here goes first."""
    monkeypatch.chdir(tmp_path)
    assert "encoder" in ckpt.load_checkpoint("checkpoints/encdec.pth")
    with pytest.raises(CheckpointError, match="checkpoint checkpoints/none.pth: found nothing"):
        ckpt.load_checkpoint("checkpoints/none.pth")
    (tmp_path / "checkpoints").mkdir()
    ckpt.save_checkpoint("checkpoints/encdec.pth", {"mine": torch.ones(1)})
    assert set(ckpt.load_checkpoint("checkpoints/encdec.pth")) == {"mine"}
