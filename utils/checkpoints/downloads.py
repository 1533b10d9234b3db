"""Weights by name: a manifest of files, and fetching them.

A fetch goes on where an earlier one stopped, takes no more bytes than the manifest says, and a
file appears under its name only when its sum is right.
"""
from __future__ import annotations

import difflib
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

from tqdm import tqdm

from utils.errors import ConfigError, DownloadError, WriteError
from utils.files.limits import MAX_CONFIG_BYTES, read_json, short
from utils.paths import PROJECT_ROOT

log = logging.getLogger(__name__)

MANIFEST = PROJECT_ROOT / "checkpoints" / "manifest.json"
SCHEMES = ("http", "https", "file")
BLOCK = 1 << 16           # bytes read at once
MAX_ENTRY_BYTES = 1 << 40
TIMEOUT = 30.0            # seconds without a byte
SUFFIX = ".pth"           # may be left out when a file is asked for
_SUM = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w-][\w.-]{,99}")


@dataclass(frozen=True)
class Entry:
    """A file of the manifest.

    Attributes:
        name: of the file, no path.
        what: it is, for people.
        sha256: 64 hexadecimal digits.
        size: bytes.
        address: http, https or file address; or, for a file that ships with the project, its path
            from the manifest's folder; '' where none is known.
        command: that made it.
        licence: of the file.
    """

    name: str
    what: str
    sha256: str
    size: int
    address: str
    command: str
    licence: str

    def shipped_path(self, manifest: Path = MANIFEST) -> Path | None:
        """Where the file lies if it ships with the project, else None."""
        if not self.address or "://" in self.address:
            return None
        return (manifest.parent / self.address).resolve()


def read_manifest(path: Path = MANIFEST) -> dict[str, Entry]:
    """Entries by name.

    Raises:
        ConfigError: the file cannot be read, or an entry is not sound.
    """
    try:
        content = read_json(path, error=ConfigError, most=MAX_CONFIG_BYTES)
        entries = [Entry(**item) for item in content["files"]]
    except (ConfigError, KeyError, TypeError) as error:
        names = ", ".join(field.name for field in fields(Entry))
        raise ConfigError(f"{path}: not a manifest ({error}); need {{\"files\": [...]}} with "
                          f"{names} for each; restore it from the repository") from error
    for entry in entries:
        if not _is_sound(entry, path):
            raise ConfigError(f"{path}: the entry {short(entry.name)} is not sound: need a plain "
                              "file name, 64 hexadecimal digits, a size over 0 and an address or "
                              "a path inside the project")
    return {entry.name: entry for entry in entries}


def _is_sound(entry: Entry, manifest: Path) -> bool:
    """Whether an entry has what it needs, and leads to no file outside of the project."""
    if not all(isinstance(getattr(entry, field.name), int if field.name == "size" else str)
               for field in fields(Entry)):
        return False
    try:
        urlsplit(entry.address)
        shipped = entry.shipped_path(manifest)
        if shipped is not None:
            shipped.is_file()
    except (ValueError, OSError, RuntimeError):    # no address, or no path that there may be
        return False
    root = manifest.parent.resolve().parent
    return bool(_NAME.fullmatch(entry.name) and _SUM.fullmatch(entry.sha256)
                and 0 < entry.size <= MAX_ENTRY_BYTES
                and (shipped is None or shipped.is_relative_to(root)))


def find_entry(entries: dict[str, Entry], name: str) -> Entry:
    """The entry of a name; ConfigError for one that is not there, or that is a path."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is no plain name, need one of the manifest's without folders; "
                          "--list shows them, and --output DIR says where the file goes")
    found = entries.get(name) or entries.get(name + SUFFIX)
    if found is None:
        nearest = difflib.get_close_matches(name, entries, n=1, cutoff=0)
        hint = f"; the nearest is {nearest[0]}" if nearest else ""
        raise ConfigError(f"the manifest has no '{name}'{hint}; --list shows all")
    return found


def sha256_of(path: Path) -> str:
    """The sum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain(entry: Entry, *, output: Path | None = None, mirror: str = "",
           manifest: Path = MANIFEST) -> str:
    """Verify the file of an entry where it lies, or fetch it; says in a line what was done.

    Args:
        entry: of the manifest.
        output: folder that it goes to; None: the manifest's, or the file's own if it ships.
        mirror: address of a folder that is asked for the file instead of the entry's address.
        manifest: where the entry stands.
    Raises:
        DownloadError: it cannot be fetched, or its sum differs.
        WriteError: it cannot be written.
    """
    shipped = entry.shipped_path(manifest)
    target = (output or manifest.parent) / entry.name
    if shipped is not None and output is None:
        target = shipped
    if target.is_file() and sha256_of(target) == entry.sha256:
        what = "ships with the project, and its sum is right" if target == shipped else \
            "is there already, and its sum is right"
        return f"{target} {what}"
    address = _address_of(entry, shipped, mirror)
    if shipped == target and not mirror:
        found = "has another sum" if target.is_file() else "is missing"
        raise DownloadError(f"{target} ships with the project, but {found}; restore it with "
                            f"`git checkout -- {target.name}` in its folder, or give --mirror")
    return f"{fetch(entry, address, target)} fetched from {address}, and its sum is right"


