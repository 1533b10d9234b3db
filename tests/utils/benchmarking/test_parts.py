"""Parts of a measurement: each leaves what it had, whatever becomes of it or of the others."""
from __future__ import annotations

import json

import pytest
from support.measured_parts import PARTS

from utils.benchmarking import parts as module
from utils.benchmarking.parts import Recorder, as_json, run_parts


@pytest.fixture
def hurried(monkeypatch):
    """Parts are ended at once when their time is over, and none is too short."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(module, "LEAST_SECONDS", 0.0)


def test_each_part_leaves_what_it_had(tmp_path, hurried):
    seen = []
    found = run_parts([PARTS["dies"], PARTS["ends"]], {"number": 5}, tmp_path, 60.0,
                      saved=lambda figures: seen.append(dict(figures)))
    assert [list(figures) for figures in seen] == [["dies"], ["dies", "ends"]]
    assert found["dies"]["before"] == 1
    assert found["dies"]["ended"] == "failed, exit code 7: an illegal access"
    assert found["ends"]["given"] == 5 and found["ends"]["last"] == "nan"
    assert "ZeroDivisionError" in found["ends"]["broken"]["failed"]
    assert found["ends"]["ended"] == "in time"
    assert "said by the part" in (tmp_path / "logs" / "ends.txt").read_text()


def test_a_part_that_takes_too_long_is_ended(tmp_path, hurried):
    found = run_parts([PARTS["sleeps"]], {}, tmp_path, 1.5, saved=lambda figures: None)
    assert found["sleeps"]["before"] == 2 and found["sleeps"]["ended"] == "cut off"
    assert found["sleeps"]["seconds"] < 30


def test_a_part_without_time_is_left_out(tmp_path):
    found = run_parts([PARTS["sleeps"]], {}, tmp_path, 1.0, saved=lambda figures: None)
    assert found["sleeps"]["ended"].startswith("left out") and not list(tmp_path.iterdir())


def test_time_is_divided_by_what_is_left(tmp_path, monkeypatch):
    budgets = {}

    def run(part, setup, folder, budget):
        budgets[part.name] = budget
        return {"ended": "in time", "seconds": 0.0}

    monkeypatch.setattr(module, "_run", run)
    run_parts(list(PARTS.values()), {}, tmp_path, 100.0, saved=lambda figures: None)
    # the first takes no time at all: what it leaves is shared by the others
    assert budgets == pytest.approx({"dies": 40, "sleeps": 50, "ends": 100}, rel=0.02)


def test_a_figure_is_on_the_disk_when_it_is_told(tmp_path):
    recorder = Recorder(tmp_path / "x.json", 10.0)
    recorder.note("a", {"b": (1, 2.5, None, True), "path": tmp_path})
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": {"b": [1, 2.5, None, True], "path": str(tmp_path)}}
    assert 9 < recorder.left() <= 10 and Recorder(tmp_path / "y.json", -1).left() == 0
    assert recorder.attempt("works", lambda: 3) == 3 == recorder.figures["works"]


def test_numbers_that_json_lacks_become_words():
    assert as_json([float("inf"), float("nan"), 1.5]) == ["inf", "nan", 1.5]
