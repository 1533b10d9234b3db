"""Run a script of ours while noting what it opens of the network, and which programs it starts.

    python tests/support/listening.py RECORD SCRIPT [ARGUMENTS]

RECORD, with the rank behind its name where there are several, becomes a JSON list of
[event, address]. Python's audit events tell what Python code opens;
what compiled code opens (gloo, torch's store) is told by the sockets that the process has when it
ends a training, of which Linux keeps a table.
"""
from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

#: Events whose second argument is an address, or whose arguments are one.
OPENING = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
           "socket.gethostbyname", "urllib.Request", "http.client.connect", "ftplib.connect",
           "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
#: Linux's state of a socket that waits for others.
STATES = {"01": "connected", "0A": "listening"}


def own_sockets() -> list[tuple[str, str]]:
    """State and local address, in hexadecimal as Linux gives it, of this process' TCP sockets."""
    own = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:                                # the listing's own
            continue
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in own and fields[3] in STATES:
                found.append((STATES[fields[3]], fields[1].split(":")[0]))
    return sorted(set(found))


def main(record: str, script: str, *arguments: str) -> None:
    """Run it; the record is written however it ends."""
    opened: list[list[str]] = []

    def note(event: str, values: tuple) -> None:
        if event in OPENING:
            opened.append([event, str(values[1] if event in OPENING[:3] else values[0])])

    sys.addaudithook(note)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        if "torch" in os.environ.get("LISTENING", ""):
            _watch_ranks(opened)
        runpy.run_path(script, run_name="__main__")
    finally:
        rank = os.environ.get("RANK", "")
        Path(f"{record}{rank}").write_text(json.dumps(opened), encoding="utf-8")


def _watch_ranks(opened: list[list[str]]) -> None:
    """Note the sockets that the ranks of a run have while they are joined."""
    import torch.distributed as dist
    leave = dist.destroy_process_group

    def leaving() -> None:
        opened.extend([list(pair) for pair in own_sockets()])
        leave()

    dist.destroy_process_group = leaving


if __name__ == "__main__":
    main(*sys.argv[1:])
