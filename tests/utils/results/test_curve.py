"""curve.csv written and read back, whole and damaged."""
from __future__ import annotations

import csv

import pytest

from utils.errors import UserError, WriteError
from utils.results.curve import at_time, psnr_by_step, read_curve, write_curve

SCORES = [(0, 0.0, 10.0), (10, 2.0, 14.0), (30, 6.0, 22.0)]


def rows_of_a_run():
    """SCORES as a run logs them, with losses alone in between and once beside a score."""
    rows = [{"step": step, "seconds": seconds, "psnr": psnr} for step, seconds, psnr in SCORES]
    rows.insert(1, {"step": 5, "seconds": 1.0, "loss_total": 0.3})
    rows[-1]["loss_total"] = 0.2
    return rows


def test_what_is_written_is_read_where_it_is_scored(tmp_path):
    path = write_curve(rows_of_a_run(), tmp_path / "run" / "curve.csv")
    assert path.read_bytes().splitlines()[0] == b"step,seconds,psnr,loss_total"
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["loss_total"] for row in found] == ["", "0.3", "", "0.2"]
    assert read_curve(path) == SCORES
    assert psnr_by_step(path) == {0: 10.0, 10: 14.0, 30: 22.0}


def test_a_run_without_rows_has_a_head_alone(tmp_path):
    path = write_curve([], tmp_path / "curve.csv")
    assert path.read_text().split() == ["step,seconds"]
    assert read_curve(path) == [] and psnr_by_step(path) == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(WriteError, match="curve.csv"):
        write_curve([], tmp_path / "run" / "curve.csv")


@pytest.mark.parametrize("text, words", [
    ("step,psnr\nx,1\n", "invalid literal"), ("psnr\n1\n", "'step'"),
    ("step,psnr\n1," + "9" * 200_000, "field larger")])
def test_damaged_files_give_no_scores_or_say_why(tmp_path, text, words):
    """A table of many runs passes over a damaged one; a comparison of two cannot."""
    path = tmp_path / "curve.csv"
    path.write_text(text)
    assert read_curve(path) == []
    with pytest.raises(UserError, match=f"curve.csv.*{words}"):
        psnr_by_step(path)


def test_an_absent_file_is_no_curve(tmp_path):
    assert read_curve(tmp_path / "curve.csv") == []
    with pytest.raises(UserError, match="curve.csv"):
        psnr_by_step(tmp_path / "curve.csv")


def test_scores_that_are_not_finite_are_left_out(tmp_path):
    rows = [*rows_of_a_run(), {"step": 40, "seconds": 7.0, "psnr": float("nan")}]
    assert read_curve(write_curve(rows, tmp_path / "curve.csv")) == SCORES


def test_times_lie_between_their_scores():
    assert at_time(SCORES, 0) == 10 and at_time(SCORES, 2) == 14
    assert at_time(SCORES, 3) == pytest.approx(16) and at_time(SCORES, 6) == 22
    assert at_time(SCORES, 6.1) is None and at_time(SCORES[1:], 1.0) is None
    assert at_time([], 1.0) is None
