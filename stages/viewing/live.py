"""The live viewer's server and windows; the only module that knows viser.

A window draws in a thread of its own: quick and small while its camera moves, whole and with full
quality when it stands still. All windows share the subject, which draws one picture at a time.
"""
from __future__ import annotations

import contextlib
import errno
import html
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.viewing.outputs import OUTPUTS, draw_output, view_colours
from stages.viewing.recording import VIDEO_FILE, Recording, record
from stages.viewing.subjects import LockedSubject, Subject, newest_checkpoint, open_subject
from stages.viewing.training import training_panel
from stages.viewing.windows import (
    Pose,
    aside,
    fitted_size,
    nearest_source,
    padded,
    pose_of,
    standing_in,
    window_camera,
)
from utils.config.tool_sections import ViewConfig
from utils.errors import MissingExtraError, UserError
from utils.files.text import visible
from utils.results.pictures import to_uint8

log = logging.getLogger(__name__)

INSTALL_COMMAND = "pip install viser"
#: Seconds without a move after which a window counts as still.
STILL_SECONDS = 0.25
#: Seconds between looks for a newer checkpoint.
FOLLOW_SECONDS = 5.0
#: Length of a frustum, object units, of so many; more are smaller. Rows of its thumbnail.
FRUSTUM_LENGTH, NUM_FRUSTUMS, THUMBNAIL_ROWS = 0.25, 12, 60
#: Where source cameras are looked at from: as far as one is, times this; radians about what is up.
ASIDE = (2.4, 0.35)
JPEG_QUALITY, PREVIEW_FPS = 80, 12.0
#: Depth of what is behind everything, object units.
FAR = 100.0
#: Pixels of a window's side below which nothing is drawn.
LEAST_WINDOW = 16
NO_SOURCE = "-"


def serve(view: ViewConfig) -> None:
    """Serve the live viewer until it is stopped.

    Raises:
        MissingExtraError: viser is not installed.
        UserError: nothing can be shown, or the port is in use.
    """
    viewer = LiveViewer(view)
    log.info("%s: http://%s:%d shows it; Ctrl-C ends", viewer.subject.name, view.host,
             viewer.server.get_port())
    viewer.follow()


class LiveViewer:
    """The server: the subject and its windows.

    Args:
        view: the flags.
    """

    def __init__(self, view: ViewConfig) -> None:
        try:
            import viser
        except ImportError as error:
            raise MissingExtraError(f"the live viewer needs viser ({error}); run "
                                    f"`{INSTALL_COMMAND}`") from error
        self.view = view
        self.seen = newest_checkpoint(view.input)
        self.subject: Subject = open_subject(view.input, view.student)
        self.lock = threading.Lock()
        self.windows: dict[int, Window] = {}
        try:
            self.server = viser.ViserServer(view.host, view.port, verbose=False,
                                            label=visible(Path(view.input).resolve().stem))
        except (OSError, SystemExit) as error:
            raise _port_error(view, error) from error
        if self.server.get_port() != view.port:            # the next free one was taken
            self.server.stop()
            raise _port_error(view, OSError(errno.EADDRINUSE, "address in use"))
        self.server.scene.set_up_direction(tuple(self.subject.sources.up.tolist()))
        self.server.gui.configure_theme(dark_mode=False, show_share_button=False)
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)

    def _connect(self, client: Any) -> None:
        """Open a window for a browser."""
        self.windows[client.client_id] = Window(self, client)

    def _disconnect(self, client: Any) -> None:
        """Forget the window of a browser that went away."""
        window = self.windows.pop(client.client_id, None)
        if window is not None:
            window.close()

    def follow(self) -> None:
        """Wait, and show newer checkpoints of the run as they come."""
        while True:
            time.sleep(FOLLOW_SECONDS)
            self.look_again()
            for window in list(self.windows.values()):
                if window.training is not None:
                    window.training.look()

    def look_again(self) -> bool:
        """Open the run anew if it has a newer checkpoint; returns whether it had."""
        newest = newest_checkpoint(self.view.input)
        if newest is None or newest == self.seen:
            return False
        try:
            subject = open_subject(self.view.input, self.view.student)
        except UserError as error:                         # half written, or no surface yet
            log.info("%s is not shown: %s", newest.name, error)
            return False
        with self.lock:
            self.subject, self.seen = subject, newest
        log.info("now showing %s", subject.name)
        for window in list(self.windows.values()):
            window.renew()
        return True

    def stop(self) -> None:
        """Close all windows and the server."""
        for window in list(self.windows.values()):
            window.close()
        self.server.stop()


