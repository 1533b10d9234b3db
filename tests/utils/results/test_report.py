"""The page read back with a parser: everything inside it, nothing loaded, every text escaped."""
from __future__ import annotations

import base64
from html.parser import HTMLParser

import numpy as np
import pytest

from utils.errors import WriteError
from utils.results.pictures import save_png
from utils.results.report import write_report

HOSTILE = '<script src="http://example.com/x.js">alert("1")</script>&amp;'
FIGURES = {"psnr": 25.126, "psnr_foreground": None, "ssim": 0.91234, "lpips": float("nan"),
           "mask_iou": 0.5, "chamfer": None, "own_figure": 1.25}
VIEW_FIGURES = {key: value for key, value in FIGURES.items() if key != "chamfer"}
METRICS = {"mean": FIGURES,
           "views": {"000012": VIEW_FIGURES, "000032": {**VIEW_FIGURES, "psnr": 30.0}},
           "steps": 400, "train_seconds": 844.53, "device": None, "sizes": {"width": 200}}
CURVE = [{"step": i, "seconds": 2.0 * i, "loss": 1 / (i + 1), "psnr": None} for i in range(100)]
EMPTY_ELEMENTS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements, addresses, table rows and text of a page; an element left open fails."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.addresses, self.rows, self.text, self.open = [], [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in EMPTY_ELEMENTS:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def names(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def _write(folder, **changes) -> Page:
    values = {"title": "a run", "metrics": METRICS, "curve": [], "pictures": [], "video": None,
              "config_text": "num_steps = 400", "notes": []}
    path = write_report(folder, **{**values, **changes})
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_figures_stand_in_a_row_a_view_with_the_mean_last(tmp_path):
    page = _write(tmp_path)
    assert page.rows == [
        ["view", "PSNR [dB]", "PSNR, foreground [dB]", "SSIM", "LPIPS", "mask IoU", "own_figure"],
        ["000012", "25.13", "n/a", "0.9123", "n/a", "0.5000", "1.2500"],
        ["000032", "30.00", "n/a", "0.9123", "n/a", "0.5000", "1.2500"],
        ["mean", "25.13", "n/a", "0.9123", "n/a", "0.5000", "1.2500"],
    ]
    assert "Trained for 400 steps in 844.5 s (14.1 min)." in page.text
    assert "width: 200" in page.text                       # folded up, with all that is not said
    summaries = page.names().count("summary")
    assert summaries == page.names().count("details") == 2


def test_nothing_is_loaded_from_outside_and_no_script_is_needed(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "v.mp4").write_bytes(b"moving pictures")
    page = _write(tmp_path, curve=CURVE, pictures=[("a", tmp_path / "a.png")],
                  video=tmp_path / "v.mp4")
    assert len(page.addresses) == 4                     # icon, picture, video, curve
    assert all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.names()
    policies = [attrs["content"] for tag, attrs in page.elements if "http-equiv" in attrs]
    assert policies[0].startswith("default-src 'none'")
    assert any(attrs.get("name") == "viewport" for _, attrs in page.elements)


def test_pictures_and_video_are_carried_unchanged(tmp_path):
    save_png(tmp_path / "a.png", np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    (tmp_path / "v.mp4").write_bytes(b"moving pictures")
    page = _write(tmp_path, pictures=[("two < three", tmp_path / "a.png")],
                  video=tmp_path / "v.mp4")
    image = next(attrs for tag, attrs in page.elements if tag == "img")
    video = next(attrs for tag, attrs in page.elements if tag == "video")
    kind, content = image["src"].split(";base64,")
    assert kind == "data:image/png"
    assert base64.b64decode(content) == (tmp_path / "a.png").read_bytes()
    assert (image["width"], image["height"], image["alt"]) == ("6", "4", "two < three")
    assert video["src"] == "data:video/mp4;base64," + base64.b64encode(b"moving pictures").decode()


def test_baselines_stand_below_the_mean_and_pictures_say_what_is_seen(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    page = _write(tmp_path, metrics={**METRICS, "baselines": {"hull": {"psnr": 20.5}}},
                  pictures=[("caption", tmp_path / "a.png", "a black square")], curve=CURVE)
    assert page.rows[4][:2] == ["hull, no network", "20.50"] and page.rows[3][0] == "mean"
    alts = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert alts == ["a black square", "Curves up to step 99: nothing was logged"]


def test_every_text_is_escaped(tmp_path):
    save_png(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    metrics = {"mean": {HOSTILE: 1.0}, "views": {HOSTILE: {HOSTILE: HOSTILE}}, HOSTILE: HOSTILE,
               "more": {HOSTILE: HOSTILE}}
    page = _write(tmp_path, title=HOSTILE, metrics=metrics, curve=[{HOSTILE: HOSTILE, "step": 0}],
                  pictures=[(HOSTILE, tmp_path / "a.png"), (HOSTILE, tmp_path / (HOSTILE[:8]))],
                  video=tmp_path / HOSTILE[:8], config_text=HOSTILE, notes=[HOSTILE])
    assert "script" not in page.names()
    # title, heading, note; heading, name and value of figures; fact and nested fact with their
    # names; two captions; heading and cell of the curve; configuration
    assert page.text.count('alert("1")') == 3 + 3 + 4 + 2 + 2 + 1
    assert all(address.startswith("data:") for address in page.addresses)


def test_what_is_missing_is_said(tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    page = _write(tmp_path, metrics={"mean": {}, "views": {}, "steps": 0},
                  pictures=[("gone", tmp_path / "gone.png"), ("cut", tmp_path / "broken.png")],
                  video=tmp_path / "gone.mp4")
    assert "No view was evaluated" in page.text and "No curve was logged" in page.text
    assert "gone.png is missing" in page.text and "broken.png is missing" in page.text
    assert "gone.mp4 is missing" in page.text
    assert "img" not in page.names() and "video" not in page.names()
    assert caplog.text.count("left out of the report") == 3
    assert "No video was made" in _write(tmp_path).text


def test_long_curves_are_listed_in_part_with_their_last_row(tmp_path):
    page = _write(tmp_path, metrics={}, curve=CURVE)
    assert page.rows[0] == ["step", "seconds", "loss", "psnr"]
    assert page.rows[1] == ["0", "0", "1", ""] and page.rows[-1] == ["99", "198", "0.01", ""]
    assert len(page.rows) < 50
    assert "of 100 rows" in page.text
    assert _write(tmp_path, metrics={}, curve=CURVE[:1]).rows[1:] == [["0", "0", "1", ""]]


def test_a_page_that_cannot_be_written_is_named_and_an_old_one_stays(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="report.html"):
        write_report(tmp_path / "file", title="", metrics={}, curve=[], pictures=[], video=None,
                     config_text="")
    _write(tmp_path, title="first")
    assert "second" in _write(tmp_path, title="second").text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]
