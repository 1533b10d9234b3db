"""What is opened of the network: nothing by a run, loopback alone by ranks on one machine."""
from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

import pytest
from support.tiny_runs import FULL, ROOT, SCRIPTS, flags_of, start, start_as_ranks

from utils.runs.distributed import keep_to_this_machine

#: Addresses as Linux tells them: IPv4, mapped to IPv6 and IPv6; and that of every interface.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
EVERYWHERE = "00000000000000000000000000000000"
LISTENING = ROOT / "tests" / "support" / "listening.py"
#: Modules of the standard library and others that open connections.
NETWORK = {"socket", "ssl", "urllib.request", "http", "ftplib", "smtplib", "asyncio", "requests",
           "httpx", "urllib3", "socketserver", "xmlrpc", "webbrowser", "telnetlib"}
#: Events of a program's start, and what a run may start: for its revision, its video, and to find
#: the C library.
STARTS = {"subprocess.Popen", "os.posix_spawn"}          # the latter from Python 3.13 on, too
PROGRAMS = ("git", "ffmpeg", "ldconfig", "gcc", "cc", "ld", "objdump")
RESULTS = ["--test_rt", 1, "--test_plot", 1, "--test_cameras", 1, "--test_metrics", 1,
           "--test_spacetime_video", 1, "--mesh_formats", "ply,obj,glb", *FULL]


def modules_of(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def opened_by(folder: Path, script: Path, *arguments: object) -> list[list[str]]:
    """What a script opened that ends well."""
    ended = start(LISTENING, folder / "record.json", script, *arguments, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "record.json").read_text())


def test_nothing_can_open_a_connection():
    """But torch's own ranks, below: no module of the project imports what opens one."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith((".", "tests/")):
            found[name] = {module for module in modules_of(path)
                           if module in NETWORK or module.split(".")[0] in NETWORK}
    assert len(found) > 50 and not {name for name, modules in found.items() if modules}


def test_a_run_opens_nothing(tiny_scene, tiny_sphere, tmp_path):
    """Training, scoring, all results, the report and TensorBoard's files."""
    opened = opened_by(tmp_path, SCRIPTS / "train_sdf_ibr.py",
                       *flags_of(tmp_path, tiny_scene, "--num_steps", 1, *RESULTS,
                                 sphere=tiny_sphere))
    assert (tmp_path / "run" / "report.html").exists()
    assert list((tmp_path / "run" / "summaries").glob("events.*"))
    programs = [what for event, what in opened if event in STARTS]
    assert [event for event, _ in opened if event not in STARTS] == []
    assert programs and all(Path(program).name.startswith(PROGRAMS) for program in programs)


def test_weights_that_ship_are_checked_without_a_connection(tmp_path):
    opened = opened_by(tmp_path, ROOT / "checkpoints" / "download.py", "--list",
                       "sphere_ours_sine_128x3")
    assert opened == []


def test_an_opened_connection_is_noted(tmp_path):
    """The checks above can fail."""
    (tmp_path / "opens.py").write_text(
        "import socket, urllib.request\n"
        "with socket.socket() as one, socket.socket() as other:\n"
        "    one.bind(('127.0.0.1', 0)); one.listen()\n"
        "    other.connect(one.getsockname())\n"
        "try:\n    urllib.request.urlopen('http://127.0.0.1:9')\nexcept OSError:\n    pass\n")
    events = {event for event, _ in opened_by(tmp_path, tmp_path / "opens.py")}
    assert {"socket.bind", "socket.connect", "urllib.Request"} <= events


@pytest.mark.trust
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process' sockets")
def test_ranks_on_one_machine_talk_over_loopback(tiny_scenes, tmp_path, monkeypatch):
    """All but torch's store, which listens on every interface: the main rank's, or torchrun's."""
    monkeypatch.setenv("LISTENING", "torch")
    flags = flags_of(tmp_path, tiny_scenes, "--num_steps", 1, "--num_meta_steps", 1,
                     "--meta_batch_size", 2, "--test_views", "")
    ended = start_as_ranks(LISTENING, tmp_path / "record.json",
                           SCRIPTS / "train_sdf_ibr_meta.py", *flags, cwd=tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    for rank, store in ((0, {("listening", EVERYWHERE)}), (1, set())):
        found = {tuple(pair) for pair in json.loads((tmp_path / f"record.json{rank}").read_text())}
        sockets = {pair for pair in found if pair[0] in ("connected", "listening")}
        assert {address for _, address in sockets - store} <= LOOPBACK
        assert {state for state, _ in sockets} == {"connected", "listening"}
        assert not {event for event, _ in found - sockets} - STARTS


@pytest.mark.trust
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process' sockets")
def test_launched_ranks_listen_on_loopback_alone(tiny_scenes, tmp_path, monkeypatch):
    """No socket of any process is on another interface; the launcher itself has none."""
    monkeypatch.setenv("LISTENING", "torch")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = flags_of(tmp_path, tiny_scenes, "--num_steps", 1, "--num_meta_steps", 1,
                     "--meta_batch_size", 2, "--test_views", "")
    ended = start(LISTENING, tmp_path / "launcher.json", ROOT / "utils" / "launch.py", 2, LISTENING,
                  tmp_path / "record.json", SCRIPTS / "train_sdf_ibr_meta.py", *flags, cwd=tmp_path)
    assert ended.returncode == 0 and (tmp_path / "run" / "meta_start.pth").is_file(), ended.stderr
    for rank in range(2):
        found = {tuple(pair) for pair in json.loads((tmp_path / f"record.json{rank}").read_text())}
        sockets = {pair for pair in found if pair[0] in ("connected", "listening")}
        assert {address for _, address in sockets} <= LOOPBACK
        assert "listening" in {state for state, _ in sockets}    # a short connection may be missed
        assert not {event for event, _ in found - sockets} - STARTS
    assert {event for event, _ in json.loads((tmp_path / "launcher.json").read_text())} <= STARTS


@pytest.mark.parametrize("master, before, after", [
    ("127.0.0.1", None, "lo"), ("localhost", None, "lo"), ("127.0.0.1", "eth1", "eth1"),
    ("192.0.2.7", None, None), (None, None, None)])
def test_ranks_are_told_to_keep_to_loopback(monkeypatch, master, before, after):
    for name, value in (("MASTER_ADDR", master), ("GLOO_SOCKET_IFNAME", before),
                        ("NCCL_SOCKET_IFNAME", before)):
        monkeypatch.setenv(name, value or "")              # so that it is put back afterwards
        if value is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    keep_to_this_machine()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == os.environ.get("NCCL_SOCKET_IFNAME") == after
