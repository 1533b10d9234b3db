"""The manifest's files: checked where they lie, copied, and wrong ones refused."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from support.network_files import file_of
from support.tiny_runs import ROOT, start

from utils.checkpoints.manifest import (
    Entry,
    check_shipped,
    describe,
    find_entry,
    obtain,
    read_manifest,
    sha256_of,
    update_sum,
)
from utils.checkpoints.storage import load_checkpoint
from utils.errors import CheckpointError, ConfigError, DownloadError, WriteError

CONTENT = bytes(range(256)) * 1024                   # several blocks
#: Bytes of the weights for the demonstration and for real scenes, and of all.
MAX_SHIPPED, MAX_ALL = 40e6, 45e6


def entry_of(address="", content=CONTENT, **changes):
    """An entry for CONTENT."""
    fields = {"name": "weights.pth", "what": "a test", "size": len(content), "address": address,
              "sha256": hashlib.sha256(content).hexdigest(), "command": "none", "licence": "MIT"}
    return Entry(**fields | changes)


def only_file(folder, content=CONTENT):
    """The folder holds the right file and nothing else."""
    found = sorted(path.name for path in folder.iterdir())
    return found == ["weights.pth"] and (folder / "weights.pth").read_bytes() == content


def test_a_file_is_copied_once_and_then_there(tmp_path):
    source = tmp_path / "a folder" / "weights.pth"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    output = tmp_path / "output"
    entry = entry_of(source.as_uri())
    assert "fetched from file:///" in obtain(entry, output=output) and only_file(output)
    assert "is there already" in obtain(entry, output=output)
    (output / "weights.pth").write_bytes(b"damaged")
    obtain(entry_of(), output=output, mirror=source.parent.as_uri() + "/")
    assert only_file(output)


@pytest.mark.parametrize("content, words", [
    (CONTENT[::-1], "has the sum .*, needed .*not kept"),
    (CONTENT + b"x", f"has more than {len(CONTENT)} bytes"), (CONTENT * 50, "more than"),
    (CONTENT[:-1], f"has {len(CONTENT) - 1} bytes, the manifest says {len(CONTENT)}"),
    (b"", "has 0 bytes")])
def test_what_is_not_the_file_is_not_kept(tmp_path, content, words):
    source, output = tmp_path / "weights.pth", tmp_path / "output"
    source.write_bytes(content)
    output.mkdir()
    (output / "weights.pth").write_text("earlier")
    with pytest.raises(DownloadError, match=words):
        obtain(entry_of(source.as_uri()), output=output)
    assert only_file(output, b"earlier")


@pytest.mark.parametrize("address, words", [
    ("", "no public address.*--mirror"), ("ftp://127.0.0.1/a.pth", "begins with file://"),
    ("http://127.0.0.1:9/a.pth", "begins with file://.*by other means.*--mirror"),
    ("https://[/a.pth", "begins with file://"), ("file:///nowhere/a.pth", "No such file"),
    ("file:///tmp", "Is a directory"), ("file:///a%00b", "null byte"),
    ("file://host/a.pth", "another machine")])
def test_addresses_that_cannot_be_read(tmp_path, address, words):
    with pytest.raises(DownloadError, match=words):
        obtain(entry_of(address), output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    source = tmp_path / "weights.pth"
    source.write_bytes(CONTENT)
    with pytest.raises(WriteError, match="file/weights.pth.*give another folder"):
        obtain(entry_of(source.as_uri()), output=tmp_path / "file")


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
    assert describe({"weights.pth": entry}, manifest) == [
        ["weights.pth", "0.26 MB", "there", "a test"]]


@pytest.mark.parametrize("changes", [
    {"name": "../weights.pth"}, {"name": ".."}, {"name": ""}, {"sha256": "abc"}, {"size": 0},
    {"size": "9"}, {"address": "../../outside.pth"}, {"address": None}, {"more": 1},
    {"sha256": None}, {"size": None}, {"sha256": None, "size": None},
    {"sha256": None, "size": None, "source": "a page", "address": "weights.pth"}])
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
    sizes = {path.name: path.stat().st_size for path in weights}
    assert sum(sizes.values()) < MAX_ALL
    assert sum(sizes.values()) - sizes["meta_nlr.pth"] < MAX_SHIPPED


def test_the_script_verifies_lists_and_refuses(tmp_path):
    script = ROOT / "checkpoints" / "download.py"
    name = Path(next(iter(read_manifest()))).stem
    ended = start(script, name, "--list", "--output", tmp_path, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert name in ended.stdout and (tmp_path / f"{name}.pth").is_file()
    ended = start(script, "../x", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith("error: '../x' is no plain name")


def elsewhere():
    """An entry of a file that others offer, of which neither size nor sum are known."""
    return entry_of(size=None, sha256=None, source="their page")


def test_a_file_that_others_offer_is_asked_for(tmp_path):
    manifest = manifest_of(tmp_path, asdict(elsewhere()))
    entry = read_manifest(manifest)["weights.pth"]
    assert describe({"weights.pth": entry}, manifest) == [
        ["weights.pth", "?", "elsewhere", "a test; get it from their page"]]
    with pytest.raises(DownloadError, match="does not ship.*on their page.*--mirror file:///"):
        obtain(entry, manifest=manifest)
    with pytest.raises(DownloadError, match="weights.pth: no such file; give --mirror"):
        obtain(entry, manifest=manifest, mirror=tmp_path.as_uri())


def test_a_file_without_a_known_sum_is_checked_to_be_weights(tmp_path):
    """What a browser saved in its place, such as a page, is not kept."""
    script, source, output = ROOT / "checkpoints" / "download.py", tmp_path / "in", tmp_path / "out"
    name = next(entry.name for entry in read_manifest().values() if not entry.is_known)
    source.mkdir()
    (source / name).write_text("<html>")
    ended = start(script, name, "--mirror", source.as_uri(), "--output", output, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith("error: checkpoint "), ended.stderr
    assert not (output / name).exists()
    file_of(source / name, encoder=1, decoder=2)
    ended = start(script, name, "--mirror", source.as_uri(), "--output", output, cwd=tmp_path)
    assert ended.returncode == 0 and sha256_of(source / name) in ended.stdout, ended.stderr
    assert sha256_of(output / name) == sha256_of(source / name)


def test_the_release_is_in_the_manifest_by_name():
    entry = read_manifest()["pretrained_encdec.pth"]
    assert not entry.is_known and entry.shipped_path() is None
    assert "computationalimaging.org/publications/metanlr" in entry.source
    assert update_sum(ROOT / "checkpoints" / entry.name) is False


def test_a_shipped_file_is_compared_with_its_sum(tmp_path):
    """Another sound file in the place of a shipped one is refused, until the manifest has it."""
    manifest, path = tmp_path / "checkpoints" / "manifest.json", tmp_path / "checkpoints" / "a.pth"
    manifest.parent.mkdir()
    path.write_bytes(b"as shipped")
    entry = Entry("a.pth", "weights", sha256_of(path), 10, "a.pth", "make", "MIT")
    manifest.write_text(json.dumps({"files": [asdict(entry)]}))
    check_shipped(path, sha256_of(path), manifest)
    path.write_bytes(b"of someone else")
    with pytest.raises(CheckpointError, match=f"{entry.sha256}, found {sha256_of(path)}; restore"):
        check_shipped(path, sha256_of(path), manifest)
    check_shipped(tmp_path / "elsewhere.pth", "another", manifest)
    assert update_sum(path, manifest)
    check_shipped(path, sha256_of(path), manifest)
    assert read_manifest(manifest)["a.pth"].size == 15
    assert not update_sum(tmp_path / "elsewhere.pth", manifest)
