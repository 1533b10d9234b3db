"""Means, spreads and gaps of tables; the whole script on a tiny scene."""
from __future__ import annotations

import csv
import io
import json
import statistics

import pytest
from support.run_results import metrics_in, table_of
from support.tiny_runs import SMALL, call

from utils.comparison.run_lists import ListedRun
from utils.comparison.tables import Cell, cell_of, gather, write_table

CURVE = [(0, 0.0, 10.0), (10, 2.0, 14.0), (20, 6.0, 22.0)]


def test_mean_and_spread_are_those_of_their_definitions():
    values = {("a", 0): 20.0, ("a", 1): 22.0, ("a", 2): 27.0,
              ("b", 0): 30.0, ("b", 1): 36.0, ("b", 2): 33.0}
    cell = cell_of(values, ["a", "b"])
    assert cell.mean == pytest.approx(sum(values.values()) / 6) and cell.count == 6
    assert cell.spread == pytest.approx(statistics.stdev([25.0, 29.0, 30.0]))


def test_scenes_that_differ_do_not_count_as_spread():
    values = {(scene, seed): level for scene, level in (("a", 10.0), ("b", 90.0))
              for seed in range(3)}
    assert cell_of(values, ["a", "b"]) == Cell(50.0, 0.0, 6)


@pytest.mark.parametrize("values, expected", [
    ({}, Cell(None, None, 0)), ({("a", 0): None}, Cell(None, None, 0)),
    ({("a", 0): 20.0, ("b", 0): 30.0}, Cell(25.0, None, 2)),       # one seed: no spread
    # the seed that lacks a scene counts for the mean of that scene alone
    ({("a", 0): 20.0, ("b", 0): 30.0, ("a", 1): 24.0}, Cell(26.0, None, 3)),
    ({("a", 0): 20.0, ("a", 1): None}, Cell(20.0, None, 1))])
def test_gaps_leave_the_rest(values, expected):
    assert cell_of(values, ["a", "b"]) == expected


def curve_in(folder):
    """CURVE as a file, with a row of losses alone in between."""
    lines = ["step,seconds,loss_total,psnr", "5,1.0,0.3,"]
    lines += [f"{step},{seconds},0.3,{psnr}" for step, seconds, psnr in CURVE]
    (folder / "curve.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def runs(tmp_path):
    """Two configs on two scenes with two seeds; the last run is not finished."""
    found = [ListedRun(config, scene, seed, tmp_path / "runs" / f"{config}-{scene}-seed{seed}",
                       ("true",), 3, 0.0)
             for config in ("full", "less") for scene in ("a", "b") for seed in (0, 1)]
    for number, run in enumerate(found[:-1]):
        mean = {"psnr": 20.0 + number, "ssim": 0.9, "lpips": None, "mask_iou": 0.95}
        metrics_in(run.folder, mean=mean, device="cpu", threads=1)
        curve_in(run.folder)
    (found[0].folder / "curve.csv").unlink()
    return found


def test_the_table_has_means_counts_and_gaps(runs, tmp_path):
    table = table_of("--output", tmp_path, "--at_steps", 10, 11, "--at_seconds", 3)
    text = write_table(runs, table)
    assert (tmp_path / "table.md").read_text() in text
    header, _, full, less = [[cell.strip() for cell in line.strip("|").split("|")]
                             for line in text.splitlines()[:4]]
    rows = [dict(zip(header, row, strict=True)) for row in (full, less)]
    assert [row["runs"] for row in rows] == ["4 of 4", "3 of 4"]
    # seeds 0: (20 + 22) / 2, 1: (21 + 23) / 2
    assert rows[0]["PSNR"] == "21.50 ± 0.71" and rows[1]["PSNR"] == "25.25"
    assert rows[0]["LPIPS"] == "n/a" and "Chamfer" not in header
    assert rows[0]["PSNR at 10"] == "14.00 (3 runs)" and rows[1]["PSNR at 10"] == "14.00"
    assert rows[0]["PSNR at 11"] == "n/a" and rows[1]["PSNR at 3 s"] == "16.00"
    assert "Missing, 1 of 8 runs" in text and "- less-b-seed1: not begun" in text
    assert "cpu, 1 threads" in text and "standard deviation over seeds" in text


def test_csv_and_json_hold_the_same_figures(runs, tmp_path):
    table = table_of("--output", tmp_path)
    write_table(runs, table)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    stored = json.loads((tmp_path / "table.json").read_text())
    for row in rows:
        cells = stored["configs"][row["config"]]
        assert int(row["runs"]) == cells["runs"] and int(row["runs_wanted"]) == 4
        assert float(row["psnr"]) == cells["psnr"]["mean"]
        assert row["psnr_spread"] == ("" if cells["psnr"]["spread"] is None
                                      else str(cells["psnr"]["spread"]))
        assert row["lpips"] == "" and row["lpips_count"] == "0"
    assert stored["missing"] == {"less-b-seed1": "not begun"}
    assert [run["figures"] is None for run in stored["runs"]] == [False] * 7 + [True]


def test_chamfer_has_a_column_where_a_run_has_it(runs, tmp_path):
    metrics_in(runs[0].folder, mean={"chamfer": 0.01, "psnr": float("inf")})
    found = gather(runs, table_of("--output", tmp_path))
    assert found.cells["full"]["chamfer"] == Cell(0.01, None, 1)
    assert found.cells["full"]["psnr"].count == 3


BASELINES = {"hull + colours": {"psnr": 18.0, "ssim": 0.7}, "stereo + colours": {"psnr": 23.0}}


def test_baselines_are_rows_once_where_configs_agree(runs, tmp_path):
    for run in runs:
        level = 24.0 if run.config == "less" else 23.0
        metrics_in(run.folder, baselines=BASELINES | {"stereo + colours": {"psnr": level}})
    text = write_table(runs, table_of("--output", tmp_path, "--at_steps", 10))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    rows = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:7]}
    assert list(rows) == ["full", "less", "hull + colours", "full: stereo + colours",
                          "less: stereo + colours"]
    assert [row["PSNR"] for row in list(rows.values())[2:]] == [
        "18.00 ± 0.00", "23.00 ± 0.00", "24.00 ± 0.00"]
    hull = rows["hull + colours"]
    assert (hull["runs"], hull["PSNR at 10"], hull["seconds"]) == ("4 of 4", "n/a", "n/a")
    assert "without any network" in text
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["baselines"]["hull + colours"]["ssim"]["mean"] == pytest.approx(0.7)
    assert list(stored["configs"]) == ["full", "less"]
    names = [row["config"] for row in csv.DictReader(io.StringIO(
        (tmp_path / "table.csv").read_text()))]
    assert names == list(rows)


