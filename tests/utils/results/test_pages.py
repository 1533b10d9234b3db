"""The page of a run in a browser: it shows all it has, and asks nobody for anything."""
from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import imageio.v3 as iio
import numpy as np
import pytest
from support.browser import OUTSIDE, find_browser, visit
from support.browser_session import Session

from utils.results.metric_table import METRICS
from utils.results.pictures import save_png
from utils.results.report import write_report
from utils.results.video import write_video

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: "
                                "`make browser`")
#: Asks in four ways; none is of ours.
ASKING = (f'<img src="http://{OUTSIDE}/a.png"><link rel="stylesheet" href="http://{OUTSIDE}/b.css">'
          f'<script src="http://{OUTSIDE}/c.js"></script>'
          f'<p style="background: url(http://{OUTSIDE}/d.png)">text</p>')
ASKED = {f"http://{OUTSIDE}/{name}" for name in ("a.png", "b.css", "c.js", "d.png")}

#: Elements that reach beyond the right edge of the page.
BEYOND = """[...document.querySelectorAll('img, table, p, pre, video')].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 1).map(element => element.tagName)"""


class Outside(BaseHTTPRequestHandler):
    """Notes what is asked for."""

    def do_GET(self):  # noqa: N802
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture
def outside():
    """The server that is OUTSIDE to the browser."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Outside) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def report(tmp_path):
    """The report of a run with each kind of content."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 96, 128, 3), dtype=np.uint8)
    save_png(tmp_path / "a.png", noise[0])
    iio.imwrite(tmp_path / "b.jpg", noise[1])
    write_video(tmp_path / "v.mp4", noise, fps=5)
    figures = {"psnr": 25.0, "ssim": 0.9}
    return write_report(
        tmp_path, title="a run", metrics={"mean": figures, "views": {"000": figures}, "steps": 4},
        curve=[{"step": i, "seconds": 1.0 * i, "loss_total": 1 / (i + 1)} for i in range(9)],
        pictures=[("a", tmp_path / "a.png"), ("b", tmp_path / "b.jpg")], video=tmp_path / "v.mp4",
        config_text="num_steps = 4", notes=["a note"])


def test_a_report_shows_everything_and_asks_for_nothing(report, tmp_path, outside):
    seen = visit(report.as_uri(), tmp_path, outside_port=outside.server_port)
    assert seen.requests == [report.as_uri()] and not seen.sent and not outside.asked
    assert len(seen.pictures) == 3 and all(seen.pictures)              # with the curve
    assert seen.videos == [128] and seen.max_width == "1280px"         # its own style counts
    assert not seen.refused


def test_a_page_that_asks_is_seen(tmp_path, outside):
    """The check above can fail: in the page's requests, the browser's log and at the server."""
    path = tmp_path / "asking.html"
    path.write_text(f"<!DOCTYPE html><html><body>{ASKING}</body></html>")
    seen = visit(path.as_uri(), tmp_path, outside_port=outside.server_port)
    assert ASKED <= set(seen.requests) and ASKED <= set(seen.sent)
    assert {"/a.png", "/b.css", "/c.js", "/d.png"} <= set(outside.asked)


def test_the_policy_of_a_report_stops_what_would_ask(report, tmp_path, outside):
    """From a file as from a server: even text that got into the page unescaped could not ask."""
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("</body>", f"{ASKING}</body>"), encoding="utf-8")
    seen = visit(report.as_uri(), tmp_path, outside_port=outside.server_port)
    assert not seen.sent and not outside.asked
    assert {line.split()[1] for line in seen.refused} == ASKED


def test_a_narrow_window_scrolls_wide_parts_alone(report, tmp_path):
    assert not visit(report.as_uri(), tmp_path, width=390).is_too_wide


def test_the_table_of_metrics_ends_within_a_usual_window(tmp_path):
    """All metrics of an own capture, which knows no truth; on a phone the table scrolls."""
    figures = {name: 12.3456 for name, metric in METRICS.items() if metric.shown == "always"}
    page = write_report(tmp_path, title="a run", metrics={
        "mean": figures, "views": {"DSC_000123": figures}, "baselines": {"hull": figures}},
        curve=[], pictures=[], video=None, config_text="")
    with Session(tmp_path) as session:
        for width, is_whole in ((1280, True), (390, False)):
            session.open(page.as_uri(), width=width)
            assert (session.run(BEYOND) == []) == is_whole


def test_a_print_cuts_nothing_off(tmp_path):
    """On a narrow page: wide pictures and tables end where it ends, tall ones are not longer, and
    sentences stand for what paper cannot show."""
    for name, size in (("wide", (60, 1200)), ("tall", (2000, 300))):
        save_png(tmp_path / f"{name}.png", np.zeros((*size, 3), np.uint8))
    write_video(tmp_path / "v.mp4", np.zeros((3, 32, 32, 3), np.uint8), fps=5)
    figures = {f"figure_{i}": 1.0 for i in range(9)}
    page = write_report(
        tmp_path, title="a run", metrics={"mean": figures, "views": {"000": figures}},
        curve=[{"step": i, "seconds": i, "loss_total": 1 / (i + 1)} for i in range(9)],
        pictures=[(name, tmp_path / f"{name}.png") for name in ("wide", "tall")],
        video=tmp_path / "v.mp4", config_text="num_steps = 4")
    with Session(tmp_path) as session:
        session.open(page.as_uri(), width=690)
        assert session.run(BEYOND) and not session.run("document.querySelector('.paper')"
                                                       ".offsetHeight")
        session.devtools.call("Emulation.setEmulatedMedia", media="print")
        assert session.run(BEYOND) == []
        heights = session.run("[...document.images].map(image => image.offsetHeight)")
        assert max(heights) < 22.6 / 2.54 * 96              # a page, pixels of CSS
        assert session.run("[...document.querySelectorAll('.paper')].map(p => p.offsetHeight > 0)"
                           ) == [True, True]
        assert session.run("document.querySelector('video').offsetHeight") == 0
