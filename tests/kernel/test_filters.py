# SPDX-License-Identifier: Apache-2.0
"""What a profile leaves out is left out, counted, and as early as it can be; what it wants is all there."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import runs
from tests.support.runs import SYSTEM_PYTHON, Run

N = 101
FILES = """
import os, sys
N, folder = int(sys.argv[1]), sys.argv[2]
for name in ("wanted/a.txt", "wanted/b.log", "other/c.txt"):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    for _ in range(N):
        os.write(fd, b"x")
os.chdir(os.path.join(folder, "wanted"))
for _ in range(N):
    for path in ("a.txt", "../other/c.txt", folder + "/wanted/absent"):
        try: os.stat(path)
        except OSError: pass
"""
PEERS = """
import socket, sys
N = int(sys.argv[1])
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.9"), (socket.AF_INET6, "::1")):
    listener = socket.create_server((host, 0), family=family)
    for _ in range(N):
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
        client.sendall(b"x"); server.recv(1)
        client.close(); server.close()
a, b = socket.socketpair()
for _ in range(N): a.send(b"x"); b.recv(1)
"""
NAPS = """
import sys, time
for _ in range(int(sys.argv[1])): time.sleep(0.0001); time.sleep(0.01)
"""


def traced(folder: Path, program: str, *arguments: str, **spec: Any) -> Run:
    """A run of a Python program under a profile."""
    profile = runs.profile(folder, **spec)
    ran = runs.run(folder, profile, SYSTEM_PYTHON, "-S", "-c", program, str(N), *arguments)
    assert ran.status == 0, ran.stderr
    return ran


def paths(ran: Run, name: str) -> Counter[str]:
    """How often each path of one kind of operation came."""
    return Counter(str(span.attributes["file.path"]) for span in ran.operations if span.name == name)


def test_paths(tmp_path: Path) -> None:
    """Files that match, and no others."""
    globs = [f"{tmp_path}/files/wanted/*.txt", "**/absent"]
    ran = traced(tmp_path, FILES, f"{tmp_path}/files", files={"operations": ["Write", "Stat"], "paths": globs})
    wanted = f"{tmp_path}/files/wanted"
    assert paths(ran, "file.write") == {f"{wanted}/a.txt": N}
    # makedirs looks whether the folder is there
    assert paths(ran, "file.stat") == {f"{wanted}/a.txt": N, f"{wanted}/absent": N}
    assert ran.balance["exported"] == 3 * N
    assert ran.balance["seen"] - ran.balance["filtered"] == 3 * N


def test_paths_in_the_kernel(tmp_path: Path) -> None:
    """A program that goes on for longer than the agent needs for a first look costs the agent nothing more."""
    program = FILES.replace(
        "    for _ in range(N):\n        os.write",
        "    import time\n    for i in range(N):\n        i == 3 and time.sleep(0.5)\n        os.write",
    )
    ran = traced(tmp_path, program, f"{tmp_path}/files", files={"operations": ["Write"], "paths": ["**/a.txt"]})
    assert ran.balance["exported"] == N
    assert ran.balance["filtered"] == 2 * N
    assert ran.report["kernel"]["filtered"] == 2 * (N - 3)


@pytest.mark.parametrize("group", ["files", "network", "waits"])
def test_least_duration(tmp_path: Path, group: str) -> None:
    """Nothing shorter, and what is left out is left out in the kernel."""
    program, spec = {
        "files": (FILES, {"operations": ["Write", "Stat"]}),
        "network": (PEERS, {"operations": ["Send", "Receive", "Connect"]}),
        "waits": (NAPS, {"operations": ["Sleep"]}),
    }[group]
    least_us = 5_000
    ran = traced(tmp_path, program, f"{tmp_path}/files", **{group: {**spec, "minDurationMicroseconds": least_us}})
    assert all(span.end_ns - span.start_ns >= least_us * 1000 for span in ran.operations)
    assert ran.balance["filtered"] == ran.report["kernel"]["filtered"] > 0
    assert ran.balance["exported"] >= (N if group == "waits" else 0)
    assert ran.balance["seen"] >= 2 * N


def test_operations(tmp_path: Path) -> None:
    """Of a group only the operations that are named; the others are not even seen."""
    ran = traced(tmp_path, PEERS, network={"operations": ["Accept", "Send"]})
    assert Counter(runs.operation_of(span) for span in ran.operations) == {"Accept": 3 * N, "Send": 4 * N}
    assert ran.balance["seen"] == 7 * N


def test_ports(tmp_path: Path) -> None:
    """A port of either end; what has no port is not wanted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = (
            f"import socket, sys\nfor _ in range({N}): socket.create_connection(('127.0.0.1', {port})).close()\n"
            + PEERS
        )
        ran = traced(tmp_path, program, network={"operations": ["Connect", "Send"], "ports": [port, 9]})
    assert Counter(span.attributes["network.peer.port"] for span in ran.operations) == {port: N}
    assert ran.balance["filtered"] == ran.report["kernel"]["filtered"] == 7 * N


