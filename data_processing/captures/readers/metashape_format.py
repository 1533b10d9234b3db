"""Reader of the cameras that Agisoft Metashape exports as XML, with the photographs beside it.

A camera's transform is camera to chunk with OpenCV axes. A calibration has one focal length f; cx
and cy count from the middle of the image, b1 is what fx has more, b2 the skew. Metashape's p1 and
p2 are OpenCV's p2 and p1. A fisheye is OpenCV's, without tangential terms.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from data_processing.captures.capture import (
    Capture,
    CapturedView,
    Lens,
    check_lens,
    make_capture,
    parse_numbers,
    rigid_from_rotation,
)
from data_processing.captures.paths import find_image
from data_processing.scenes.folder import check_rigid, whole_number
from utils.errors import SceneError
from utils.files.limits import MAX_JSON_BYTES, MAX_NAMED, read_text, short
from utils.geometry.cameras import OPENCV_TO_OPENGL

#: Where photographs are looked for; labels may lack their suffix.
IMAGE_FOLDERS = ("images", "image", "rgb", "undistorted", ".")
FRAME, FISHEYES = "frame", ("fisheye", "equidistant_fisheye")
#: A file begins so within this many characters.
HEAD = 4096
EXPORT = "export it again: File > Export > Export Cameras, Agisoft XML"


@dataclass(frozen=True)
class _Component:
    """A part of a chunk that was aligned on its own: scale, rotation and translation to the world.
    """

    scale: float
    rotation: np.ndarray
    translation: np.ndarray


def metashape_file(folder: Path) -> Path | None:
    """Return the folder's file of cameras, or None; raise SceneError for several."""
    found = []
    for path in sorted(folder.glob("*.xml")):
        try:
            head = path.open(encoding="utf-8-sig", errors="replace").read(HEAD)
        except OSError:
            continue
        if "<document" in head and "<chunk" in head:
            found.append(path)
    if len(found) > 1:
        raise SceneError(f"{folder}: {len(found)} files of Metashape ({found[0].name}, "
                         f"{found[1].name}), need one; move the others elsewhere")
    return found[0] if found else None


def read_metashape(folder: Path) -> Capture:
    """Read the cameras of a folder with Metashape's XML.

    Cameras that were not aligned, are switched off or have no photograph are left out and listed.
    Of several components, which share no world, the one with the most cameras is read.

    Raises:
        SceneError: the file is damaged or a lens has no form here; the message says where.
    """
    path = metashape_file(folder)
    if path is None:
        raise SceneError(f"{folder}: no XML file of Metashape's cameras, need one; "
                         f"{EXPORT}, into the folder that holds images/")
    chunk = _chunk(path)
    sensors = {sensor.get("id"): sensor for sensor in chunk.iterfind("sensors/sensor")}
    components = {part.get("id"): part for part in chunk.iterfind("components/component")}
    cameras = list(chunk.iterfind("cameras//camera"))
    chosen = _largest_component(cameras)
    world = _component(components.get(chosen, chunk), path)   # older files: of the chunk itself
    views, left_out = [], []
    for camera in cameras:
        label = camera.get("label", "")
        where = f"{path}: camera {label[:MAX_NAMED]}"
        reason = _left_out(camera, chosen)
        image = None if reason else _image(folder, label, where)
        if image is None:
            left_out.append(f"{label[:MAX_NAMED]}: {reason or 'no such photograph'}")
            continue
        lens = _lens(sensors.get(camera.get("sensor_id")), where)
        views.append(CapturedView(str(image.relative_to(folder)), image,
                                  _view_matrix(camera, world, where), lens))
    return make_capture(f"{path.name} (Metashape)", folder, views, left_out=tuple(left_out))


def _chunk(path: Path) -> Element:
    """Return the chunk of a file; raise SceneError where it is damaged or defines entities."""
    text = read_text(path, MAX_JSON_BYTES, error=SceneError)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SceneError(f"{path}: defines entities, need plain XML; {EXPORT}")
    try:
        chunk = ElementTree.fromstring(text).find("chunk")
    except (ElementTree.ParseError, RecursionError, ValueError) as problem:
        raise SceneError(f"{path}: not readable as XML ({problem}); {EXPORT}") from problem
    if chunk is None:
        raise SceneError(f"{path}: no chunk, need cameras; {EXPORT}")
    return chunk


