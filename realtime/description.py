"""scene.json: what there is in an exported scene, checked value by value.

Versions: a greater one than VERSION is refused by name; an older one is brought up to date by
MIGRATIONS, one version after the other, before anything is checked.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from realtime.archive import MAX_BYTES, MAX_PART_BYTES, is_part_name
from realtime.maps import MAX_SIDE
from realtime.students import PRIORS
from utils.errors import ExportedSceneError
from utils.files.limits import MAX_PIXELS, short

FORMAT, VERSION = "neural-lumigraph-scene", 1
#: Version n to what brings a description of it to version n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
MAX_VIEWS, MAX_CHANNELS, MAX_HIDDEN, MAX_NAME = 256, 256, 1024, 200
AGGREGATION, DECODER = "mlp_sigmoid", "residual_convolutions"
SUM = "sha256"
#: Greatest size of coordinates, depths and features.
MAX_NUMBER = 1e6

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """Length in bytes and SHA-256, in hexadecimal digits, of a part."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Layer:
    """Where a layer's numbers lie in the file of weights, counted in numbers."""

    shape: tuple[int, ...]
    weight: int
    bias: int


@dataclass(frozen=True)
class ViewEntry:
    """A source view: its cameras' numbers and the names of its parts."""

    name: str
    intrinsics: tuple[float, float, float, float, float]       # fx, fy, cx, cy, skew
    object_to_camera: list[list[float]]
    photograph: str
    features: tuple[str, ...]
    depth: str
    depth_range: tuple[float, float]


@dataclass(frozen=True)
class Description:
    """The checked content of scene.json; docs/scene_format.md explains the keys."""

    name: str
    made_by: str
    resolution: tuple[int, int]
    background: Triple
    up: Triple
    depth_tolerance: float
    mesh: str
    poster: str
    weights: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    prior: str
    aggregation: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    views: tuple[ViewEntry, ...]
    parts: dict[str, Part]


