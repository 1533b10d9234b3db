"""The live viewer in a real browser: it connects, shows, follows hands, and comes back."""
from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from support.browser import find_browser
from support.browser_session import Session, until
from support.exported_scenes import exported

from realtime.writing import write_scene
from stages.viewing.live import LiveViewer, Window
from stages.viewing.subjects import ExportedSubject
from stages.viewing.windows import pose_of, standing_in
from utils.config.tool_sections import ViewConfig
from utils.errors import UserError

pytest.importorskip("viser", reason="viser is an extra: pip install viser")
pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: "
                                "`make browser`")
WIDTH, HEIGHT = 720, 360
#: What of the window is compared: the panel and notices cover the rest.
LEFT_PART = slice(200, 340), slice(0, 380)
HOSTILE = "<img src=x onerror=\"document.title=1\">"


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> Iterator[LiveViewer]:
    """A viewer of an exported scene whose names are hostile."""
    folder = tmp_path_factory.mktemp("live")
    scene = replace(exported("torus", (64, 48), 3), name=HOSTILE, view_names=(HOSTILE, "b", "c"))
    write_scene(scene, folder / "scene.zip")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    viewer = LiveViewer(ViewConfig(input=str(folder / "scene.zip"), port=port, size=HEIGHT,
                                   moving_size=60, output=str(folder / "saved")))
    yield viewer
    viewer.stop()


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[Session]:
    with Session(tmp_path_factory.mktemp("browser")) as session:
        if not session.has_webgl2():
            pytest.skip("Chromium has no WebGL2 here: `make browser`")
        yield session


def connected(viewer: LiveViewer, session: Session) -> Window:
    """Open the viewer's page; the window of it, drawn whole."""
    before = set(viewer.windows)
    session.open(f"http://127.0.0.1:{viewer.view.port}/", width=WIDTH, height=HEIGHT)
    until(lambda: set(viewer.windows) - before)
    window = viewer.windows[max(viewer.windows)]
    until(lambda: window.time.value)
    return window


def seen(session: Session, path: Path) -> np.ndarray:
    """Return what the browser shows, (H, W, 3) as float."""
    session.screenshot(path)
    return iio.imread(path)[..., :3].astype(float)


def test_a_window_shows_moves_stands_and_comes_back(viewer, session, tmp_path):
    """15 of 255: the browser enlarges by its own filter, and notices may fade in."""
    window = connected(viewer, session)
    assert standing_in(window.pose, viewer.subject.sources) == 1
    expected = window.picture(is_quick=False)[0][LEFT_PART]
    until(lambda: np.abs(seen(session, tmp_path / "a.png")[LEFT_PART] - expected).mean() < 15)
    assert expected.std() > 40                             # there is an object

    session.drag((150, 250), (230, 235))
    until(lambda: standing_in(window.pose, viewer.subject.sources) is None)

    def error() -> float:
        """Of what is seen now against where the camera is now: it may still be on its way."""
        return np.abs(seen(session, tmp_path / "b.png")[LEFT_PART]
                      - window.picture(is_quick=False)[0][LEFT_PART].astype(float)).mean()

    until(lambda: error() < 15)
    moved = window.picture(is_quick=False)[0][LEFT_PART]
    assert np.abs(moved - expected.astype(float)).mean() > 5

    assert window.picture(is_quick=True)[1] is None
    before = window.pose
    window.shows_cameras.value = True                      # those behind the object are hidden
    until(lambda: np.linalg.norm(window.pose.position) > 2 * np.linalg.norm(before.position))
    image, depth = window.picture(is_quick=True)
    assert depth.shape == image.shape[:2] and 4 < depth.min() < 9 and depth.max() == 100
    window.shows_cameras.value = False
    until(lambda: np.allclose(window.pose.position, before.position, atol=1e-3))

    window.stand(2)
    until(lambda: standing_in(window.pose, viewer.subject.sources) == 2)
    assert session.run("[...document.querySelectorAll('input')].map(field => field.value)"
                       ".includes(" + repr(HOSTILE) + ")") and session.run("document.title") != "1"

    session.run("location.reload()")                       # the connection drops
    until(lambda: window.is_gone and not window.thread.is_alive())
    until(lambda: viewer.windows and not next(iter(viewer.windows.values())).is_gone)


def test_keyframes_are_saved_and_rendered(viewer, session):
    window = connected(viewer, session)
    with pytest.raises(UserError, match="no keyframe"):
        window.save()
    for number in (0, 2):
        window.stand(number)
        until(lambda number=number: standing_in(window.pose, viewer.subject.sources) == number)
        window.add_keyframe()
    window.save()
    folder = Path(viewer.view.output)
    window.load((folder / "camera_path.json").read_bytes())
    assert window.num_keyframes.value == "2"
    np.testing.assert_allclose(window.recording.poses[1].position,
                               pose_of(viewer.subject.sources.cameras[2]).position, atol=1e-5)
    window.seconds.value = 1
    window.render()
    assert (folder / "view.mp4").stat().st_size > 1000


def test_windows_are_independent(viewer, session, tmp_path):
    first = connected(viewer, session)
    with Session(tmp_path) as other:
        second = connected(viewer, other)
        second.stand(0)
        until(lambda: standing_in(second.pose, viewer.subject.sources) == 0)
        assert standing_in(first.pose, viewer.subject.sources) == 1
    until(lambda: second.is_gone)
    assert not first.is_gone and first.thread.is_alive()


def test_newer_checkpoints_are_shown_and_unreadable_ones_waited_for(viewer, monkeypatch):
    assert not viewer.look_again()                         # an exported scene stays as it is
    before, newer = viewer.subject, ExportedSubject(viewer.view.input)

    def unreadable(*_: object) -> None:
        raise UserError("half written")

    monkeypatch.setattr("stages.viewing.live.newest_checkpoint", lambda _: Path("model_2.pth"))
    monkeypatch.setattr("stages.viewing.live.open_subject", unreadable)
    assert not viewer.look_again() and viewer.subject is before
    monkeypatch.setattr("stages.viewing.live.open_subject", lambda *_: newer)
    assert viewer.look_again() and viewer.subject is newer
    assert not viewer.look_again()                         # it is shown already


def test_a_port_in_use_is_a_clear_error(viewer):
    with pytest.raises(UserError, match=f"port {viewer.view.port}.*--port"):
        LiveViewer(viewer.view)
