"""Finished runs side by side, on results that the test writes."""
from __future__ import annotations

import json
import re

import imageio.v3 as imageio
import numpy as np
import pytest
from support.tiny_runs import call

from utils.comparison.side_by_side import compare, comparison_grid, read_run, write_comparison
from utils.errors import UserError

COLOURS = {"photograph": 40, "prediction": 90, "error": 160}


def write_run(folder, psnr, *, views=("004", "012"), steps=(10, 30)):
    """A run whose pictures are of one grey each, which tells them apart."""
    (folder / "views").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({
        "mean": {"psnr": psnr, "lpips": None}, "views": {view: {"psnr": psnr} for view in views},
        "steps": steps[-1], "train_seconds": 12.4}))
    lines = [f"{step},{psnr - 1 if step == steps[0] else psnr}" for step in steps]
    (folder / "curve.csv").write_text("\n".join(["step,psnr", "20,", *lines]) + "\n")
    for view in views:
        for kind, grey in COLOURS.items():
            imageio.imwrite(folder / "views" / f"{view}_{kind}.png",
                            np.full((12, 16, 3), grey + round(psnr), np.uint8))
    return folder


@pytest.fixture
def folders(tmp_path):
    return [write_run(tmp_path / "slow", 20.0), write_run(tmp_path / "fast", 26.0,
                                                          steps=(5, 10, 30))]


def test_a_column_for_each_run_and_a_row_for_each_shared_step(folders):
    table = compare([read_run(folder) for folder in folders], ["from_scratch", "learned"])
    rows = {name: cells for name, *cells in
            (re.split(r"  +", line) for line in table.splitlines())}
    assert rows["held-out"] == ["from scratch", "learned"]
    assert rows["PSNR after 10 steps"] == ["19.00", "26.00"]
    assert rows["PSNR after 30 steps"] == ["20.00", "26.00"]
    assert "PSNR after 5 steps" not in rows and "LPIPS" not in rows
    assert rows["PSNR"] == ["20.00", "26.00"] and rows["training, s"] == ["12", "12"]


def test_baselines_have_a_row_where_a_run_has_them(folders):
    path = folders[0] / "metrics.json"
    baselines = {"hull + colours": {"psnr": 18.25}, "odd": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"baselines": baselines}))
    table = compare([read_run(folder) for folder in folders])
    rows = {name: cells for name, *cells in
            (re.split(r"  +", line) for line in table.splitlines())}
    assert rows["PSNR, hull + colours"] == ["18.25", "n/a"] and "PSNR, odd" not in rows


def test_the_sheet_shows_every_run_of_every_view(folders):
    picture = comparison_grid([read_run(folder) for folder in folders])
    grey = picture[(picture == picture[..., :1]).all(-1), 0]       # not the colours of the error
    values, counts = np.unique(grey, return_counts=True)
    large = set(values[counts >= 12 * 16].tolist())        # pictures, not the letters' edges
    assert large - {0} == {60, 110, 116, 180, 186, 255}    # one photograph, all else of both
    assert 0 in large                                      # letters: the PSNR of each


def test_the_script_writes_the_sheet_and_prints_the_table(folders, tmp_path, capsys):
    call("compare_runs", "--runs", *folders, "--comparison", tmp_path / "sheet.png")
    assert imageio.imread(tmp_path / "sheet.png").shape[2] == 3
    told = capsys.readouterr().out
    assert "slow" in told and str(tmp_path / "sheet.png") in told


def test_bad_input_is_named(folders, tmp_path):
    with pytest.raises(UserError, match="two or more"):
        write_comparison(folders[:1], str(tmp_path / "x.png"))
    with pytest.raises(UserError, match="nothing: no results of a finished run"):
        write_comparison([folders[0], tmp_path / "nothing"], str(tmp_path / "x.png"))
    with pytest.raises(UserError, match="1 names for 2 runs"):
        write_comparison(folders, str(tmp_path / "x.png"), ["one"])
    (folders[0] / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="slow: no results"):
        write_comparison(folders, str(tmp_path / "x.png"))


def changed(folder, **changes):
    """The run in a folder, with other entries in metrics.json."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("changes, words", [
    ({"mean": None}, "'mean' of metrics.json is None"), ({"views": None}, "'views' of"),
    ({"views": ["004"]}, "'views' of"), ({"mean": {"psnr": "20"}}, "'mean.psnr' of.*'20'"),
    ({"train_seconds": "12"}, "'train_seconds' of.*needed a number")])
def test_damaged_metrics_are_named(folders, changes, words):
    with pytest.raises(UserError, match=f"slow: no results.*{words}"):
        read_run(changed(folders[0], **changes))


def test_a_missing_training_time_reads_not_available(folders):
    table = compare([read_run(changed(folders[0], train_seconds=None)), read_run(folders[1])])
    assert re.search(r"training, s +n/a +12", table)
    path = folders[0] / "metrics.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items()
                                if key != "train_seconds"}))
    assert re.search(r"training, s +n/a +12", compare([read_run(x) for x in folders]))


def test_runs_without_a_common_view_or_without_pictures(folders, tmp_path):
    other = write_run(tmp_path / "other", 22.0, views=("007",))
    with pytest.raises(UserError, match="no scored view in common"):
        comparison_grid([read_run(folders[0]), read_run(other)])
    (folders[1] / "views" / "012_prediction.png").unlink()
    with pytest.raises(UserError, match="012_prediction.png: cannot be read.*--test_rt 1"):
        comparison_grid([read_run(folder) for folder in folders])
