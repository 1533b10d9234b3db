"""Downloads from a server on this machine and from files: whole, in parts, and wrong ones."""
from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.tiny_runs import ROOT, start

from utils.checkpoints import downloads
from utils.checkpoints.downloads import (
    Entry,
    describe,
    fetch,
    find_entry,
    obtain,
    read_manifest,
    sha256_of,
)
from utils.checkpoints.storage import load_checkpoint
from utils.errors import ConfigError, DownloadError, WriteError

CONTENT = bytes(range(256)) * 1024                   # several blocks
MAX_SHIPPED = 40e6                                   # bytes of all weights together


def entry_of(address="", content=CONTENT, **changes):
    """An entry for CONTENT."""
    fields = {"name": "weights.pth", "what": "a test", "size": len(content), "address": address,
              "sha256": hashlib.sha256(content).hexdigest(), "command": "none", "licence": "MIT"}
    return Entry(**fields | changes)


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT in the ways of servers, by path."""

    def do_GET(self):  # noqa: N802
        way = self.path.strip("/").split("/")[0]
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        getattr(self, f"send_{way}")(int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0)

    def send(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def send_ranges(self, first):
        if first >= len(CONTENT):
            self.send(b"", 416)
        else:
            self.send(CONTENT[first:], 206 if first else 200,
                      Content_Range=f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")

    def send_whole(self, first):
        self.send(CONTENT)

    def send_refusing(self, first):
        self.send(*((b"", 416) if first else (CONTENT, 200)))

    def send_shifted(self, first):
        """Says 206, but begins elsewhere."""
        self.send(CONTENT, 206 if first else 200, Content_Range=f"bytes 0-{len(CONTENT) - 1}/9")

    def send_cut(self, first):
        self.send(CONTENT[first:-100], 206 if first else 200, Content_Length=len(CONTENT) - first,
                  Content_Range=f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")

    def send_wrong(self, first):
        self.send(CONTENT[::-1])

    def send_longer(self, first):
        self.send(CONTENT + b"x")

    def send_endless(self, first):
        self.send(CONTENT * 2, Content_Length=None)

    def send_away(self, first):
        self.send(b"", 302, Location="/ranges/weights.pth")

    def send_tofile(self, first):
        self.send(b"", 302, Location="file:///etc/hostname")

    def send_toftp(self, first):
        self.send(b"", 302, Location="ftp://127.0.0.1/weights.pth")

    def send_missing(self, first):
        self.send(b"", 404)

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.base = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def part_in(folder, entry):
    """Where a fetch keeps what it has so far."""
    return folder / f".{entry.name}.{entry.sha256[:12]}.part"


def only_file(folder, content=CONTENT):
    """The folder holds the right file and nothing else."""
    found = sorted(path.name for path in folder.iterdir())
    return found == ["weights.pth"] and (folder / "weights.pth").read_bytes() == content


@pytest.mark.parametrize("way", ["ranges", "whole", "away"])
def test_a_file_is_fetched(server, tmp_path, way):
    fetch(entry_of(), f"{server.base}/{way}/weights.pth", tmp_path / "weights.pth")
    assert only_file(tmp_path)


@pytest.mark.parametrize("way, first", [("ranges", 70_000), ("whole", 70_000), ("away", 70_000),
                                        ("refusing", 70_000), ("shifted", 70_000)])
def test_a_part_is_gone_on_with_where_the_server_can(server, tmp_path, way, first):
    entry = entry_of()
    part_in(tmp_path, entry).write_bytes(CONTENT[:first])
    server.asked.clear()
    fetch(entry, f"{server.base}/{way}/weights.pth", tmp_path / "weights.pth")
    assert server.asked[0][1] == f"bytes={first}-" and only_file(tmp_path)
    assert len(server.asked) == (1 if way in ("ranges", "whole") else 2)


def test_a_whole_part_is_not_fetched_again(server, tmp_path):
    entry = entry_of()
    part_in(tmp_path, entry).write_bytes(CONTENT)
    server.asked.clear()
    fetch(entry, f"{server.base}/ranges/weights.pth", tmp_path / "weights.pth")
    assert server.asked == [] and only_file(tmp_path)


def test_a_connection_that_ends_early_keeps_its_part_for_the_next(server, tmp_path):
    entry = entry_of()
    with pytest.raises(DownloadError, match=f"ended after {len(CONTENT) - 100} of {len(CONTENT)}"):
        fetch(entry, f"{server.base}/cut/weights.pth", tmp_path / "weights.pth")
    assert [path.name for path in tmp_path.iterdir()] == [part_in(tmp_path, entry).name]
    server.asked.clear()
    fetch(entry, f"{server.base}/ranges/weights.pth", tmp_path / "weights.pth")
    assert server.asked[0][1] == f"bytes={len(CONTENT) - 100}-" and only_file(tmp_path)


@pytest.mark.parametrize("way, words", [
    ("wrong", "has the sum .*, needed .*not kept"), ("longer", "another file or version"),
    ("endless", f"more than the {len(CONTENT)} bytes"), ("missing", "404"),
    ("tofile", "302"), ("toftp", "redirects to ftp://")])
def test_what_is_not_the_file_is_not_kept(server, tmp_path, way, words):
    (tmp_path / "weights.pth").write_text("earlier")
    with pytest.raises(DownloadError, match=words):
        fetch(entry_of(), f"{server.base}/{way}/weights.pth", tmp_path / "weights.pth")
    assert only_file(tmp_path, b"earlier")


def test_a_damaged_part_is_told_by_the_sum_and_gone_the_next_time(server, tmp_path):
    entry = entry_of()
    part_in(tmp_path, entry).write_bytes(bytes(5000))
    address = f"{server.base}/ranges/weights.pth"
    with pytest.raises(DownloadError, match="not kept"):
        fetch(entry, address, tmp_path / "weights.pth")
    fetch(entry, address, tmp_path / "weights.pth")
    assert only_file(tmp_path)


def test_an_endless_stream_is_stopped_at_the_size(server, tmp_path, monkeypatch):
    written = []
    blocks = downloads._blocks
    monkeypatch.setattr(downloads, "_blocks", lambda *args: (
        written.append(len(block)) or block for block in blocks(*args)))
    with pytest.raises(DownloadError, match="more than"):
        fetch(entry_of(), f"{server.base}/endless/weights.pth", tmp_path / "weights.pth")
    assert sum(written) <= len(CONTENT) + downloads.BLOCK


def test_files_are_fetched_and_gone_on_with(tmp_path):
    source = tmp_path / "a folder" / "weights.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    output = tmp_path / "output"
    entry = entry_of(source.as_uri())
    assert "fetched from file:///" in obtain(entry, output=output) and only_file(output)
    assert "is there already" in obtain(entry, output=output)
    (output / "weights.pth").unlink()
    part_in(output, entry).write_bytes(CONTENT[:1000])
    obtain(entry_of(), output=output, mirror=source.parent.as_uri() + "/")
    assert only_file(output)
    source.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=f"there are {len(CONTENT) - 1} bytes"):
        fetch(entry, source.as_uri(), tmp_path / "other.pth")


@pytest.mark.parametrize("address, words", [
    ("", "no public address.*--mirror"), ("ftp://127.0.0.1/a.pth", "begins with http://"),
    ("file:///nowhere/a.pth", "No such file"), ("file://host/a.pth", "another machine"),
    ("http://127.0.0.1:9/a.pth", "cannot be opened"), ("http:///a.pth", "cannot be opened")])
def test_addresses_that_cannot_be_opened(tmp_path, address, words):
    with pytest.raises(DownloadError, match=words):
        obtain(entry_of(address), output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    source = tmp_path / "weights.pth"
    source.write_bytes(CONTENT)
    with pytest.raises(WriteError, match="--output"):
        fetch(entry_of(), source.as_uri(), tmp_path / "file" / "weights.pth")


def manifest_of(folder, *entries):
    """A manifest in FOLDER/checkpoints."""
    path = folder / "checkpoints" / "manifest.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"files": list(entries)}))
    return path


def test_shipped_files_are_verified_where_they_lie(tmp_path):
    shipped = tmp_path / "assets" / "weights.pth"
    shipped.parent.mkdir()
    shipped.write_bytes(CONTENT)
    manifest = manifest_of(tmp_path, vars(entry_of("../assets/weights.pth")))
    entry = read_manifest(manifest)["weights.pth"]
    assert "ships with the project, and its sum is right" in obtain(entry, manifest=manifest)
    assert not (manifest.parent / "weights.pth").exists()
    output = tmp_path / "output"
    obtain(entry, output=output, manifest=manifest)
    assert only_file(output)
    shipped.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DownloadError, match="has another sum.*--mirror"):
        obtain(entry, manifest=manifest)
    obtain(entry, mirror=output.as_uri(), manifest=manifest)
    assert only_file(shipped.parent)
    assert "there" in describe({"weights.pth": entry}, manifest)


@pytest.mark.parametrize("changes", [
    {"name": "../weights.pth"}, {"name": ".."}, {"name": ""}, {"sha256": "abc"}, {"size": 0},
    {"size": "9"}, {"address": "../../outside.pth"}, {"address": None}, {"more": 1}])
def test_entries_that_are_not_sound_are_refused(tmp_path, changes):
    manifest = manifest_of(tmp_path, vars(entry_of()) | changes)
    with pytest.raises(ConfigError, match="manifest.json"):
        read_manifest(manifest)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": [3]}'])
def test_other_files_are_no_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="not a manifest"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("name, words", [
    ("a/weights.pth", "plain name"), ("..", "plain name"), ("a\\weights.pth", "plain name"),
    ("/etc/passwd", "plain name"), ("wights", "nearest is weights.pth")])
def test_names_that_are_none_are_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        find_entry({"weights.pth": entry_of()}, name)


def test_the_suffix_may_be_left_out():
    assert find_entry({"weights.pth": entry_of()}, "weights").name == "weights.pth"


def test_every_shipped_weight_is_in_the_manifest_as_it_is():
    shipped = {entry.shipped_path(): entry for entry in read_manifest().values()
               if entry.shipped_path() is not None}
    weights = {path for folder in ("assets", "checkpoints")
               for path in (ROOT / folder).rglob("*.pth")}
    assert set(shipped) <= weights
    assert {path.name for path in weights} <= set(read_manifest())      # fetched ones are listed
    for path, entry in shipped.items():
        assert (path.name, path.stat().st_size) == (entry.name, entry.size)
        assert sha256_of(path) == entry.sha256
        assert load_checkpoint(path) and "python " in entry.command and entry.licence
    assert sum(path.stat().st_size for path in weights) < MAX_SHIPPED


def test_the_script_verifies_lists_and_refuses(tmp_path):
    script = ROOT / "checkpoints" / "download.py"
    name = Path(next(iter(read_manifest()))).stem
    ended = start(script, name, "--list", "--output", tmp_path, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert name in ended.stdout and (tmp_path / f"{name}.pth").is_file()
    ended = start(script, "../x", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith("error: '../x' is no plain name")
