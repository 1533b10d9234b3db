"""Two runs' folders side by side: what has to be the same, to the bit."""
from __future__ import annotations

import csv
import json
from pathlib import Path

from support.tiny_runs import differing
from utils.checkpoints.storage import load_checkpoint
from utils.config.parser import parse_config
from utils.config.tool_sections import RunTableConfig

#: Files that tell of times, or of how often a run was started.
OF_THE_TIME = ("train.log", "summaries", "run.lock", "config.txt", "report.html", "video.mp4")
#: Entries that tell of times, or of where a run is.
TIMES = ("seconds", "train_seconds", "render_seconds", "config", "checkpoint_sha256")


def differences(run: Path, other: Path) -> list[str]:
    """What differs between two runs' folders but for times; halves of files count as well.

    Of the checkpoints, the names and the content of the last are compared.
    """
    found = [f"a half was left: {path}" for path in run.rglob(".*")]
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")
              if path.is_file() and path.relative_to(folder).parts[0] not in OF_THE_TIME}
             for folder in (run, other)]
    found += [f"{name}: in one of them only" for name in sorted(names[0] ^ names[1])]
    found += [f"{name}: not in both" for name in OF_THE_TIME
              if (run / name).exists() != (other / name).exists()]
    common = sorted(names[0] & names[1])
    last = max((name for name in common if name.startswith("checkpoints/")), default=None)
    for name in common:
        if name.startswith("checkpoints/") and name != last:
            continue                   # the last has all that the others led to
        found += [f"{name}{entry}" for entry in differing_files(run / name, other / name)]
    report = run / "report.html"
    if report.exists() and not report.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        found.append("report.html is cut off")
    return found


def differing_files(one: Path, other: Path) -> list[str]:
    """Entries of two files that differ."""
    if one.suffix == ".pth":
        return differing(*(without_times(load_checkpoint(path)) for path in (one, other)))
    if one.suffix == ".json":
        return differing(*(without_times(json.loads(path.read_text())) for path in (one, other)))
    if one.suffix == ".csv":
        rows = []
        for path in (one, other):
            with open(path, newline="", encoding="utf-8") as file:
                rows.append([without_times(row) for row in csv.DictReader(file)])
        return differing(*rows)
    return [] if one.read_bytes() == other.read_bytes() else [": other bytes"]


def without_times(state: dict) -> dict:
    """The same without seconds (a checkpoint holds them too) and flags, which name folders."""
    found = {key: value for key, value in state.items() if key not in TIMES}
    for key in ("mean", "views"):
        if isinstance(found.get(key), dict):
            found[key] = {name: without_times(value) if isinstance(value, dict) else value
                          for name, value in found[key].items() if name not in TIMES}
    if isinstance(found.get("curve"), list):
        found["curve"] = [without_times(row) for row in found["curve"]]
    return found


def table_of(*flags):
    return parse_config([RunTableConfig], [str(flag) for flag in flags]).table


def metrics_in(folder, **changes):
    """A metrics.json; None leaves an entry out."""
    content = {"mean": {"psnr": 20.0}, "steps": 3, "train_seconds": 1.5} | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(
        {key: value for key, value in content.items() if value is not None}))
