"""The page of an exported scene in a real browser, its pixels among them."""
from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from support.browser import find_browser
from support.browser_session import Session, until
from support.exported_scenes import around, exported
from support.tiny_runs import call

from realtime.reading import read_scene
from realtime.renderer import SceneRenderer
from realtime.web_page import framed_page, write_page
from realtime.writing import camera_entry, write_scene
from utils.errors import WriteError
from utils.results.report import write_report

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: "
                                "`make browser`")
HOSTILE = '<img src=x onerror="document.title=1">"\'&\u202e'
#: Scene to shape, seen from angles in radians round the y axis: near sources, between, aside.
ANGLES = (0.0, 0.3, -0.8)
SHOWN = "document.body.dataset.state !== 'loading'"
#: The full picture at the canvas' size, drawn now.
PICTURE = "(page.viewer.paint([1, true]), page.viewer.canvas.toDataURL())"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[Session]:
    """A browser for all tests of this file."""
    with Session(tmp_path_factory.mktemp("browser")) as session:
        if not session.has_webgl2():
            pytest.skip("Chromium has no WebGL2 here: `make browser`")
        yield session


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict[str, Path]:
    """Exported scenes by shape; the names of the torus and its views are hostile."""
    folder = tmp_path_factory.mktemp("scenes")
    for shape in ("torus", "sphere"):
        scene = exported(shape, (64, 48), 5)
        if shape == "torus":
            scene = replace(scene, name=HOSTILE, view_names=(HOSTILE, *scene.view_names[1:]))
        write_scene(scene, folder / f"{shape}.zip")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def torus(scenes) -> str:
    """The address of a single file."""
    return write_page(scenes["torus"], scenes["torus"].with_name("torus.html")).as_uri()


@pytest.fixture(scope="module")
def sphere(scenes) -> Iterator[str]:
    """The address of a folder on a web server."""
    folder = write_page(scenes["sphere"], scenes["sphere"].with_name("sphere")).parent

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def shown(session: Session, address: str, *, width: int = 240, **settings: object) -> None:
    """Open a page and wait for its first picture."""
    session.open(address, width=width, **settings)
    session.wait(SHOWN)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Root of the mean squared difference, of 255."""
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


def middle(session: Session, shift: tuple[float, float] = (0, 0)) -> tuple[float, float]:
    """A place of the window: the canvas' middle, and so many pixels from it."""
    box = session.run("(({x, y, width, height}) => [x + width / 2, y + height / 2])"
                      "(page.viewer.canvas.getBoundingClientRect())")
    return box[0] + shift[0], box[1] + shift[1]


@pytest.mark.parametrize("shape", ["torus", "sphere"])
def test_the_canvas_shows_what_the_python_renderer_shows(shape, session, scenes, request):
    """45 dB: edges of triangles lie on another side of a ray now and then, by rounding."""
    shown(session, request.getfixturevalue(shape))
    renderer = SceneRenderer(read_scene(scenes[shape]))
    for camera in around(torch.tensor(ANGLES), (96, 72)):
        expected = (renderer.render(camera).picture.permute(1, 2, 0) * 255).numpy()
        found = session.picture(f"(page.viewer.show({{width: 96, height: 72, view: "
                                f"{json.dumps(camera_entry(camera))}}}), "
                                "page.viewer.canvas.toDataURL())")
        assert 20 * np.log10(255 / difference(found, expected)) > 45
        assert difference(found, np.full_like(found, 255)) > 20        # there is an object
    assert session.complaints() == []


def test_a_file_asks_for_nothing_and_a_folder_for_its_own(session, torus, sphere):
    shown(session, torus)
    assert session.requests() == [torus] and session.complaints() == []
    shown(session, sphere)
    asked = session.requests()
    assert len(asked) > 20 and all(address.startswith(sphere) for address in asked)


def test_a_folder_is_shown_from_the_disk_too(session, scenes):
    page = write_page(scenes["sphere"], scenes["sphere"].with_name("from_disk"))
    shown(session, page.as_uri())
    assert session.run("document.body.dataset.state") == "shown" and session.complaints() == []


