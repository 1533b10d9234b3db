"""One self-contained web page of a run: metrics, curves, pictures, video, configuration.

Pictures and video are inside the file, styles too, and no script is needed but for the object that
turns, where there is one: the page can be mailed, and loads nothing from elsewhere. It reads on a
phone, where wide image grids and tables scroll sideways, and on paper, where they are made narrow.
"""
from __future__ import annotations

import base64
import html
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np

from utils.files.atomic import write_text_atomic
from utils.results.metric_table import METRICS, NOT_AVAILABLE, baselines_in, shown_metrics
from utils.results.plots import curve_plot
from utils.results.run_words import curve_words, other_facts, run_sentences

log = logging.getLogger(__name__)

REPORT_NAME = "report.html"
#: Digits of metrics that the table of metrics does not have.
OTHER_DIGITS = 4
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
PICTURE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
#: Pictures wider than this scroll sideways on a small screen, so that their labels stay readable.
WIDE_PICTURE = 900
#: Rows of the curve that the page lists; the others are in the run's own file.
MAX_CURVE_ROWS = 40

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.25rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } figure { margin: 1rem 0; } figcaption { margin-bottom: .3rem; }
img, video { max-width: 100%; height: auto; border-radius: 4px; background: #fff; }
img.wide { min-width: 56rem; } video { width: 48rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; min-width: 8rem; }
th { vertical-align: bottom; line-height: 1.25; }
tr.mean td { font-weight: bold; background: var(--soft); }
pre { overflow-x: auto; background: var(--soft); padding: .7rem; font-size: .85rem; }
dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .1rem 1rem; }
dt, dd { margin: 0; overflow-wrap: anywhere; } .small { font-size: .85rem; }
iframe.viewer { width: 100%; height: min(92vh, 56rem); border: 0; }
.paper { display: none; }
summary { cursor: pointer; } li { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  ul { padding-left: 1.2rem; } dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem 1rem; }
}
@media (prefers-color-scheme: dark) { img, video { filter: brightness(.9); } }
@media print {
  @page { margin: 1.4cm; }
  :root { color-scheme: light; } body { font-size: 10pt; max-width: none; padding: 0; }
  iframe.viewer, video, details:not([open]) { display: none; } .paper { display: block; }
  .scroll { overflow: visible; } img.wide { min-width: 0; }
  img { filter: none; width: auto; max-height: 22.5cm; }
  figure, tr { break-inside: avoid; }
  h2, figcaption { break-after: avoid; } table { font-size: 7.5pt; }
  th, td { padding: .1rem .25rem; }
}
"""


class ReportPicture(NamedTuple):
    """A picture of the page: its caption, its file, and what is seen on it in words."""

    caption: str
    path: Path | str
    alt: str = ""


def write_report(folder: Path | str, *, title: str, metrics: Mapping[str, Any],
                 curve: Sequence[Mapping[str, Any]], pictures: Sequence[tuple],
                 video: Path | None, config_text: str, notes: Sequence[str] = (),
                 viewer: tuple[str, str] | None = None) -> Path:
    """Write `report.html` into the folder.

    All arguments but the folder are keywords: nine of them, as each is one section of the page.

    Args:
        folder: the run's folder.
        title: heading of the page.
        metrics: content of metrics.json: `mean` and `views` (name to metrics), each metric a number
            or None, and anything else about the run.
        curve: rows of curve.csv, as `utils.results.plots.curve_plot` takes them.
        pictures: of each the caption, the PNG or JPEG file and what is seen, in words (none: the
            caption); one that cannot be read is named as missing.
        video: the novel views as .mp4 or .webm, or None.
        config_text: all configuration values, as in config.txt.
        notes: sentences about the run, which follow those on its training.
        viewer: a page that shows the object, which becomes a frame at the top, and the nonce of its
            scripts; or None.
    Returns:
        path of the page.
    Raises:
        WriteError: the page cannot be written.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _frame(viewer[0]) if viewer else "",
        _notes([*run_sentences(metrics), *notes]),
        "<h2>Metrics</h2>", _metrics_table(metrics), _facts(metrics),
        "<h2>Pictures</h2>" if pictures else "",
        *(_picture(ReportPicture(*picture)) for picture in pictures),
        "<h2>New views</h2>", _video(video),
        "<h2>Training</h2>", _curve(curve),
        "<h2>Configuration</h2>",
        f"<details><summary>all values</summary><pre>{html.escape(config_text)}</pre></details>",
        _on_paper("All values are in config.txt, beside the page of which this is a print."),
    ]
    path = Path(folder) / REPORT_NAME
    body = "\n".join(part for part in parts if part)
    write_text_atomic(path, _page(title, body, viewer[1] if viewer else ""))
    return path


def _frame(page: str) -> str:
    """Return a frame that holds a page of its own; nothing in it reaches this one."""
    return ('<iframe class="viewer" sandbox="allow-scripts" title="The object, to be turned" '
            f'srcdoc="{html.escape(page)}"></iframe>')


def _page(title: str, body: str, nonce: str = "") -> str:
    """Return the whole document; its policy forbids the browser to load anything from outside.

    Scripts run in the frame alone, and there those alone that have the nonce.
    """
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    if nonce:
        policy += f"; script-src 'nonce-{nonce}'"
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
            f"<body>\n{body}\n</body>\n</html>\n")


