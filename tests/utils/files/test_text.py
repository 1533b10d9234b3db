"""Names from files: nothing in them acts in a terminal, a log or a spreadsheet."""
from __future__ import annotations

import csv
import io
import json
import logging

import pytest

from utils.files.atomic import write_text_atomic
from utils.files.text import VisibleFormatter, csv_cell, show, visible, visible_message
from utils.results.curve import read_curve, write_curve
from utils.results.evaluation import format_table, summarise, write_metrics
from utils.results.metric_table import ViewMetrics
from utils.results.text_tables import markdown_rows

#: Red text, a new title of the terminal, a line that looks like the log's own, text that runs
#: backwards, C1's short form of an escape, a byte that is not UTF-8.
HOSTILE = ("\x1b[31mred", "\x1b]0;title\x07", "0001\nerror: forged", "a\u202egnp.exe", "\x9b31m",
           "caf\udce9")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_acts_is_shown_instead(name, capsys):
    seen = visible(name)
    assert seen.isprintable() and "\\" in seen
    show(f"view {name.split(chr(10))[0]}")
    printed = capsys.readouterr().out
    assert printed.rstrip("\n").isprintable() and printed.endswith("\n")


def test_ordinary_names_stay_as_they_are():
    names = ("0001", "DSC_0042.JPG", "größe 3", "眺め", "a-b_c=d", "🦕")
    assert tuple(map(visible, names)) == names == tuple(map(csv_cell, names))


def test_a_log_has_one_line_a_record():
    """The name's own line break is written as an escape; an indented list of ours stays."""
    formatter = VisibleFormatter("%(levelname)s %(message)s")
    record = logging.makeLogRecord({"levelname": "WARNING", "args": (HOSTILE[2],),
                                    "msg": "view %s: no mask:\n  first\n  second"})
    assert formatter.format(record) == (r"WARNING view 0001\nerror: forged: no mask:"
                                        "\n  first\n  second")
    assert visible_message("a\x1b[2Jb") == r"a\x1b[2Jb"


@pytest.mark.parametrize("name, cell", [
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("＝1", "'＝1"),
    ("\t=1", r"'\t=1"), ("\r=1", r"'\r=1"), ("\x1b=1", r"\x1b=1"), ("a=1", "a=1"),
    (" =1", "' =1"), ("a;=1", "a;'=1"), ("a; +1;b", "a; '+1;b"), (-1.5, -1.5),
    (None, None)])
def test_no_cell_of_a_csv_is_a_formula(name, cell):
    assert csv_cell(name) == cell


def test_results_of_views_with_hostile_names(tmp_path):
    """CSV, JSON and the printed table of views that are named so; JSON keeps the names."""
    names = [*HOSTILE, '=HYPERLINK("file:///etc")', "|"]
    metrics = summarise(dict.fromkeys(names, ViewMetrics(20.0)))
    json_path, csv_path = write_metrics(metrics, tmp_path)
    assert list(json.loads(json_path.read_text("utf-8"))["views"]) == names
    rows = list(csv.reader(io.StringIO(csv_path.read_text("utf-8"), newline="")))
    assert len(rows) == len(names) + 2
    assert all(row[0].isprintable() and row[0][0] not in "=+-@" for row in rows)
    table = format_table(metrics)
    assert all(line.isprintable() for line in table.splitlines())
    assert len(table.splitlines()) == len(names) + 4
    assert r"\|" in markdown_rows([["view"], ["|"]])


def test_a_curve_is_read_again(tmp_path):
    """Columns of the program's own are written as they were, negative losses are numbers."""
    curve = [{"step": 1, "seconds": 0.5, "loss_total": -0.25}, {"step": 2, "seconds": 1.0,
                                                               "psnr": 20.0}]
    path = write_curve(curve, tmp_path / "curve.csv")
    assert read_curve(path) == [(2, 1.0, 20.0)]
    assert path.read_bytes() == (b"step,seconds,loss_total,psnr\r\n1,0.5,-0.25,\r\n"
                                 b"2,1.0,,20.0\r\n")


def test_bytes_that_are_not_utf8_are_written_as_escapes(tmp_path):
    write_text_atomic(tmp_path / "names.txt", "caf\udce9")
    assert (tmp_path / "names.txt").read_bytes() == rb"caf\udce9"
