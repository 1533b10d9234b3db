"""Aligned tables, character by character."""
from __future__ import annotations

import pytest

from utils.results.text_tables import format_rows, markdown_rows

ROWS = [["view", "PSNR", "n"], ["a", "1.00", ""], ["mean", "20.00", "3"]]


def test_columns_are_aligned_and_lines_end_without_blanks():
    assert format_rows(ROWS) == "view   PSNR  n\na      1.00\nmean  20.00  3"
    assert format_rows(ROWS, num_left=3) == "view  PSNR   n\na     1.00\nmean  20.00  3"
    assert format_rows([["a", "1"], ["long", "20"]]) == "a      1\nlong  20"


def test_rules_are_as_wide_as_the_table():
    assert format_rows(ROWS, rules_before=(1, 2)).splitlines() == [
        "view   PSNR  n", "--------------", "a      1.00", "--------------", "mean  20.00  3"]


def test_markdown_has_a_rule_below_its_head():
    assert markdown_rows(ROWS).splitlines() == [
        "| view | PSNR  | n |", "|------|-------|---|", "| a    | 1.00  |   |",
        "| mean | 20.00 | 3 |"]


def test_rows_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        format_rows([["a", "b"], ["c"]])
