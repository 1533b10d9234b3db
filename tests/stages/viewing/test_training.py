"""The training of a run in a window: states, pause and resume, curves; with a panel that counts."""
from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from stages.viewing.training import (
    PAUSE,
    RESUME,
    aligned,
    loss_lines,
    score_lines,
    training_panel,
)
from utils.errors import UserError
from utils.runs.lock import RunLock
from utils.runs.stopping import is_paused, set_paused

#: Shape steps have an eikonal loss; a score has no loss, an image step may be without one.
ROWS = ({"step": 0, "seconds": 0, "psnr": 20.0},
        {"step": 1, "seconds": 1, "loss_total": 4.0, "loss_eikonal": 1.0},
        {"step": 2, "seconds": 2, "loss_total": 0.5, "loss_image": 0.5},
        {"step": 5, "seconds": 5, "loss_total": 2.0, "loss_eikonal": 1.0, "psnr": 24.0},
        {"step": 6, "seconds": 6, "loss_total": float("nan"), "loss_image": 0.5})


class Panel:
    """A window's panel without a browser."""

    def __init__(self) -> None:
        self.plots = []

    def add_folder(self, _: str):
        return nullcontext()

    def add_text(self, _: str, value: str, **__: object) -> SimpleNamespace:
        return SimpleNamespace(value=value)

    def add_button(self, label: str) -> SimpleNamespace:
        button = SimpleNamespace(label=label, visible=True)
        button.on_click = lambda act: setattr(button, "press", act)
        return button

    def add_uplot(self, data, series, **how: object) -> SimpleNamespace:
        plot = SimpleNamespace(data=data, series=series, how=how)
        plot.remove = lambda: self.plots.remove(plot)
        self.plots.append(plot)
        return plot


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.txt").write_text("lr = 1\n")
    return tmp_path


def opened(run):
    gui = Panel()
    return gui, training_panel(gui, str(run), lambda act: lambda _: act())


def test_lines_of_shape_and_image_steps_and_of_scores():
    lines = loss_lines(ROWS)
    assert {name: points.tolist() for name, points in lines.items()} == {
        "shape steps": [[1, 4], [5, 2]], "image steps": [[2, 0.5]]}
    assert score_lines(ROWS, "PSNR")["PSNR"].tolist() == [[0, 20], [5, 24]]
    assert loss_lines(()) == {} == score_lines(ROWS[1:3], "PSNR")
    steps, shape, image = aligned(lines)
    np.testing.assert_allclose(steps, [1, 2, 5])
    np.testing.assert_allclose(shape, [4, 3.5, 2])
    np.testing.assert_allclose(image, [0.5] * 3)


def test_curves_are_drawn_anew(run):
    gui, panel = opened(run)
    panel.show(ROWS)
    panel.show(ROWS)
    assert [plot.how["title"] for plot in gui.plots] == ["loss", "PSNR [dB]"]
    assert [line["label"] for line in gui.plots[0].series] == ["step", "shape steps", "image steps"]
    panel.show(())
    assert gui.plots == []


def test_a_run_is_paused_and_resumed_from_the_window(run):
    """The button is there while a process trains, and says what it would do."""
    _, panel = opened(run)
    panel.look()
    assert panel.status.value == "not training" and not panel.button.visible
    lock = RunLock(run)
    panel.look()
    assert (panel.status.value, panel.button.label) == ("training", PAUSE) and panel.button.visible
    panel.button.press(None)
    assert is_paused(run) and panel.button.label == RESUME and "paused" in panel.status.value
    set_paused(run, False)                                 # another window, or `rm`
    panel.look()
    assert panel.button.label == PAUSE
    lock.close()


def test_an_exported_scene_has_no_training(tmp_path):
    assert training_panel(Panel(), str(tmp_path / "scene.zip"), lambda act: act) is None


def test_a_folder_that_is_gone_is_told(run):
    _, panel = opened(run)
    (run / "config.txt").unlink()
    run.rmdir()
    with pytest.raises(UserError, match="pause: cannot be made"):
        panel.button.press(None)