def test_only_runs_that_scored_baselines_count(runs, tmp_path):
    """The last is not finished, the others have none, or something else there."""
    metrics_in(runs[0].folder, baselines=BASELINES)
    metrics_in(runs[1].folder, baselines=[3])
    metrics_in(runs[2].folder, baselines={"hull + colours": "none", "odd": {"psnr": "high"}})
    found = gather(runs, table_of("--output", tmp_path))
    assert found.baselines["hull + colours"]["psnr"] == Cell(18.0, None, 1)
    assert found.counts["hull + colours"] == (1, 4)
    assert found.baselines["odd"]["psnr"] == Cell(None, None, 0)


def test_a_table_of_nothing_is_all_gaps(tmp_path):
    run = ListedRun("c", "s", 0, tmp_path / "c-s-seed0", ("true",), 3, 0.0)
    text = write_table([run], table_of("--output", tmp_path))
    assert "| 0 of 1" in text and "Missing, 1 of 1 runs" in text


@pytest.mark.long
def test_the_script_runs_a_list_and_names_what_failed(tiny_scene, tiny_sphere, tmp_path, capsys,
                                                      monkeypatch):
    """One run works, one has no scene; then the table alone, and the lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean.txt").write_text("feature_aggregation_method = mean\n")
    small = " ".join([*SMALL, "--checkpoint_sdf", str(tiny_sphere), "--mesh_resolution", "8"])
    flags = ["--configs", "mean.txt", "--scenes", tiny_scene, "nowhere", "--num_steps", 2,
             "--at_steps", 1, "--output", "out", "--run_flags", small]
    with pytest.raises(SystemExit) as caught:
        call("run_table", *flags)
    assert caught.value.code == 1
    assert f"mean-nowhere-seed0: failed with exit code 2: error: {tmp_path}/nowhere" in \
        capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "table.json").read_text())
    assert stored["configs"]["mean"]["runs"] == 1
    assert stored["configs"]["mean"]["psnr_at_step_1"]["count"] == 1
    log = tmp_path / "out" / "runs" / f"mean-{tiny_scene.name}-seed0.log"
    before = log.stat().st_mtime_ns
    call("run_table", *flags, "--print_commands")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "/nowhere" in lines[0]
    call("run_table", *flags, "--table_only", 1)
    assert "1 of 2" in capsys.readouterr().out and log.stat().st_mtime_ns == before
