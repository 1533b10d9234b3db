"""The figures of a GPU as a page of Markdown tables, for docs/benchmarks.md."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from utils.results.text_tables import markdown_rows

#: Entries that say how a part went, and are no figures.
HOW_IT_WENT = ("seconds", "ended")


def figures_page(figures: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        figures: "environment", and the figures of each part by its name, as `measure_gpu.py`
            writes them to figures.json; parts may be absent, and may hold less than all.
    """
    facts = figures["environment"]
    lines = [f"# {facts['device']}, {facts['date']}", "", f"`{facts['command']}`", "",
             ", ".join(f"{name} {value}" for name, value in facts.items()
                       if name not in ("device", "date", "command"))]
    for name, write in TABLES.items():
        if name in figures:
            part = figures[name]
            lines += ["", f"## {name}", "", f"{part.get('ended')}, {part.get('seconds')} s", "",
                      write({key: value for key, value in part.items()
                             if key not in HOW_IT_WENT})]
    return "\n".join(lines).rstrip() + "\n"


def flat_table(part: Mapping[str, Any]) -> str:
    """Return all figures of a part, a row each; long lists are left out."""
    rows = [["figure", "value"]]
    for name, value in part.items():
        rows += _flat_rows(name, value)
    return markdown_rows(rows)


def _flat_rows(name: str, value: Any) -> list[list[str]]:
    """Return the rows of a value; of a dictionary one for each of its entries."""
    if isinstance(value, Mapping):
        return [row for key, part in value.items() for row in _flat_rows(f"{name}: {key}", part)]
    if isinstance(value, list):
        return [[name, f"{len(value)} rows in figures.json"]]
    return [[name, _text(value)]]


def quality_table(part: Mapping[str, Any]) -> str:
    """Return the seconds to each PSNR, the steps a second and the last score of each start."""
    rows, notes = [], []
    for start, found in part.items():
        if not isinstance(found, Mapping) or not found.get("curve"):
            notes.append(f"{start}: {_failure(found)}")
            continue
        last = found["curve"][-1]
        to = found.get("seconds_to", {})
        head = ["start", "resolution", *(f"s to {bar}" for bar in to), "steps/s", "steps",
                "seconds", "PSNR"]
        rows = rows or [head]
        rows.append([start, str(found.get("resolution")), *(_text(value) for value in to.values()),
                     _text(found.get("steps_per_second")), str(last["step"]),
                     _text(last["seconds"]), _text(last.get("psnr"))])
    return "\n\n".join([*([markdown_rows(rows)] if rows else []), *notes])


def columns_table(part: Mapping[str, Any]) -> str:
    """Return a row for each entry of a part, and a column for each number that one of them has."""
    numbers = {name: _numbers(found) for name, found in part.items()}
    columns = list(dict.fromkeys(key for found in numbers.values() for key in found))
    rows = [["", *columns]]
    rows += [[name, *(_text(found.get(key)) for key in columns)]
             for name, found in numbers.items() if found]
    notes = [f"{name}: {_failure(part[name])}" for name, found in numbers.items() if not found]
    return "\n\n".join([*([markdown_rows(rows)] if len(rows) > 1 else []), *notes])


def _numbers(found: Any, depth: int = 1) -> dict[str, float]:
    """Return the numbers of a dictionary, and those of dictionaries in it."""
    if not isinstance(found, Mapping):
        return {}
    numbers = {str(key): float(value) for key, value in found.items()
               if isinstance(value, int | float) and not isinstance(value, bool)}
    for key, value in found.items() if depth else ():
        numbers |= {f"{key}: {name}": number for name, number in _numbers(value, 0).items()}
    return numbers


def profile_table(part: Mapping[str, Any]) -> str:
    """Return the figures of each step, and the table of its longest kernels."""
    tables = [columns_table(part)]
    for name, found in part.items():
        kernels = found.get("kernels") if isinstance(found, Mapping) else None
        if kernels:
            rows = [[f"{name}: kernel", "calls", "ms"],
                    *([f"`{row['name']}`", str(row["calls"]), _text(row["ms"])]
                      for row in kernels)]
            tables.append(markdown_rows(rows))
    return "\n\n".join(tables)


def _failure(found: Any) -> str:
    """Return in a line what stands in place of figures."""
    text = found.get("failed", "nothing was measured") if isinstance(found, Mapping) else found
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _text(value: Any) -> str:
    """Return a number with four digits, a dash for None, anything else as it is in one line."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _failure(value)
    return f"{value:.4g}" if abs(value) < 1e4 or abs(value) >= 1e6 else f"{value:.0f}"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tests": flat_table, "quality": quality_table, "render": columns_table,
    "speed": columns_table, "profile": profile_table, "meta": flat_table}