def _notes(notes: Sequence[str]) -> str:
    """Return the notes as a list."""
    items = "".join(f"<li>{html.escape(str(note))}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return one row a view and their mean, one column a metric, and a legend of the metrics."""
    mean, views = metrics.get("mean") or {}, metrics.get("views") or {}
    rows = [*views.items(), ("mean", mean)]
    mean_row = len(rows) - 1
    rows += [(f"{name}, no network", found) for name, found in baselines_in(metrics).items()]
    present = list(dict.fromkeys(key for _, found in rows for key in found))
    shown = shown_metrics(found for _, found in rows)
    keys = [key for key in shown if key in present] + [k for k in present if k not in METRICS]
    if not keys:
        return "<p>No view was evaluated.</p>"
    headings = [METRICS[key].heading if key in METRICS else key for key in keys]
    lines = ["<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in ("view", *headings))
             + "</tr>"]
    for index, (name, found) in enumerate(rows):
        kind = ' class="mean"' if index == mean_row else ""
        cells = "".join(f"<td>{_metric(found.get(key, ''), key)}</td>" for key in keys)
        lines.append(f"<tr{kind}><td>{html.escape(str(name))}</td>{cells}</tr>")
    legend = "".join(f"<dt>{metric.heading}</dt><dd>{metric.better} is better; {metric.remark}</dd>"
                     for key, metric in METRICS.items() if key in keys)
    return _table(lines) + f'<dl class="small">{legend}</dl>'


def _metric(value: object, key: str) -> str:
    """Return a metric with its digits, or what stands for none; text as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key in METRICS:
            return METRICS[key].text(value)
        return f"{value:.{OTHER_DIGITS}f}" if math.isfinite(value) else NOT_AVAILABLE
    return NOT_AVAILABLE if value is None else html.escape(str(value))


def _facts(metrics: Mapping[str, Any]) -> str:
    """Return what the sentences leave out, folded up."""
    items = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>"
                    for key, value in other_facts(metrics).items())
    return f"<details><summary>more about this run</summary><dl>{items}</dl></details>" \
        if items else ""


def _picture(picture: ReportPicture) -> str:
    """Return a picture with its caption, or a line that says that it is missing."""
    caption, path = picture.caption, Path(picture.path)
    try:
        content = path.read_bytes()
        height, width = iio.improps(content).shape[:2]
        kind = PICTURE_TYPES[path.suffix.lower()]
    except (OSError, KeyError, ValueError) as error:
        log.warning("%s is left out of the report: %s", path, error)
        return (f"<figure><figcaption>{html.escape(caption)}: {html.escape(path.name)} is missing "
                "or not a PNG or JPEG picture</figcaption></figure>")
    return _figure_element(caption, _data_address(content, kind), (width, height),
                           alt=picture.alt or caption)


def _figure_element(caption: str, address: str, size: tuple[int, int], *, alt: str) -> str:
    """Return the element of a picture of `size` (width, height) in pixels.

    A picture that scrolls sideways can be reached by the keyboard.
    """
    wide, scrolls = (' class="wide"', ' tabindex="0"') if size[0] > WIDE_PICTURE else ("", "")
    return (f'<figure><figcaption>{html.escape(caption)}</figcaption><div class="scroll"{scrolls}>'
            f'<img{wide} src="{address}" width="{size[0]}" height="{size[1]}" '
            f'alt="{html.escape(alt)}"></div></figure>')


def _video(path: Path | None) -> str:
    """Return the video inside the page, or a line that says why there is none."""
    if path is None:
        return "<p>No video was made.</p>"
    try:
        content = Path(path).read_bytes()
        kind = VIDEO_TYPES[Path(path).suffix.lower()]
    except (OSError, KeyError) as error:
        log.warning("%s is left out of the report: %s", path, error)
        return f"<p>The video {html.escape(Path(path).name)} is missing or not .mp4 or .webm.</p>"
    return (f'<video controls loop muted playsinline aria-label="new views along a path round the '
            f'object" src="{_data_address(content, kind)}">'
            "This browser does not play the video.</video>"
            + _on_paper(f"The video plays on the page; it is {Path(path).name} beside it."))


def _on_paper(sentence: str) -> str:
    """Return a sentence that stands where a print cannot show what the page has."""
    return f'<p class="paper">{html.escape(sentence)}</p>'


def _curve(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the plotted curves and, folded up, the numbers behind them."""
    if not curve:
        return "<p>No curve was logged.</p>"
    plot = curve_plot(curve)
    picture = _figure_element("Losses and PSNR against step and time",
                              _data_address(_png(plot), "image/png"), plot.shape[1::-1],
                              alt=curve_words(curve))
    keys = list(dict.fromkeys(key for row in curve for key in row))
    step = math.ceil(len(curve) / MAX_CURVE_ROWS)
    shown = [*curve[:-1:step], curve[-1]]
    lines = ["<tr>" + "".join(f"<th>{html.escape(str(key))}</th>" for key in keys) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_curve_cell(row.get(key))}</td>" for key in keys) + "</tr>"
              for row in shown]
    return (f"{picture}<details><summary>{len(shown)} of {len(curve)} rows</summary>"
            f"{_table(lines)}</details>")


def _curve_cell(value: object) -> str:
    """Return a logged value as text, numbers with five digits."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else html.escape(str(value))


def _table(lines: Sequence[str]) -> str:
    """Return rows as a table that scrolls sideways on its own."""
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _png(picture: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 as the content of a PNG file."""
    return iio.imwrite("<bytes>", picture, extension=".png")


def _data_address(content: bytes, kind: str) -> str:
    """Return the content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