def test_names_are_text(session, torus):
    shown(session, torus)
    name = HOSTILE.replace("\u202e", "\\u202e")                        # turns no line round
    assert session.run("[document.title, document.querySelector('h1').textContent, "
                       "document.querySelector('option:nth-child(2)').textContent]") == [name] * 3
    session.run("page.viewer.stand(0)")
    session.run("document.querySelector('[data-output=photograph]').click()")
    session.wait("document.getElementById('status').textContent.includes('<img')")
    assert session.run("document.querySelectorAll('img').length") == 1


def test_hands_turn_move_and_zoom_and_bring_back(session, torus):
    shown(session, torus)
    start = session.picture(PICTURE)
    home, aside = middle(session), middle(session, (60, 25))
    for begin, end, button in ((home, aside, "left"), (home, aside, "right")):
        session.drag(begin, end, button)
        assert difference(session.picture(PICTURE), start) > 10
        session.drag(end, begin, button)
        assert difference(session.picture(PICTURE), start) < 2
    session.touch([home, aside])
    assert difference(session.picture(PICTURE), start) > 10
    session.key("0")
    assert difference(session.picture(PICTURE), start) == 0
    wide = [middle(session, (-60, 0)), middle(session, (60, 0))]
    session.touch([home, wide[0]], [middle(session, (10, 0)), wide[1]])
    closer = session.picture(PICTURE)
    assert (closer != 255).any(-1).sum() > 1.3 * (start != 255).any(-1).sum()
    for key in ("0", "ArrowLeft", "-"):
        session.key(key)
    smaller = session.picture(PICTURE)
    assert (smaller != 255).any(-1).sum() < 0.95 * (start != 255).any(-1).sum()
    assert session.complaints() == []


def test_buttons_show_other_outputs_and_say_which_is_on(session, torus):
    shown(session, torus)
    seen = {}
    for name in session.run("[...document.querySelectorAll('[data-output]')]"
                            ".map(button => button.dataset.output)"):
        session.run(f"document.querySelector('[data-output={name}]').click()")
        assert session.run("[...document.querySelectorAll('[data-output][aria-pressed=true]')]"
                           ".map(button => button.dataset.output)") == [name]
        seen[name] = session.picture(PICTURE)
    assert len(seen) == 6
    for name, picture in seen.items():
        assert all(difference(picture, other) > 5 for key, other in seen.items() if key != name)
    photographs = session.run("page.viewer.scene.description.views.length")
    assert session.run("document.getElementById('stand').options.length") == photographs + 1


def test_a_click_on_a_source_camera_stands_in_it(session, torus):
    shown(session, torus, width=440)
    session.run("document.getElementById('cameras').click()")
    session.picture(PICTURE)
    place = session.run("""(() => { const v = page.viewer, box = v.canvas.getBoundingClientRect();
        const plane = imagePlane(v.scene.description.views[4], v.scene.description.resolution,
                                 FRUSTUM_LENGTH);
        const centre = scaled(plane.reduce((sum, {corner}) => add(sum, corner), [0, 0, 0]), 0.25);
        const [x, y] = projected(v.clip, centre);
        return [box.x + (x + 1) / 2 * box.width, box.y + (1 - y) / 2 * box.height]; })()""")
    session.drag(place, place)
    assert session.run("document.getElementById('stand').value") == "4"
    eyes = session.run("[page.viewer.camera.eye, page.viewer.sources[4].camera.eye]")
    assert eyes[0] == eyes[1]


def test_the_canvas_follows_the_window(session, torus):
    sizes = []
    for width in (240, 300):
        shown(session, torus, width=width)
        session.picture(PICTURE)
        sizes.append(session.run("[page.viewer.canvas.width, page.viewer.canvas.height, "
                                 "document.documentElement.scrollWidth]"))
    assert sizes[1][0] - sizes[0][0] == 60 and [size[2] for size in sizes] == [240, 300]
    assert all(abs(width / height - 4 / 3) < 0.02 for width, height, _ in sizes)