class _Reader:
    """Takes checked values out of JSON; errors name the file and the key."""

    def __init__(self, where: str) -> None:
        self.where = where

    def wrong(self, key: str, value: Any, need: str) -> ExportedSceneError:
        """Return the error of a value."""
        return ExportedSceneError(f"{self.where}: {key} is {short(value)}, need {need}; export or "
                                  "copy the scene again")

    def get(self, table: Any, key: str, inside: str = "") -> Any:
        """Return an entry of a table that must have it."""
        if not isinstance(table, dict):
            raise self.wrong(inside or "the content", table, "a table")
        if key not in table:
            raise self.wrong(inside + key, None, "a value")
        return table[key]

    def number(self, value: Any, key: str, *, low: float = -MAX_NUMBER,
               high: float = MAX_NUMBER) -> float:
        """Return a finite number between bounds."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, value: Any, key: str, low: int, high: int) -> int:
        """Return a whole number between bounds."""
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, value, f"a whole number from {low:,} to {high:,}")
        return value

    def items(self, value: Any, key: str, low: int, high: int | None = None) -> list[Any]:
        """Return a list of `low` to `high` entries."""
        high = low if high is None else high
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise self.wrong(key, value, f"a list of {low} to {high}" if low < high else
                             f"a list of {low}")
        return value

    def numbers(self, value: Any, key: str, count: int, *, low: float = -MAX_NUMBER,
                high: float = MAX_NUMBER) -> tuple[float, ...]:
        """Return a list of `count` numbers."""
        return tuple(self.number(item, key, low=low, high=high)
                     for item in self.items(value, key, count))

    def text(self, value: Any, key: str) -> str:
        """Return a text that is not too long."""
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise self.wrong(key, value, f"text of at most {MAX_NAME} characters")
        return value

    def part(self, value: Any, key: str, parts: dict[str, Part]) -> str:
        """Return the name of a part that there is."""
        if not isinstance(value, str) or value not in parts:
            raise self.wrong(key, value, "the name of one of the parts")
        return value


def parse_description(data: bytes, where: str) -> Description:
    """Return the checked content of scene.json.

    Args:
        data: the file.
        where: what errors call it.
    Raises:
        ExportedSceneError: of another format, of a later version, changed since it was written, or
            with a value that is wrong.
    """
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ExportedSceneError(f"{where}: not readable as JSON ({problem}); export or copy the "
                                 "scene again") from problem
    current = migrated(content, where)
    _check_sum(content, where)
    return _checked(current, _Reader(where))


def sum_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of all that scene.json says but this sum, as hexadecimal digits.

    It is of the text without spaces, keys in their order, so that it is the same however the file
    is laid out.
    """
    rest = {key: value for key, value in content.items() if key != SUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_sum(content: dict[str, Any], where: str) -> None:
    """Raise ExportedSceneError where the content has a sum, and it is another one."""
    try:
        is_sound = SUM not in content or content[SUM] == sum_of(content)
    except RecursionError:
        is_sound = False
    if not is_sound:
        raise ExportedSceneError(f"{where}: its SHA-256 is not the one that it states: it is "
                                 "damaged or was changed; export or copy the scene again (who "
                                 f"changes it on purpose takes out the entry {SUM!r})")


def migrated(content: Any, where: str) -> dict[str, Any]:
    """Return the content of scene.json brought to version VERSION.

    Raises:
        ExportedSceneError: of another format, or of a later version.
    """
    read = _Reader(where)
    if read.get(content, "format") != FORMAT:
        raise read.wrong("format", content["format"], repr(FORMAT))
    version = read.whole(read.get(content, "version"), "version", 1, 10 ** 9)
    if version > VERSION:
        raise ExportedSceneError(f"{where}: made by a later version (format {version}, this one "
                                 f"reads up to {VERSION}); update the program, or export the scene "
                                 "with this one")
    for number in range(version, VERSION):
        content = MIGRATIONS[number](content)
    return content


def _checked(content: dict[str, Any], read: _Reader) -> Description:
    """Return the description of a table of this version."""
    parts = _parts(content, read)
    width, height = (read.whole(side, "resolution", 1, MAX_SIDE) for side in read.items(
        read.get(content, "resolution"), "resolution", 2))
    if width * height > MAX_PIXELS:
        raise read.wrong("resolution", [width, height], f"at most {MAX_PIXELS:,} pixels")
    features = read.get(content, "features")
    channels = read.whole(read.get(features, "channels", "features."), "features.channels", 1,
                          MAX_CHANNELS)
    low, high = (read.numbers(read.get(features, side, "features."), f"features.{side}", channels)
                 for side in ("low", "high"))
    views = read.items(read.get(content, "views"), "views", 1, MAX_VIEWS)
    up = read.numbers(read.get(content, "up"), "up", 3, low=-1.001, high=1.001)
    if abs(math.hypot(*up) - 1) > 1e-3:
        raise read.wrong("up", list(up), "a unit vector")
    background = read.numbers(read.get(content, "background"), "background", 3, low=0, high=1)
    mesh, poster, weights = (read.part(read.get(content, key), key, parts)
                             for key in ("mesh", "poster", "weights"))
    prior = read.get(read.get(content, "aggregation"), "prior", "aggregation.")
    if prior not in PRIORS:
        raise read.wrong("aggregation.prior", prior, f"one of {', '.join(PRIORS)}")
    return Description(
        read.text(read.get(content, "name"), "name"),
        read.text(content.get("made_by", ""), "made_by"), (width, height),
        cast(Triple, background), cast(Triple, up),
        read.number(read.get(content, "depth_tolerance"), "depth_tolerance", low=0),
        mesh, poster, weights, low, high, prior, _layers(content, "aggregation", read, channels),
        _layers(content, "decoder", read, channels),
        tuple(_view(view, f"views[{i}].", read, parts, channels) for i, view in enumerate(views)),
        parts)


def _parts(content: dict[str, Any], read: _Reader) -> dict[str, Part]:
    """Return the parts by name."""
    found: dict[str, Part] = {}
    for i, entry in enumerate(read.items(read.get(content, "parts"), "parts", 1, MAX_VIEWS * 90)):
        key = f"parts[{i}]."
        name = read.get(entry, "name", key)
        if not is_part_name(name) or name in found:
            raise read.wrong(f"{key}name", name, "a plain relative name, each once")
        digest = read.get(entry, "sha256", key)
        if not isinstance(digest, str) or len(digest) != 64:
            raise read.wrong(f"{key}sha256", digest, "64 hexadecimal digits")
        size = read.whole(read.get(entry, "bytes", key), f"{key}bytes", 0, MAX_PART_BYTES)
        found[name] = Part(size, digest.lower())
    total = sum(part.num_bytes for part in found.values())
    if total > MAX_BYTES:
        raise read.wrong("the sum of parts[].bytes", total, f"at most {MAX_BYTES:,}")
    return found


def _layers(content: dict[str, Any], key: str, read: _Reader, channels: int) -> tuple[Layer, ...]:
    """Return the two layers of a network, whose widths fit together."""
    network = read.get(content, key)
    is_decoder = key == "decoder"
    kind = read.get(network, "kind", f"{key}.")
    if kind != (DECODER if is_decoder else AGGREGATION):
        raise read.wrong(f"{key}.kind", kind, DECODER if is_decoder else AGGREGATION)
    sides = (3, 3) if is_decoder else ()
    found = []
    for i, layer in enumerate(read.items(read.get(network, "layers", f"{key}."), f"{key}.layers",
                                         2)):
        inside = f"{key}.layers[{i}]."
        shape = tuple(read.whole(side, f"{inside}shape", 1, MAX_HIDDEN) for side in read.items(
            read.get(layer, "shape", inside), f"{inside}shape", 2 + len(sides)))
        starts = (read.whole(read.get(layer, name, inside), inside + name, 0, MAX_PART_BYTES)
                  for name in ("weight", "bias"))
        activation = read.get(layer, "activation", inside)
        if activation != ("relu", "none")[i]:
            raise read.wrong(f"{inside}activation", activation, ("relu", "none")[i])
        found.append(Layer(shape, *starts))
    hidden = found[0].shape[0]
    needed = [(hidden, channels + (4 if is_decoder else 3), *sides),
              (3 if is_decoder else 1, hidden, *sides)]
    for i, (layer, shape) in enumerate(zip(found, needed, strict=True)):
        if layer.shape != shape:
            raise read.wrong(f"{key}.layers[{i}].shape", list(layer.shape), str(list(shape)))
    return tuple(found)


def _view(view: Any, key: str, read: _Reader, parts: dict[str, Part],
          channels: int) -> ViewEntry:
    """Return one source view."""
    numbers = read.get(view, "intrinsics", key)
    intrinsics = tuple(read.number(read.get(numbers, name, f"{key}intrinsics."),
                                   f"{key}intrinsics.{name}") for name in ("fx", "fy", "cx", "cy",
                                                                           "skew"))
    if min(intrinsics[:2]) <= 0:
        raise read.wrong(f"{key}intrinsics", numbers, "fx and fy greater than 0")
    matrix = [list(read.numbers(row, f"{key}object_to_camera", 4)) for row in read.items(
        read.get(view, "object_to_camera", key), f"{key}object_to_camera", 4)]
    if not _is_rigid(matrix):
        raise read.wrong(f"{key}object_to_camera", matrix, "a rotation and a shift")
    near, far = read.numbers(read.get(view, "depth_range", key), f"{key}depth_range", 2)
    images = read.items(read.get(view, "features", key), f"{key}features", -(-channels // 3))
    return ViewEntry(
        read.text(read.get(view, "name", key), f"{key}name"),
        cast(tuple[float, float, float, float, float], intrinsics), matrix,
        read.part(read.get(view, "photograph", key), f"{key}photograph", parts),
        tuple(read.part(image, f"{key}features", parts) for image in images),
        read.part(read.get(view, "depth", key), f"{key}depth", parts), (near, far))


def _is_rigid(matrix: list[list[float]]) -> bool:
    """Return whether the rows of a 4x4 matrix are a rotation and a shift, to float32 rounding."""
    rows = [row[:3] for row in matrix[:3]]
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            product = sum(a * b for a, b in zip(first, second))
            if abs(product - (i == j)) > 1e-3:
                return False
    return matrix[3] == [0, 0, 0, 1]