class Window:
    """One browser: its panel, its camera and the thread that draws for it."""

    def __init__(self, viewer: LiveViewer, client: Any) -> None:
        self.viewer, self.client = viewer, client
        self.wake, self.is_gone, self.quick_time = threading.Event(), False, 0.0
        self.recording = Recording(fitted_size(viewer.subject.sources.cameras.resolution,
                                               (viewer.view.size, viewer.view.size)))
        self.frustums: list[Any] = []
        self._make_panel()
        self._make_frustums()
        middle = torch.nn.functional.normalize(
            viewer.subject.sources.cameras.forward_obj.mean(0), dim=0)
        self.stand(int((viewer.subject.sources.cameras.forward_obj @ middle).argmax()))
        client.camera.on_update(lambda _: self.wake.set())
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Let the thread end."""
        self.is_gone = True
        self.wake.set()

    def renew(self) -> None:
        """Draw anew, as the subject has changed."""
        self.status.value = visible(self.viewer.subject.name)
        self._show_training()
        self.wake.set()

    def _show_training(self) -> None:
        """Draw the curves of the run."""
        if self.training is not None:
            self.training.show(self.viewer.subject.curve)

    # panel ------------------------------------------------------------------------------------

    def _make_panel(self) -> None:
        """Make the controls; names are values of lists and fields, where nothing is markup."""
        gui, names = self.client.gui, self.viewer.subject.sources.names
        self.status = gui.add_text("Shown", visible(self.viewer.subject.name), disabled=True)
        self.output = gui.add_dropdown("Output", OUTPUTS)
        rows = self.viewer.view.moving_size
        self.rows = gui.add_slider("Rows while moving", 60, max(480, rows), 1, rows)
        self.time = gui.add_text("Last picture", "", disabled=True)
        self.training = training_panel(gui, self.viewer.view.input, self._guarded)
        self._show_training()
        with gui.add_folder("Source cameras"):
            self.shows_cameras = gui.add_checkbox("Show", False)
            self.standing = gui.add_dropdown("Stand in", (NO_SOURCE, *(
                f"{number}: {visible(name)}" for number, name in enumerate(names))))
        with gui.add_folder("Path"):
            self.num_keyframes = gui.add_text("Keyframes", "0", disabled=True)
            self.seconds = gui.add_slider("Seconds", 1, 30, 1, 5)
            actions = {"Add keyframe": self.add_keyframe, "Remove the last": self.remove_keyframe,
                       "Preview": self.preview, "Save": self.save, "Render video": self.render}
            for label, act in actions.items():
                gui.add_button(label).on_click(self._guarded(act))
            upload = gui.add_upload_button("Load", mime_type="application/json")
            upload.on_upload(self._guarded(lambda: self.load(upload.value.content)))
            self.progress = gui.add_progress_bar(0, visible=False)
        self.output.on_update(lambda _: self.wake.set())
        self.shows_cameras.on_update(lambda _: self._show_cameras())
        self.standing.on_update(lambda _: self._stand_in_chosen())

    def _guarded(self, act: Callable[[], None]) -> Callable[[Any], None]:
        """Return a callback that shows what the user can fix as a notice."""
        def call(_: Any) -> None:
            try:
                act()
            except (UserError, ValueError) as error:
                self.notify("That did not work", str(error))
        return call

    def notify(self, title: str, text: str) -> None:
        """Show a notice in the window."""
        self.client.add_notification(title, html.escape(visible(text)), color="blue")

    # source cameras ---------------------------------------------------------------------------

    def _make_frustums(self) -> None:
        """Make a frustum with a thumbnail for each source view; a click stands in it."""
        sources = self.viewer.subject.sources
        colours = view_colours(len(sources))
        width, height = sources.cameras.resolution
        step = max(height // THUMBNAIL_ROWS, 1)
        length = FRUSTUM_LENGTH * min(1.0, (NUM_FRUSTUMS / len(sources)) ** 0.5)
        for number in range(len(sources)):
            pose = pose_of(sources.cameras[number])
            handle = self.client.scene.add_camera_frustum(
                f"/sources/{number}", pose.fov, width / height, scale=length,
                color=tuple(colours[number].tolist()), wxyz=pose.wxyz, position=pose.position,
                image=to_uint8(sources.photographs[number, :, ::step, ::step]), visible=False)
            handle.on_click(lambda _, number=number: self.stand(number))
            self.frustums.append(handle)

    def _show_cameras(self) -> None:
        """Show the frustums, from further away and aside; or hide them, and come back."""
        factor, turn = ASIDE if self.shows_cameras.value else (1 / ASIDE[0], -ASIDE[1])
        for handle in self.frustums:
            handle.visible = self.shows_cameras.value
        up = self.viewer.subject.sources.up.double().numpy()
        self.place(aside(self.pose, up, factor=factor, turn=turn))

    def _stand_in_chosen(self) -> None:
        """Stand in the source view of the list."""
        if self.standing.value != NO_SOURCE:
            self.stand(int(self.standing.value.split(":")[0]))

    def stand(self, number: int) -> None:
        """Stand in a source camera."""
        self.place(pose_of(self.viewer.subject.sources.cameras[number]))

    def place(self, pose: Pose) -> None:
        """Move the browser's camera; it looks at the point of its axis nearest the object."""
        to_object = window_camera(pose, (1, 1)).view[0, :3, :3].numpy().T
        forward, up = -to_object[:, 2], to_object[:, 1]
        distance = max(float(-pose.position @ forward), 0.1)
        camera = self.client.camera
        with self.client.atomic():
            camera.up_direction = up
            camera.position = pose.position
            camera.look_at = pose.position + distance * forward
            camera.fov = pose.fov
        self.wake.set()

    @property
    def pose(self) -> Pose:
        """Where the browser's camera is."""
        camera = self.client.camera
        return Pose(np.asarray(camera.position), np.asarray(camera.wxyz), float(camera.fov))

    # path -------------------------------------------------------------------------------------

    def add_keyframe(self) -> None:
        """Append the camera of this moment."""
        self.recording.poses.append(self.pose)
        self._count()

    def remove_keyframe(self) -> None:
        """Remove the last keyframe."""
        del self.recording.poses[-1:]
        self._count()

    def _count(self) -> None:
        self.num_keyframes.value = str(len(self.recording.poses))

    def _need_keyframes(self) -> None:
        if not self.recording.poses:
            raise UserError("there is no keyframe; add one")

    def preview(self) -> None:
        """Move the camera along the path."""
        self._need_keyframes()
        seconds = float(self.seconds.value)
        path = self.recording.path(seconds)
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds and not self.is_gone:
            self.place(pose_of(path[min(int(now / seconds * len(path)), len(path) - 1)]))
            time.sleep(1 / PREVIEW_FPS)

    def save(self) -> None:
        """Write the keyframes to the viewer's folder, for `--video_path`."""
        self._need_keyframes()
        self.notify("Path saved", str(self.recording.save(Path(self.viewer.view.output))))

    def load(self, content: bytes) -> None:
        """Take the keyframes of a file that the browser sent."""
        from tempfile import TemporaryDirectory
        with TemporaryDirectory() as folder:
            path = Path(folder) / "upload.json"
            path.write_bytes(content)
            self.recording.load(path)
        self._count()

    def render(self) -> None:
        """Render the path to a video in the viewer's folder."""
        self._need_keyframes()
        self.progress.visible = True
        file = Path(self.viewer.view.output) / VIDEO_FILE
        subject = LockedSubject(self.viewer.lock, lambda: self.viewer.subject)
        try:
            record(subject, self.recording.path(float(self.seconds.value)), file, self._progressed)
        finally:
            self.progress.visible = False
        self.notify("Video rendered", str(file))

    def _progressed(self, share: float) -> None:
        self.progress.value = 100 * share

    # pictures ---------------------------------------------------------------------------------

    def _run(self) -> None:
        """Draw whenever something has changed, until the browser goes away."""
        while not self.is_gone:
            self.wake.wait()
            self.wake.clear()
            if self.is_gone:
                return
            with contextlib.suppress(AssertionError):      # no camera was received yet
                self._draw(is_quick=True)
                if not self.wake.wait(STILL_SECONDS):
                    self._draw(is_quick=False)

    def _draw(self, *, is_quick: bool) -> None:
        """Draw one picture and send it; not while the browser lays its page out, or hides it."""
        camera = self.client.camera
        if min(camera.image_height, camera.image_width) < LEAST_WINDOW:
            return
        began = time.monotonic()
        image, depth = self.picture(is_quick=is_quick)
        if self.is_gone:
            return
        self.client.scene.set_background_image(
            image, "jpeg" if is_quick else "png", jpeg_quality=JPEG_QUALITY if is_quick else None,
            depth=depth)
        if is_quick:
            self.quick_time = time.monotonic() - began
        else:                                              # a text for each quick one would lag
            self.time.value = f"{1000 * (time.monotonic() - began):.0f} ms, while moving " \
                              f"{1000 * self.quick_time:.0f} ms"

    def picture(self, *, is_quick: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what the window shows, (H, W, 3) uint8, and its depth (H, W) in object units.

        None for the depth: nothing of the scene is behind it.
        """
        pose, sources, output = self.pose, self.viewer.subject.sources, self.output.value
        camera = self.client.camera
        rows = min(int(self.rows.value) if is_quick else self.viewer.view.size,
                   camera.image_height)
        size = max(round(rows * camera.aspect), 1), max(rows, 1)
        source = standing_in(pose, sources)
        if output == "photograph" and source is None:
            source = nearest_source(pose, sources)
        if source is None:
            target = window_camera(pose, size)
        else:                                              # off-centre, and of its own shape
            target = sources.cameras[source].resized(*fitted_size(sources.cameras.resolution, size))
        with self.viewer.lock:
            shown = self.viewer.subject.draw(target, is_quick=is_quick)
        photograph = None
        if source is not None and output in ("photograph", "error"):
            photograph = torch.nn.functional.interpolate(
                sources.photographs[source][None], target.resolution[::-1], mode="bilinear",
                antialias=True)[0]
        image = padded(draw_output(output, shown, photograph=photograph, camera=target), size)
        if source is not None or not self.shows_cameras.value:
            return image, None
        return image, torch.where(shown.hit_mask, shown.depth, FAR)[0].numpy()


def _port_error(view: ViewConfig, error: BaseException) -> UserError:
    """Return the error of a port that cannot be served."""
    return UserError(f"port {view.port} of {view.host} cannot be served ({error}); give another "
                     "--port, or end the program that uses it")
