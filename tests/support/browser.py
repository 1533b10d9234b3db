"""A headless Chromium that tells what a page asks for: DevTools over a pipe, so no port is opened.

No request leaves the machine: every name but OUTSIDE is unknown to the browser, and OUTSIDE is a
server of the test on the loopback address.
"""
from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "google-chrome", "chromium-browser")
OUTSIDE = "outside.example"
TIMEOUT = 60.0                     # seconds for anything
#: Those of the browser's own, which no page asks for, are switched off.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-default-apps", "--disable-extensions", "--remote-debugging-pipe",
         "--force-color-profile=srgb", "--hide-scrollbars")
#: Runs in the page before anything of it: what its own policy refuses.
LISTENER = """window.refused = []; document.addEventListener('securitypolicyviolation',
    event => window.refused.push(event.violatedDirective + ' ' + event.blockedURI), true);"""
#: What is to be seen; a video has its first frame a little after the page is there.
SHOWN = """(async () => {
    const videos = [...document.querySelectorAll('video')], until = Date.now() + 10000;
    while (videos.some(video => video.readyState < 2 && !video.error) && Date.now() < until)
        await new Promise(resolve => setTimeout(resolve, 50));
    const root = document.documentElement;
    return {pictures: [...document.images].map(image => image.naturalWidth),
            videos: videos.map(video => video.readyState < 2 ? 0 : video.videoWidth),
            margin: getComputedStyle(document.body).maxWidth,
            width: root.scrollWidth, room: root.clientWidth, refused: window.refused}})()"""


def find_browser() -> str | None:
    """The program, or None where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Visit:
    """What a page did.

    Attributes:
        requests: addresses that were asked for, data: left out, whether they were let through.
        sent: addresses of the network that pages asked for, by the browser's own log.
        pictures, videos: width of each in pixels, 0 for one that is not shown.
        refused: directive and address of what the page's policy forbade.
        max_width: of the body by the page's style.
        is_too_wide: the page scrolls sideways.
    """

    requests: list[str]
    sent: list[str]
    pictures: list[int]
    videos: list[int]
    refused: list[str]
    max_width: str
    is_too_wide: bool


def visit(address: str, folder: Path, *, outside_port: int = 9, width: int = 1000,
          screenshot: Path | None = None) -> Visit:
    """Open a page in a browser of its own.

    Args:
        address: file: or http: address.
        folder: for the browser's files.
        outside_port: of the server that is OUTSIDE.
        width: of the window.
        screenshot: PNG of the whole page.
    """
    log = folder / "net.json"
    with Devtools(folder, log, outside_port) as devtools:
        target = devtools.call("Target.createTarget", url="about:blank")["targetId"]
        session = devtools.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        devtools.session = session
        for domain in ("Page", "Network", "Runtime"):
            devtools.call(f"{domain}.enable")
        devtools.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                      deviceScaleFactor=1, mobile=False)
        devtools.call("Page.addScriptToEvaluateOnNewDocument", source=LISTENER)
        devtools.call("Page.navigate", url=address)
        devtools.wait_for("Page.loadEventFired")
        found = devtools.call("Runtime.evaluate", expression=SHOWN, awaitPromise=True,
                              returnByValue=True)["result"]["value"]
        if screenshot:
            picture = devtools.call("Page.captureScreenshot", captureBeyondViewport=True)
            screenshot.write_bytes(base64.b64decode(picture["data"]))
        asked = [event["params"]["request"]["url"] for event in devtools.events
                 if event["method"] == "Network.requestWillBeSent"]
    return Visit([url for url in asked if not url.startswith("data:")], _sent(log),
                 found["pictures"], found["videos"], found["refused"], found["margin"],
                 found["width"] > found["room"])


def _sent(log: Path) -> list[str]:
    """Addresses of the network that pages asked for, in a browser's net log.

    What the browser wants for itself (its time, its updates) has no origin, and is left out.
    """
    content = json.loads(log.read_text(encoding="utf-8"))
    starting = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event.get("params", {}) for event in content["events"] if event["type"] == starting]
    return [job["url"] for job in jobs
            if "url" in job and job.get("initiator") != "not an origin"]


class Devtools:
    """The browser's process and the protocol with it: JSON with a zero byte after each."""

    def __init__(self, folder: Path, log: Path, outside_port: int,
                 flags: tuple[str, ...] = FLAGS) -> None:
        rules = f"MAP {OUTSIDE} 127.0.0.1:{outside_port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        self.command = [find_browser(), *flags, f"--user-data-dir={folder / 'browser'}",
                        f"--log-net-log={log}", "--net-log-capture-mode=Everything",
                        f"--host-resolver-rules={rules}", "about:blank"]
        self.environment = os.environ | {"HOME": str(folder)}
        self.session, self.number, self.rest = "", 0, b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Devtools:
        from_us, self.write_end = os.pipe()
        self.read_end, to_us = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (from_us, to_us)]

        def hand_over() -> None:
            for end, number in zip(theirs, (3, 4), strict=True):
                os.dup2(end, number)

        self.process = subprocess.Popen(self.command, env=self.environment, pass_fds=(3, 4),
                                        preexec_fn=hand_over, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (from_us, to_us, *theirs):
            os.close(end)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.session = ""
            self._send("Browser.close")
            self.process.wait(TIMEOUT)                 # the log is whole only then
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self.write_end)
            os.close(self.read_end)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The result of a command."""
        number = self._send(method, **params)
        while (message := self._receive()).get("id") != number:
            self.events.append(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    def wait_for(self, method: str) -> None:
        """Until an event came."""
        while all(event.get("method") != method for event in self.events):
            self.events.append(self._receive())

    def _send(self, method: str, **params: object) -> int:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        return self.number

    def _receive(self) -> dict[str, Any]:
        """The next message."""
        until = time.monotonic() + TIMEOUT
        while b"\0" not in self.rest:
            if not select.select([self.read_end], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self.read_end, 1 << 16)
            if not part:
                raise EOFError("the browser ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)