def test_addresses(tmp_path: Path) -> None:
    """Ranges of IPv4 and IPv6; what has no address is not wanted."""
    ran = traced(tmp_path, PEERS, network={"operations": ["Connect", "Send"], "cidrs": ["127.0.0.8/29", "::1/128"]})
    assert Counter(span.attributes["network.peer.address"] for span in ran.operations) == {
        "127.0.0.9": 2 * N,
        "::1": 2 * N,
    }
    assert ran.balance["filtered"] == 3 * N


@pytest.mark.parametrize("mode", ["eventsPerSecond", "spansPerSecond"])
def test_rate(tmp_path: Path, mode: str) -> None:
    """A burst of two seconds' worth passes, then the rate; all the rest is counted."""
    rate, calls = 50, 5_003
    program = f"import os\nfor _ in range({calls}): os.stat('/')"
    began = time.monotonic_ns()
    ran = traced(tmp_path, program, files={"operations": ["Stat"]}, limits={**runs.UNLIMITED, mode: rate})
    took = time.monotonic_ns() - began  # spansPerSecond counts by the agent's time, stalls and all
    balance = ran.balance
    assert balance["seen"] >= calls
    assert balance["exported"] + balance["rateLimited"] == balance["seen"]
    assert 2 * rate <= balance["exported"] <= 2 * rate + math.ceil(took * rate / 1e9) + 3
    assert (ran.report["kernel"].get("rate_limited", 0) == balance["rateLimited"]) == (mode == "eventsPerSecond")


@pytest.mark.parametrize("percent", [0, 30, 100])
def test_sampling(tmp_path: Path, percent: int) -> None:
    """By trace: each operation its own trace, as many as asked for within six standard deviations."""
    calls = 5_003
    program = f"import os\nfor _ in range({calls}): os.stat('/')"
    spec = {"files": {"operations": ["Stat"]}, "sampling": {"percent": percent}, "correlation": {"orphans": "Root"}}
    ran = traced(tmp_path, program, **spec)
    seen, share = ran.balance["seen"], percent / 100
    assert abs(ran.balance["exported"] - seen * share) <= 6 * math.sqrt(seen * share * (1 - share))
    assert ran.balance["exported"] + ran.balance["sampledOut"] == seen
    assert len({span.trace_id for span in ran.operations}) == len(ran.operations) == ran.balance["exported"]


@pytest.mark.parametrize("orphans", ["Activity", "Root", "Drop"])
def test_orphans(tmp_path: Path, orphans: str) -> None:
    """An activity above them, each for itself, or none at all, which is a counted drop."""
    program = f"import os\nfor _ in range({N}): os.stat('/')"
    ran = traced(tmp_path, program, files={"operations": ["Stat"]}, correlation={"orphans": orphans})
    roots = [span for span in ran.spans if not span.parent_span_id]
    seen = ran.balance["seen"]
    assert ran.balance["dropped"] == ({"Orphan": seen} if orphans == "Drop" else {})
    expected = {"Activity": (1, seen + 1), "Root": (seen, seen), "Drop": (0, 0)}
    assert (len(roots), len(ran.spans)) == expected[orphans]


def test_redaction(tmp_path: Path) -> None:
    """What matches is in no byte of what leaves the machine."""
    secret = "token-4711-abc"
    program = (
        "import os, socket, sys\nos.mkdir(sys.argv[2])\nos.chdir(sys.argv[2])\n"
        "for name in ('x', 'y'): os.close(os.open(name, os.O_CREAT)); os.rename(name, name + sys.argv[2][-14:])\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[2] + '/s'); s.listen(); socket.socket(socket.AF_UNIX).connect(sys.argv[2] + '/s')"
    )
    where = tmp_path / secret
    redaction = {"paths": [r"token-\d+-[a-z]+"]}
    ran = traced(tmp_path, program, str(where), files={}, network={}, redaction=redaction)
    assert any("[redacted]" in str(span.attributes.get("file.path")) for span in ran.spans)
    assert any("[redacted]" in str(span.attributes.get("kernelspan.file.target_path")) for span in ran.spans)
    assert any("[redacted]" in str(span.attributes.get("network.peer.address")) for span in ran.spans)
    (output,) = tmp_path.glob("run-*/spans.jsonl")
    assert secret not in output.read_text()


@pytest.mark.parametrize("mode", ["Keep", "Hash", "Drop"])
def test_command_line(tmp_path: Path, mode: str) -> None:
    """As it is, hashed, or not at all."""
    password = "--password=hunter2"
    ran = traced(tmp_path, "import os; os.stat('/')", password, files={}, redaction={"commandLine": mode})
    line = " ".join([SYSTEM_PYTHON, "-S", "-c", "import os; os.stat('/')", str(N), password])
    expected = {"Keep": line, "Hash": hashlib.blake2b(line.encode(), digest_size=16).hexdigest(), "Drop": None}
    assert {span.resource.get("process.command_line") for span in ran.operations[5:]} == {expected[mode]}
    (output,) = tmp_path.glob("run-*/spans.jsonl")
    assert (password in output.read_text()) == (mode == "Keep")
    assert json.loads(output.read_text().splitlines()[0])
    assert os.fspath(output)