def test_without_networks_or_webgl_the_page_says_so(session, torus):
    shown(session, torus)
    full = session.picture(PICTURE)
    shown(session, f"{torus}?fallback")
    assert 3 < difference(session.picture(PICTURE), full) < 80
    assert "without the networks" in session.run("document.getElementById('status').textContent")
    shown(session, f"{torus}?no_webgl2")
    assert "no WebGL2" in session.run("document.getElementById('status').textContent")
    assert session.run("getComputedStyle(document.getElementById('poster')).display") != "none"
    assert session.complaints() == []


def test_a_missing_part_is_named(session, scenes, tmp_path):
    text = write_page(scenes["sphere"], tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace('part("mesh"', '(() => 0)("x"'))
    shown(session, (tmp_path / "page.html").as_uri())
    assert "mesh is missing" in session.run("document.getElementById('status').textContent")


def test_motion_begins_by_itself_only_where_it_is_welcome(session, sphere):
    for is_reduced in (True, False):
        shown(session, sphere, is_reduced=is_reduced)
        assert session.run("Boolean(page.viewer.swinging)") is not is_reduced


def test_memory_stays_the_same_over_500_frames(session, sphere):
    """Of the script and of the card; a tenth of a MB is room for counters and compiled code."""
    shown(session, sphere)
    session.run("""page.viewer.frame = () => 0; page.viewer.paintAt(16, 12, true);
        for (const name of ['Texture', 'Buffer', 'Framebuffer', 'Renderbuffer'])
            page.viewer.gl[`create${name}`] = () => { throw new Error(name); }""")
    used = []
    for number in (50, 500):
        session.run(f"""for (let i = 0; i < {number}; i++) {{ page.viewer.orbit(0.01, 0);
            page.viewer.paintAt(16, 12, true); }} page.viewer.gl.finish()""")
        used.append(session.used_heap())
    assert used[1] - used[0] < 100_000


def test_a_lost_card_comes_back(session, sphere):
    shown(session, sphere)
    before = session.picture(PICTURE)
    session.run("window.card = page.viewer.gl.getExtension('WEBGL_lose_context');"
                "card.loseContext(); setTimeout(() => card.restoreContext(), 50)")
    session.wait("page.viewer.gl.isContextLost()")
    session.wait("!page.viewer.gl.isContextLost() && !page.viewer.isChanged")
    assert difference(session.picture(PICTURE), before) == 0


def test_a_report_begins_with_the_object(session, scenes, tmp_path):
    """Its buttons are there only when the object is shown; nothing else of a report runs scripts.
    """
    report = write_report(tmp_path, title="a run", metrics={"mean": {}, "views": {}}, curve=[],
                          pictures=[], video=None, config_text="", notes=[],
                          viewer=framed_page(scenes["torus"]))
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("</body>", "<script>document.title = 1</script></body>"))
    session.open(report.as_uri(), width=400, height=900)
    blue = (37, 99, 201)                                   # of the button that is on

    def is_shown() -> bool:
        session.screenshot(tmp_path / "report.png")
        return (iio.imread(tmp_path / "report.png")[..., :3] == blue).all(-1).sum() > 200

    until(is_shown)
    assert session.run("document.title") == "a run"
    assert session.requests() == [report.as_uri()]
    assert [line for line in session.complaints() if "inline script" not in line] == []


def test_the_command_writes_pages_and_keeps_other_things(scenes, tmp_path, capsys):
    call("export_web", scenes["sphere"], tmp_path / "a.html")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'a.html'}: open it")
    with pytest.raises(WriteError, match="--overwrite 1"):
        call("export_web", scenes["sphere"], tmp_path / "a.html")
    call("export_web", scenes["sphere"], tmp_path / "a.html", "--overwrite", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(WriteError, match="something else"):
        call("export_web", scenes["sphere"], tmp_path / "other", "--overwrite", 1)
