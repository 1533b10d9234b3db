"""The parts of an exported scene: files of a folder, or entries of a zip archive.

Parts are read one at a time, never more of one than `scene.json` states, and no name leaves the
folder or the archive.
"""
from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from utils.command_names import typed
from utils.errors import ExportedSceneError, WriteError
from utils.files.atomic import whole_file, write_atomic
from utils.files.limits import MIB, short

DESCRIPTION = "scene.json"
MAX_DESCRIPTION_BYTES = 4 * MIB
MAX_PART_BYTES = 256 * MIB
MAX_BYTES = 2048 * MIB
#: Names of parts: pieces of plain letters, dots inside the last one.
PART_NAME = re.compile(r"(?:[A-Za-z0-9_]+/){0,4}[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
#: Entries that an archive may have: 256 views of up to 90 images.
MAX_ENTRIES = 32_768
#: Every entry has the same time, so that equal scenes are equal files.
ENTRY_TIME = (2000, 1, 1, 0, 0, 0)


class Parts(Protocol):
    """Where parts are read from."""

    def read(self, name: str, most: int) -> bytes:
        """Return a part of at most `most` bytes; raises ExportedSceneError."""
        ...


def is_part_name(name: object) -> bool:
    """Return whether this names a part, which stays inside its folder or archive."""
    return isinstance(name, str) and len(name) <= 200 and bool(PART_NAME.fullmatch(name))


@contextmanager
def open_parts(path: str | Path) -> Iterator[Parts]:
    """Yield the parts of a folder or zip archive.

    Raises:
        ExportedSceneError: neither of them, or a damaged archive.
    """
    path = Path(path)
    if path.is_dir():
        yield FolderParts(path)
        return
    if not path.is_file():
        raise ExportedSceneError(f"{path}: no such folder or file, need an exported scene; "
                                 f"{typed('export')} makes one of a finished run")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise ExportedSceneError(f"{path}: not a readable zip archive ({problem}), need an "
                                 "exported scene; export or copy it again") from problem
    with archive:
        yield ZipParts(path, archive)


class FolderParts:
    """Files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, most: int) -> bytes:
        """See `Parts.read`."""
        path = self.folder / name
        try:
            if not path.is_file():
                raise _missing(path)
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise ExportedSceneError(f"{path}: a link that leaves the folder; export or copy "
                                         "the scene again")
            with path.open("rb") as stream:
                return _bounded(stream.read(most + 1), most, str(path))
        except OSError as problem:
            raise ExportedSceneError(f"{path}: cannot be read ({problem}); check its "
                                     "permissions") from problem


class ZipParts:
    """Entries of a zip archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        names = [entry.filename for entry in archive.infolist()]
        wrong = next((name for name in names if not is_part_name(name)), None)
        if wrong is not None:
            raise ExportedSceneError(f"{path}: an entry named {short(wrong)}, which is no plain "
                                     "name inside the archive; do not unpack it, export the scene "
                                     "again")
        if len(names) != len(set(names)) or len(names) > MAX_ENTRIES:
            raise ExportedSceneError(f"{path}: {len(names)} entries, need at most {MAX_ENTRIES}, "
                                     "each once; export the scene again")

    def read(self, name: str, most: int) -> bytes:
        """See `Parts.read`."""
        where = f"{self.path}: {name}"
        try:
            entry = self.archive.getinfo(name)
        except KeyError:
            raise _missing(where) from None
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ExportedSceneError(f"{where}: compressed by method {entry.compress_type}, need "
                                     "it stored or deflated; export the scene again")
        try:
            with self.archive.open(entry) as stream:
                return _bounded(stream.read(most + 1), most, where)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError,
                NotImplementedError, ValueError) as problem:
            raise ExportedSceneError(f"{where}: a damaged entry ({problem}); export or copy the "
                                     "scene again") from problem


def _missing(where: object) -> ExportedSceneError:
    return ExportedSceneError(f"{where}: this part is missing; export or copy the scene again")


def _bounded(data: bytes, most: int, where: str) -> bytes:
    """Return the data; ExportedSceneError where it has more than `most` bytes."""
    if len(data) > most:
        raise ExportedSceneError(f"{where}: more than {most:,} bytes, need at most as many; export "
                                 "or copy the scene again")
    return data


def write_parts(path: str | Path, parts: Mapping[str, bytes], *, overwrite: bool = False) -> Path:
    """Write parts to a folder, or to one archive where the path ends in .zip; whole or not at all.

    Args:
        path: where the scene goes.
        parts: names to content, scene.json among them.
        overwrite: an earlier exported scene may be there.
    Returns:
        the path.
    Raises:
        WriteError: something is there already, or nothing can be written.
    """
    path = Path(path)
    check_free(path, overwrite)
    if path.suffix.lower() == ".zip":
        with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
            for name in sorted(parts, key=lambda name: (name != DESCRIPTION, name)):
                entry = zipfile.ZipInfo(name, ENTRY_TIME)
                entry.compress_type = (zipfile.ZIP_STORED if name.endswith(".webp")
                                       else zipfile.ZIP_DEFLATED)
                archive.writestr(entry, parts[name])
        return path
    _write_folder(path, parts)
    return path


def check_free(path: Path, overwrite: bool) -> None:
    """Raise WriteError where something else, or something that must stay, is at the path."""
    is_scene = path.is_file() or (path / DESCRIPTION).is_file()
    is_empty = path.is_dir() and not any(path.iterdir())
    if not path.exists() or is_empty:
        return
    if path.suffix.lower() == ".zip" and path.is_dir() or not is_scene:
        raise WriteError(f"{path}: something else than an exported scene is there; give another "
                         "--output")
    if not overwrite:
        raise WriteError(f"{path} exists already; give another --output, or --overwrite 1")


def _write_folder(path: Path, parts: Mapping[str, bytes]) -> None:
    """Write a new folder beside its place, then let it take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as problem:
        raise WriteError(f"{path}: cannot be written ({problem}); give another --output, or free "
                         "some space") from problem
    try:
        for name, data in parts.items():
            write_atomic(new / name, lambda stream, data=data: stream.write(data),
                         is_flushed=name == DESCRIPTION)
        new.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        new.rename(path)
    except OSError as problem:
        raise WriteError(f"{path}: cannot be written ({problem}); give another --output, or free "
                         "some space") from problem
    finally:
        shutil.rmtree(new, ignore_errors=True)
