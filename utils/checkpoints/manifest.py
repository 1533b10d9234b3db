"""Weights by name: a manifest of files, what they must be, and checked copies of them.

Nothing here opens a connection: files ship with the project or lie in a folder of this machine. A
file appears under its name only when its size and sum are those of the manifest.
"""
from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from utils.errors import CheckpointError, ConfigError, DownloadError
from utils.files.atomic import whole_file, write_text_atomic
from utils.files.limits import MAX_CONFIG_BYTES, read_json, short
from utils.paths import PROJECT_ROOT

MANIFEST = PROJECT_ROOT / "checkpoints" / "manifest.json"
BLOCK = 1 << 16           # bytes read at once
MAX_ENTRY_BYTES = 1 << 40
SUFFIX = ".pth"           # may be left out when a file is asked for
_SUM = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w-][\w.-]{,99}")


@dataclass(frozen=True)
class Entry:
    """A file of the manifest.

    Attributes:
        name: of the file, no path.
        what: it is, for people.
        sha256: 64 hexadecimal digits; None: nobody has published it.
        size: bytes; None, as the sum: not known.
        address: for a file that ships with the project, its path from the manifest's folder; else
            a file address (file:///PATH), or '' where none is known.
        command: that made it.
        licence: of the file.
        source: where people get it, if it does not ship with the project.
    """

    name: str
    what: str
    sha256: str | None
    size: int | None
    address: str
    command: str
    licence: str
    source: str = ""

    @property
    def is_known(self) -> bool:
        """Whether there are a size and a sum to compare a file with."""
        return self.sha256 is not None

    def shipped_path(self, manifest: Path = MANIFEST) -> Path | None:
        """Return where the file lies if it ships with the project, else None."""
        if not self.address or "://" in self.address:
            return None
        return (manifest.parent / self.address).resolve()


def read_manifest(path: Path = MANIFEST) -> dict[str, Entry]:
    """Return the entries of a manifest by name.

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
                              "a path inside the project; or null, null, no address and a source")
    return {entry.name: entry for entry in entries}


def _is_sound(entry: Entry, manifest: Path) -> bool:
    """Return whether an entry has what it needs, and leads to no file outside of the project."""
    size, digest = entry.size, entry.sha256
    texts = [getattr(entry, field.name) for field in fields(Entry)
             if field.name not in ("size", "sha256")]
    if not (all(isinstance(text, str) for text in texts) and _NAME.fullmatch(entry.name)):
        return False
    if size is None or digest is None:             # of others, who publish neither
        return size is digest and bool(entry.source) and not entry.address
    if not (isinstance(size, int) and isinstance(digest, str)):
        return False
    try:
        urlsplit(entry.address)
        shipped = entry.shipped_path(manifest)
        if shipped is not None:
            shipped.is_file()
    except (ValueError, OSError, RuntimeError):    # no address, or no path that there may be
        return False
    root = manifest.parent.resolve().parent
    return bool(_SUM.fullmatch(digest) and 0 < size <= MAX_ENTRY_BYTES
                and (shipped is None or shipped.is_relative_to(root)))


def find_entry(entries: dict[str, Entry], name: str) -> Entry:
    """Return the entry of a name; ConfigError for one that is not there, or that is a path."""
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
    """Return the SHA-256 sum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shipped(path: Path, found: str, manifest: Path = MANIFEST) -> None:
    """Raise CheckpointError where a file that ships with the project has another sum.

    Args:
        path: of a file, anywhere.
        found: its SHA-256 sum.
        manifest: that lists what ships.
    """
    entry = _shipped_entry(path, manifest)
    if entry is not None and found != entry.sha256:
        raise CheckpointError(f"checkpoint {path}: it ships with the project with the sum "
                              f"{entry.sha256}, found {found}; restore it with `git checkout -- "
                              f"{path.name}` in its folder, or keep your own under another name")


