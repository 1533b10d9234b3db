"""Paths that the files of a capture name, as files that exist inside its folder."""
from __future__ import annotations

import errno
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.errors import SceneError
from utils.files.limits import short

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Bytes of a file name that file systems accept, and of a whole path.
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096
#: How a path of Unix or Windows begins that does not count from the folder.
ABSOLUTE = re.compile(r"/|[A-Za-z]:/")


def inside_folder(folder: Path, text: Any, where: str) -> Path:
    """Return the path that a file names, which must lie inside the folder.

    Args:
        folder: that names are relative to.
        text: the name as the file has it.
        where: file and key, for the message.
    Raises:
        SceneError: not a path, or it leads out of the folder.
    """
    if not isinstance(text, str) or not text.strip() or not _is_path(text):
        raise SceneError(f"{where}: {short(text)}, need the path of a file relative to {folder}; "
                         "write the file again")
    path = folder / _relocated(folder, text.replace("\\", "/"))
    check_inside(path, folder, f"{where}: {short(text)}")
    return path


def _relocated(folder: Path, text: str) -> str:
    """Return an absolute path of another computer as the longest end of it that is in the folder.

    Where there is none, or the path is relative or leads into the folder, it is returned as it is.
    """
    if not ABSOLUTE.match(text) or (folder / text).is_relative_to(folder) and is_file(
            folder / text):
        return text
    parts = text.split("/")[1:]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if any(is_file(folder / (end + suffix)) for suffix in ("", *IMAGE_SUFFIXES)):
            return end
    return text


def check_inside(path: Path, folder: Path, what: str) -> None:
    """Raise SceneError where a path leads out of the folder, links in it followed.

    A folder directly below may itself be a link, as people keep images/ on another disk; what lies
    in it must then be inside the folder that it leads to.

    Args:
        path: that a file names; it need not exist.
        folder: that it must be in.
        what: file, key and text, for the message.
    """
    try:
        places = [folder.resolve()]
        if path.is_relative_to(folder) and len(path.relative_to(folder).parts) > 1:
            first = folder / path.relative_to(folder).parts[0]
            places += [first.resolve()] if first.is_symlink() and first.is_dir() else []
        is_inside = any(path.resolve().is_relative_to(place) for place in places)
        _follow(path)
    except (OSError, RuntimeError, ValueError) as problem:          # links in a circle
        raise SceneError(f"{what} cannot be followed ({problem}), need a file inside {folder}; "
                         "fix the path") from problem
    if not is_inside:
        raise SceneError(f"{what} leads out of {folder}, need a file inside it; move or copy "
                         "the images there and fix the path")


def _follow(path: Path) -> None:
    """Raise OSError where links lead in a circle; from Python 3.13 on `resolve` passes over it."""
    try:
        path.stat()
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise


def _is_path(text: str) -> bool:
    """Return whether the system accepts a file of this name."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return b"\0" not in data and len(data) <= MAX_PATH_BYTES and all(
        len(part) <= MAX_NAME_BYTES for part in re.split(rb"[/\\]", data))


def find_image(folder: Path, text: Any, where: str) -> Path | None:
    """Return the image that a file names, perhaps without its suffix; None where there is none.

    Args:
        folder, text, where: as `inside_folder` takes them.
    Raises:
        SceneError: as `inside_folder`.
    """
    inside_folder(folder, text, where)
    for suffix in ("", *IMAGE_SUFFIXES):
        path = find_file(folder, text + suffix, where)
        if path is not None:
            return path
    return None


def find_file(folder: Path, text: Any, where: str) -> Path | None:
    """Return the file that a file names, or None where there is none.

    Where there is none of exactly this name, the only one is taken whose name differs in capitals
    alone (IMG_1.JPG for img_1.jpg), or in how letters with accents are stored.

    Args:
        folder, text, where: as `inside_folder` takes them.
    Raises:
        SceneError: as `inside_folder`, of the file that was found too.
    """
    path = inside_folder(folder, text, where)
    if is_file(path):
        return path
    if not path.is_relative_to(folder):              # an absolute path in another spelling
        return None
    found = folder
    for part in path.relative_to(folder).parts:
        if not os.path.lexists(found / part):
            alike = _entries(found, _changed(found)).get(_plain(part), ())
            if len(alike) != 1:
                return None
            part = alike[0]
        found = found / part
    check_inside(found, folder, f"{where}: {short(text)}")
    return found if is_file(found) else None


def file_named(folder: Path, name: str) -> Path | None:
    """Return the file of a folder that has a name, or the only one that has it but for capitals."""
    if is_file(folder / name):
        return folder / name
    alike = _entries(folder, _changed(folder)).get(_plain(name), ())
    return folder / alike[0] if len(alike) == 1 and is_file(folder / alike[0]) else None


def _changed(folder: Path) -> int:
    """Return when a folder last changed; 0 where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _entries(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the names in a folder by their plain form; `changed` is part of the cache's key."""
    out: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            out.setdefault(_plain(name), []).append(name)
    except OSError:
        return {}
    return out


def _plain(name: str) -> str:
    """Return a name in small letters, accents in one form."""
    return unicodedata.normalize("NFC", name).casefold()


def is_file(path: Path) -> bool:
    """Return whether a file is there; False too where the system accepts no such path."""
    try:
        return path.is_file()
    except OSError:
        return False