def _left_out(camera: Element, component: str | None) -> str:
    """Return why a camera is not taken; '' where it is."""
    if camera.find("transform") is None:
        return "Metashape did not align it"
    if camera.get("enabled", "true").lower() in ("0", "false"):
        return "it is switched off"
    if camera.get("component_id") != component:
        return f"it belongs to another component than {component}, without a common world"
    return ""


def _largest_component(cameras: list[Element]) -> str | None:
    """Return the component of most aligned cameras."""
    ids = [camera.get("component_id") for camera in cameras if camera.find("transform") is not None]
    return max(ids, key=ids.count) if ids else None


def _component(part: Element, path: Path) -> _Component:
    """Return how a component lies in the world; as it is where the file does not say."""
    where = f"{path}: component"
    found = {"rotation": np.eye(3).ravel(), "translation": np.zeros(3), "scale": np.ones(1)}
    for name, plain in found.items():
        element = part.find(f"transform/{name}")
        if element is not None:
            found[name] = np.array(_numbers(element, len(plain), f"{where}, {name}"))
    if not found["scale"][0] > 0:
        raise SceneError(f"{where}: scale {found['scale'][0]:g}, need one over 0; {EXPORT}")
    return _Component(float(found["scale"][0]), found["rotation"].reshape(3, 3),
                      found["translation"])


def _numbers(element: Element, count: int, where: str) -> list[float]:
    """Return the numbers that an element holds."""
    return parse_numbers((element.text or "").split(), count, where)


def _image(folder: Path, label: str, where: str) -> Path | None:
    """Return the photograph of a label."""
    for name in IMAGE_FOLDERS:
        found = find_image(folder, f"{name}/{label}", where) if label else None
        if found is not None:
            return found
    return None


def _view_matrix(camera: Element, world: _Component, where: str) -> np.ndarray:
    """Return world to camera (4, 4) with OpenGL axes."""
    element = camera.find("transform")
    assert element is not None                       # _left_out
    to_chunk = check_rigid(np.reshape(_numbers(element, 16, f"{where}, transform"), (4, 4)), where,
                           is_to_world=True)
    to_world = check_rigid(rigid_from_rotation(
        world.rotation @ to_chunk[:3, :3],
        world.scale * world.rotation @ to_chunk[:3, 3] + world.translation), where)
    return OPENCV_TO_OPENGL.double().numpy() @ np.linalg.inv(to_world)


def _lens(sensor: Element | None, where: str) -> Lens:
    """Return the lens of a sensor: its adjusted calibration, else the initial one."""
    found = [] if sensor is None else sensor.findall("calibration")
    adjusted = [part for part in found if part.get("class", "adjusted") == "adjusted"]
    if not found:
        raise SceneError(f"{where}: its sensor has no calibration, need one; {EXPORT}")
    calibration = (adjusted or found)[0]
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None and sensor is not None \
        else resolution
    sides = [whole_number(resolution.get(key, "")) or 0 for key in ("width", "height")] \
        if resolution is not None else [0, 0]
    kind = calibration.get("type", FRAME)
    if kind not in (FRAME, *FISHEYES):
        raise SceneError(f"{where}: a sensor of type {short(kind)}, need frame or fisheye; "
                         "undistort the photographs: File > Export > Undistort Photos")
    value = {key: _numbers(part, 1, f"{where}, {key}")[0] if (part := calibration.find(key))
             is not None else 0.0 for key in ("f", "cx", "cy", "b1", "b2", "k1", "k2", "k3", "k4",
                                              "p1", "p2", "p3", "p4")}
    return check_lens(_lens_of(value, (sides[0], sides[1]), kind in FISHEYES, where), where)


def _lens_of(value: dict[str, float], size: tuple[int, int], is_fisheye: bool, where: str) -> Lens:
    """Return the lens of a calibration's numbers; raise SceneError where OpenCV has no such one."""
    unknown = [key for key in (("p1", "p2", "p3", "p4") if is_fisheye else ("k4", "p3", "p4"))
               if value[key]]
    if unknown:
        raise SceneError(f"{where}: {', '.join(unknown)} not 0, which OpenCV's lens does not have; "
                         "undistort the photographs (File > Export > Undistort Photos), or fix "
                         "these terms at 0 in Tools > Optimize Cameras")
    names = ("k1", "k2", "k3", "k4") if is_fisheye else ("k1", "k2", "p2", "p1", "k3")
    center = (size[0] / 2 + value["cx"] - 0.5, size[1] / 2 + value["cy"] - 0.5)
    return Lens(size, (value["f"] + value["b1"], value["f"]), center, value["b2"],
                tuple(value[name] for name in names), is_fisheye)