def _address_of(entry: Entry, shipped: Path | None, mirror: str) -> str:
    """Where to fetch from."""
    address = f"{mirror.rstrip('/')}/{quote(entry.name)}" if mirror else entry.address
    if not mirror and shipped is not None:
        address = shipped.as_uri()
    if not address:
        raise DownloadError(f"no public address of {entry.name} is known; give --mirror ADDRESS "
                            "of a folder that has it, such as file:///home/me/weights")
    _check_scheme(address)
    return address


def _check_scheme(address: str) -> None:
    try:
        scheme = urlsplit(address).scheme
    except ValueError:                             # such as an open bracket
        scheme = ""
    if scheme not in SCHEMES:
        raise DownloadError(f"the address is '{address}', need one that begins with "
                            f"{', '.join(scheme + '://' for scheme in SCHEMES)}")


def fetch(entry: Entry, address: str, target: Path) -> Path:
    """Fetch a file; what an earlier fetch left of it is gone on with.

    Args:
        entry: size and sum that it must have.
        address: http, https or file.
        target: where it goes; what is there is replaced once the new file is whole and right.
    Raises:
        DownloadError: as `obtain`; a file that stopped short is kept for the next fetch, one of
            another size or sum is not.
        WriteError: the folder cannot be written.
    """
    _check_scheme(address)
    part = target.with_name(f".{target.name}.{entry.sha256[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        received = _receive(entry, address, part)
        if received < entry.size:
            raise DownloadError(f"{address}: the connection ended after {received} of {entry.size} "
                                "bytes; the same command goes on from there")
        found = sha256_of(part)
        if found != entry.sha256:
            part.unlink()
            raise DownloadError(f"{address}: what came has the sum {found}, needed {entry.sha256}; "
                                "it was not kept; try again, or another --mirror")
        os.replace(part, target)
    except OSError as error:
        raise WriteError(f"{target} cannot be written: {error.strerror or error}; make room, or "
                         "give another folder with --output") from error
    return target


def _receive(entry: Entry, address: str, part: Path) -> int:
    """Append to a partial file what it lacks; gives its size then."""
    have = part.stat().st_size if part.is_file() else 0
    if have > entry.size:
        have = 0
    if have == entry.size:
        return have
    with _opened(address, have) as (stream, have, length):
        if length is not None and have + length != entry.size:
            part.unlink(missing_ok=True)
            raise DownloadError(f"{address}: there are {have + length} bytes, the manifest says "
                                f"{entry.size}: another file or version; nothing was kept; try "
                                "another --mirror")
        with (part.open("r+b" if have else "wb") as file,
              tqdm(total=entry.size, initial=have, unit="B", unit_scale=True, desc=entry.name,
                   dynamic_ncols=True) as bar):
            file.seek(have)
            file.truncate()
            for block in _blocks(stream, address):
                have += len(block)
                if have > entry.size:
                    break
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    if have > entry.size:
        part.unlink()
        raise DownloadError(f"{address}: more than the {entry.size} bytes of the manifest came; "
                            "stopped, nothing was kept; try another --mirror")
    return have


def _blocks(stream: IO[bytes], address: str) -> Iterator[bytes]:
    """What a stream gives; a connection that breaks is the stream's end, and logged."""
    while True:
        try:
            block = stream.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            log.warning("%s: %s", address, error)
            return
        if not block:
            return
        yield block


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage,
                         newurl: str) -> urllib.request.Request | None:
        """The request that follows; DownloadError for another scheme."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise DownloadError(f"{req.full_url}: redirects to {newurl}, need http or https; try "
                                "another --mirror")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(address: str, start: int) -> Iterator[tuple[IO[bytes], int, int | None]]:
    """A stream of an address, at which byte it begins (0 where a server ignores the wish to
    begin at `start`), and how many bytes it has from there, if that is known."""
    try:
        found = _open_file(address, start) if urlsplit(address).scheme == "file" \
            else _open_web(address, start)
    except DownloadError:                          # from a redirect
        raise
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{address}: the server says {error.code} {error.reason}; check the "
                            "address, or give another --mirror") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DownloadError(f"{address} cannot be opened: {reason}; check the address and the "
                            "connection, or give another --mirror") from error
    with found[0]:
        yield found


def _open_file(address: str, start: int) -> tuple[IO[bytes], int, int | None]:
    """A local file, from a byte on."""
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise DownloadError(f"{address}: a file on another machine; need file:///PATH")
    path = Path(unquote(parts.path))
    size = path.stat().st_size
    start = start if start <= size else 0
    stream = path.open("rb")
    stream.seek(start)
    return stream, start, size - start


def _open_web(address: str, start: int) -> tuple[IO[bytes], int, int | None]:
    """A file of a server, from a byte on if the server can."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(address, headers=headers)
    try:
        response = urllib.request.build_opener(_WebRedirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:            # it has no such bytes
            return _open_web(address, 0)
        raise
    length = response.headers.get("Content-Length")
    length = int(length) if length is not None else None
    if response.status != 206:
        return response, 0, length
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        response.close()
        return _open_web(address, 0)
    return response, start, length


def describe(entries: dict[str, Entry], manifest: Path = MANIFEST) -> str:
    """The manifest as text: name, size, whether it is there, what it is."""
    lines = []
    for entry in entries.values():
        path = entry.shipped_path(manifest) or manifest.parent / entry.name
        where = "there" if path.is_file() else "not fetched" if entry.address else "no address"
        lines.append((entry.name, f"{entry.size / 1e6:.2f} MB", where, entry.what))
    widths = [max(len(line[i]) for line in lines) for i in range(3)] if lines else []
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)),
                                line[3]]) for line in lines)
