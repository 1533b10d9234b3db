"""One table of metrics, which everything that shows them follows."""
from __future__ import annotations

import csv
from dataclasses import fields

import pytest

from utils.comparison.tables import LEFT_OUT, columns_of
from utils.config.tool_sections import RunTableConfig
from utils.results.evaluation import WIDER_ROWS, format_table, summarise, write_metrics
from utils.results.metric_table import METRICS, OF_RUN, ViewMetrics, finite, shown_metrics
from utils.results.report import write_report


def test_all_that_is_computed_is_in_the_table(tmp_path):
    names = [field.name for field in fields(ViewMetrics)]
    assert [*names, *OF_RUN] == list(METRICS)
    metrics = summarise({"a": ViewMetrics()})
    assert list(metrics["mean"]) == list(METRICS)
    _, path = write_metrics(metrics, tmp_path)
    assert next(csv.reader(path.open(newline=""))) == ["view", *METRICS]


def test_tables_and_report_have_its_names(tmp_path):
    metrics = summarise({"a": ViewMetrics()})
    head = format_table(metrics).splitlines()[0]
    page = write_report(tmp_path, title="x", metrics=metrics, curve=[], pictures=[], video=None,
                        config_text="").read_text()
    columns = columns_of(RunTableConfig())
    for name, metric in METRICS.items():
        is_shown = metric.shown == "always"            # nothing is known here
        assert name in WIDER_ROWS or (metric.title in head) == is_shown
        legend = f"<dt>{metric.heading}</dt><dd>{metric.better} is better; {metric.remark}"
        assert (legend in page) == is_shown
        if name not in LEFT_OUT:
            assert columns[name] == (metric.title, metric.digits)


@pytest.mark.parametrize("value, text", [
    (25.126, "25.13"), (30, "30.00"), (None, "n/a"), (float("nan"), "n/a"), (float("inf"), "n/a")])
def test_values_as_text(value, text):
    assert METRICS["psnr"].text(value) == text


def test_what_is_finite():
    assert finite(1) == 1.0 and finite(None) is finite(float("-inf")) is None


def test_a_metric_is_shown_where_it_is_known():
    known = summarise({"a": ViewMetrics(pcd_error=0.5, psnr_mask_pred=20.0)})
    shown = shown_metrics([known["mean"]])
    assert "pcd_error" in shown and "psnr_mask_pred" not in shown
    assert "0.50000" in format_table(known)
