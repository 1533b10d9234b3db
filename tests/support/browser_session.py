"""A browser that stays open for several pages: what they draw, print and ask for, and hands."""
from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from support.browser import FLAGS, Devtools

#: Pictures are drawn by the processor where there is no graphics card.
#: Mesa's renderer cuts pixels into 256 parts as graphics cards do, Chromium's own into 16.
WEBGL_FLAGS = tuple(flag for flag in FLAGS if flag != "--disable-gpu") + (
    "--use-angle=gl-egl", "--ignore-gpu-blocklist")
LEFT, RIGHT = 1, 2


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Session:
    """One tab in a browser of its own.

    Args:
        folder: for the browser's files.
    """

    def __init__(self, folder: Path) -> None:
        self.devtools = Devtools(folder, folder / "net.json", 9, WEBGL_FLAGS)

    def __enter__(self) -> Session:
        call = self.devtools.__enter__().call
        target = call("Target.createTarget", url="about:blank")["targetId"]
        self.devtools.session = call("Target.attachToTarget", targetId=target,
                                     flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self.devtools.__exit__(*error)

    def has_webgl2(self) -> bool:
        """Whether a page gets a WebGL2 context."""
        return self.run("Boolean(document.createElement('canvas').getContext('webgl2'))")

    def used_heap(self) -> float:
        """Return the bytes that the page's objects take after what is not used was freed."""
        self.devtools.call("HeapProfiler.collectGarbage")
        return self.devtools.call("Runtime.getHeapUsage")["usedSize"]

    def open(self, address: str, *, width: int = 800, height: int = 900,
             is_dark: bool = False, is_reduced: bool = True) -> None:
        """Open a page in a window of this size; requests and complaints begin anew."""
        call = self.devtools.call
        call("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=False)
        features = {"prefers-color-scheme": "dark" if is_dark else "light",
                    "prefers-reduced-motion": "reduce" if is_reduced else "no-preference"}
        call("Emulation.setEmulatedMedia", features=[
            {"name": name, "value": value} for name, value in features.items()])
        self.devtools.events.clear()
        call("Page.navigate", url=address)
        self.devtools.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """Return the value of JavaScript, awaited."""
        found = self.devtools.call("Runtime.evaluate", expression=script, awaitPromise=True,
                                   returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"]["exception"].get("description", found))
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 10) -> None:
        """Until a JavaScript condition holds."""
        self.run(f"""new Promise((resolve, reject) => {{ const begin = Date.now();
            (function look() {{ if ({condition}) resolve();
            else if (Date.now() - begin > {1000 * seconds})
                reject(new Error(document.body.innerText));
            else setTimeout(look, 20); }})(); }})""")

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, without data: and blob:."""
        asked = [event["params"]["request"]["url"] for event in self.devtools.events
                 if event["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """Return errors and warnings of the page: exceptions, its console, the browser's log."""
        self.run("0")
        found = []
        for event in self.devtools.events:
            method, params = event["method"], event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"].get("exception", params)))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
        return found

    def picture(self, script: str) -> np.ndarray:
        """Return (H, W, 3) uint8 of JavaScript that ends in the address of a PNG."""
        return iio.imread(base64.b64decode(self.run(script).split(",")[1]),
                          extension=".png")[..., :3]

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        shot = self.devtools.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def drag(self, begin: tuple[float, float], end: tuple[float, float],
             button: str = "left") -> None:
        """Press, move in four steps, release; places are pixels of the window."""
        mouse = {"button": button, "clickCount": 1}
        self._mouse("mousePressed", begin, **mouse)
        for step in (0.25, 0.5, 0.75, 1.0):
            at = tuple(a + step * (b - a) for a, b in zip(begin, end, strict=True))
            self._mouse("mouseMoved", at, buttons=LEFT if button == "left" else RIGHT, **mouse)
        self._mouse("mouseReleased", end, **mouse)

    def _mouse(self, kind: str, at: tuple[float, ...], **more: object) -> None:
        self.devtools.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

    def touch(self, *paths: list[tuple[float, float]]) -> None:
        """Move a finger along each path, all at once; paths have as many places."""
        for number, places in enumerate(zip(*paths, strict=True)):
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
            self.devtools.call("Input.dispatchTouchEvent", touchPoints=points,
                               type="touchMove" if number else "touchStart")
        self.devtools.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str) -> None:
        """Press a key; a name as in `KeyboardEvent.key`."""
        for kind in ("keyDown", "keyUp"):
            self.devtools.call("Input.dispatchKeyEvent", type=kind, key=key)
