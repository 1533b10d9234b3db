"""Rows of text as aligned tables, for a terminal and in Markdown."""
from __future__ import annotations

from collections.abc import Collection, Sequence

from utils.files.text import visible


def format_rows(rows: Sequence[Sequence[str]], *, num_left: int = 1,
                rules_before: Collection[int] = ()) -> str:
    """Return rows of text as a table with aligned columns, without blanks at the end of lines.

    Args:
        rows: cells, as many in each row.
        num_left: columns that are aligned to the left; the others are to the right.
        rules_before: numbers of the rows that a line of dashes goes before.
    """
    rows = _visible(rows)
    widths = _widths(rows)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for number, row in enumerate(rows):
        if number in rules_before:
            lines.append(rule)
        cells = [cell.ljust(width) if column < num_left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a Markdown table whose first row is its head."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in _visible(rows)]
    widths = _widths(rows)
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _visible(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the cells with their control characters made visible."""
    return [[visible(cell) for cell in row] for row in rows]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the number of characters of the longest cell of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
