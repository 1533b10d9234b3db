"""Numbers at their limits, all cases in all ways: part of `make trust`, ten minutes on one core.

Each case runs in a process of its own, with the network that users have. The table of what was
tried goes to TRUST_LOGS (default logs/trust) as numbers.txt and numbers.json.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.number_cases import CASES, LARGE
from support.tiny_runs import ROOT

from utils.results.text_tables import format_rows

pytestmark = pytest.mark.trust
SCRIPT = ROOT / "tests" / "support" / "number_cases.py"
TIMEOUT = 3600.0          # seconds; the largest case takes ten minutes of a core


@pytest.fixture(scope="module")
def table():
    """Outcomes by case; written when all are there, whatever they are."""
    outcomes: dict[str, list[dict]] = {}
    yield outcomes
    folder = Path(os.environ.get("TRUST_LOGS", ROOT / "logs" / "trust"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.json").write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
    text = format_rows([["case", "views", "size", "ways", "seconds", "peak MiB", "outcome"],
                        *(_row(name, found) for name, found in outcomes.items())])
    (folder / "numbers.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


def _row(name: str, found: list[dict]) -> list[str]:
    """A case in a line; ways that did not go as they should are named."""
    if not found:
        return [name, "", "", "0", "", "", "did not end well"]
    refused, all_problems = {one["refused"] for one in found} - {""}, []
    for one in found:
        all_problems += [f"{one['way'] or 'plain'}: {problem}" for problem in one["problems"]]
    words = "; ".join(all_problems) or (f"refused: {min(refused)}" if refused else "finite")
    return [name, str(found[0]["num_views"]), "x".join(map(str, found[0]["size"])),
            str(len(found)), f"{sum(one['seconds'] for one in found):.0f}",
            f"{max(one['peak_mib'] for one in found):.0f}", words]


@pytest.mark.parametrize("name", [case.name for case in (*CASES, *LARGE)])
def test_numbers_stay_finite(name, tmp_path, table):
    table[name] = []
    ended = subprocess.run([sys.executable, SCRIPT, name, tmp_path], text=True, check=False,
                           capture_output=True, timeout=TIMEOUT)
    assert ended.returncode == 0, ended.stderr[-3000:]
    table[name] = json.loads(ended.stdout.splitlines()[-1])
    assert [one["problems"] for one in table[name]] == [[]] * len(table[name])