def update_sum(path: Path, manifest: Path = MANIFEST) -> bool:
    """Write size and sum of a shipped file that was made anew into the manifest.

    Returns:
        Whether the manifest lists the file.
    """
    entry = _shipped_entry(path, manifest)
    if entry is None:
        return False
    entries = read_manifest(manifest)
    entries[entry.name] = replace(entry, size=path.stat().st_size, sha256=sha256_of(path))
    content = {"files": [{key: value for key, value in asdict(one).items()
                          if key != "source" or value} for one in entries.values()]}
    write_text_atomic(manifest, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return True


def _shipped_entry(path: Path, manifest: Path) -> Entry | None:
    """Return the entry of a file that lies where the manifest says that it ships, else None."""
    place = path.resolve()
    if not place.is_relative_to(manifest.parent.resolve().parent) or not manifest.is_file():
        return None
    return next((entry for entry in read_manifest(manifest).values()
                 if entry.shipped_path(manifest) == place), None)


def obtain(entry: Entry, *, output: Path | None = None, mirror: str = "",
           manifest: Path = MANIFEST, check: Callable[[Path], object] = Path.stat) -> str:
    """Verify the file of an entry where it lies, or copy it; says in a line what was done.

    Args:
        entry: of the manifest.
        output: folder that it goes to; None: the manifest's, or the file's own if it ships.
        mirror: file address of a folder that has the file, instead of the entry's address.
        manifest: where the entry stands.
        check: raises an error where a file whose sum nobody knows is not what it should be.
    Raises:
        DownloadError: it cannot be read, its size or sum differs, or it does not ship with the
            project and no mirror is given.
        WriteError: it cannot be written.
    """
    shipped = entry.shipped_path(manifest)
    target = (output or manifest.parent) / entry.name
    if not entry.is_known:
        return _obtain_unknown(entry, target, mirror, check)
    if shipped is not None and output is None:
        target = shipped
    if target.is_file() and sha256_of(target) == entry.sha256:
        what = "ships with the project, and its sum is right" if target == shipped else \
            "is there already, and its sum is right"
        return f"{target} {what}"
    if shipped == target and not mirror:
        found = "has another sum" if target.is_file() else "is missing"
        raise DownloadError(f"{target} ships with the project, but {found}; restore it with "
                            f"`git checkout -- {target.name}` in its folder, or give --mirror")
    address = _address_of(entry, shipped, mirror)
    copy_checked(entry, _path_of(address), target)
    return f"{target} fetched from {address}, and its sum is right"


def _obtain_unknown(entry: Entry, target: Path, mirror: str,
                    check: Callable[[Path], object]) -> str:
    """Copy a file of which neither size nor sum are known, from where its user has put it."""
    if not mirror and not target.is_file():
        raise DownloadError(f"{entry.name} does not ship with the project; it is on "
                            f"{entry.source}; fetch it by other means and give --mirror "
                            "file:///FOLDER of the folder that it is in, or use it where it lies")
    source = _path_of(_address_of(entry, None, mirror)) if mirror else target
    if not source.is_file():
        raise DownloadError(f"{source}: no such file; give --mirror file:///FOLDER of the folder "
                            f"that {entry.name} is in")
    check(source)
    if mirror:
        found = replace(entry, size=source.stat().st_size, sha256=sha256_of(source))
        copy_checked(found, source, target)
    return (f"{target} is there, and can be read; its sum is {sha256_of(target)}, with which "
            "nothing can be compared, as nobody has published one")


def _address_of(entry: Entry, shipped: Path | None, mirror: str) -> str:
    """Return the file address to copy from."""
    if mirror:
        return f"{mirror.rstrip('/')}/{quote(entry.name)}"
    if shipped is not None:
        return shipped.as_uri()
    if not entry.address:
        raise DownloadError(f"no public address of {entry.name} is known; give --mirror ADDRESS "
                            "of a folder that has it, such as file:///home/me/weights")
    return entry.address


def _path_of(address: str) -> Path:
    """Return the path that a file address names; DownloadError for another address."""
    try:
        parts = urlsplit(address)
    except ValueError:                             # such as an open bracket
        parts = urlsplit("")
    if parts.scheme != "file":
        raise DownloadError(f"the address is '{address}', need one that begins with file://, as "
                            "nothing here uses the network; fetch the file by other means and give "
                            "--mirror file:///FOLDER of the folder that it is in")
    if parts.netloc not in ("", "localhost"):
        raise DownloadError(f"{address}: a file on another machine; need file:///PATH")
    return Path(unquote(parts.path))


def copy_checked(entry: Entry, source: Path, target: Path) -> None:
    """Copy a file that is what its entry says; what is at `target` stays until it is whole.

    Raises:
        DownloadError: the source cannot be read, or is of another size or sum.
        WriteError: the target cannot be written.
    """
    assert entry.size is not None
    digest, num_bytes = hashlib.sha256(), 0
    with whole_file(target) as part, part.open("wb") as file:
        for block in _blocks(source):
            num_bytes += len(block)
            if num_bytes > entry.size:
                break
            digest.update(block)
            file.write(block)
        if num_bytes != entry.size:
            found = f"more than {entry.size}" if num_bytes > entry.size else num_bytes
            raise DownloadError(f"{source} has {found} bytes, the manifest says {entry.size}: "
                                "another file or version; it was not kept; give another --mirror")
        if digest.hexdigest() != entry.sha256:
            raise DownloadError(f"{source} has the sum {digest.hexdigest()}, needed "
                                f"{entry.sha256}; it was not kept; give another --mirror")


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, block by block; DownloadError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    except (OSError, ValueError) as error:         # ValueError: a null character in the name
        raise DownloadError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; "
                            "check the address, or give another --mirror") from error


def describe(entries: dict[str, Entry], manifest: Path = MANIFEST) -> list[list[str]]:
    """Return a row of text for each entry: name, size, whether it is there, what it is."""
    rows = []
    for entry in entries.values():
        path = entry.shipped_path(manifest) or manifest.parent / entry.name
        where = "there" if path.is_file() else "not fetched" if entry.address else \
            "elsewhere" if entry.source else "no address"
        size = "?" if entry.size is None else f"{entry.size / 1e6:.2f} MB"
        rows.append([entry.name, size, where, entry.what + (
            f"; get it from {entry.source}" if entry.source else "")])
    return rows
