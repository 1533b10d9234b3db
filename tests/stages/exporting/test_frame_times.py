"""The times of frames: every column is measured, of views of the scene's size."""
from __future__ import annotations

import json

from data_processing.scenes.writing import write_scene
from data_processing.synthetic.scenes import make_scene
from stages.exporting import frame_times
from stages.exporting.frame_times import COLUMNS, render_benchmark
from utils.config.tool_sections import BenchmarkConfig


def test_all_parts_of_a_frame_are_measured(tmp_path, monkeypatch):
    path = write_scene(make_scene("blobs", 0, num_views=4, resolution=(32, 24), supersampling=1),
                       tmp_path / "scene", "processed")
    monkeypatch.setattr(frame_times, "CASES", (((32, 24), 3), ((64, 48), 2)))
    monkeypatch.setattr(frame_times, "NUM_STEPS", 1)
    text = render_benchmark(BenchmarkConfig(device="cpu", scene=str(path), repeats=1,
                                            json=str(tmp_path / "times.json")))
    rows = json.loads((tmp_path / "times.json").read_text())["rows"]
    assert [(row["size"], row["sources"]) for row in rows] == [("32x24", 3), ("64x48", 2)]
    for row in rows:                               # the second is of enlarged images
        assert all(row[name] > 0 for name in COLUMNS) and row["triangles"] > 100
    for name in COLUMNS:
        assert name in text
