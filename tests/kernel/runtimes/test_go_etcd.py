# SPDX-License-Identifier: Apache-2.0
"""A server as it is: etcd, asked by HTTP. Whatever it does says in whose code, and of which version, as the go command has it."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.support import go_runs, gos, truth
from tests.support.fixtures import built
from tests.support.ports import PortReservation
from tests.support.server import ServerProcess, answers_ok

pytestmark = pytest.mark.root
PROFILE = truth.PROFILE.replace("files: {operations: [Read, Stat]}", "files: {}\n  network: {}")
PUTS = 150


@pytest.fixture
def etcd_binary(request: pytest.FixtureRequest) -> Path:
    """etcd, built if it is not there."""
    return built("etcd", "kernel", request)


def _ask(url: str, start: int, answers: list[object]) -> None:
    for number in range(start, start + PUTS):
        key, value = (base64.b64encode(f"{text}{number}".encode()).decode() for text in ("key", "value"))
        for path, body in (("put", {"key": key, "value": value}), ("range", {"key": key})):
            request = urllib.request.Request(f"{url}/v3/kv/{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=30) as answer:
                answers.append(json.load(answer))


def test_every_operation_has_an_owner(tmp_path: Path, etcd_binary: Path) -> None:
    """A frame of etcd's own or of a library of its list; nothing is lost, unresolved or without frames."""
    etcd = etcd_binary
    ports = PortReservation(2)
    url, peer = (f"http://127.0.0.1:{port}" for port in ports.ports)
    options = ["--data-dir", str(tmp_path / "data"), "--listen-client-urls", url, "--advertise-client-urls", url]
    options += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    options += ["--initial-cluster", f"default={peer}", "--logger", "zap"]
    answers: list[object] = []
    server = ServerProcess(
        "etcd", [etcd, *options], tmp_path / "etcd.log", lambda: answers_ok(ports.ports[0], "/readyz")
    )
    try:
        server.start()
        assert server.pid is not None
        with truth.open_app(tmp_path / "spans.jsonl", PROFILE) as app:
            app.select(server.pid, "etcd")
            go_runs.wait_for_walker(app)
            began_ns = time.time_ns()
            clients = [threading.Thread(target=_ask, args=(url, start, answers)) for start in (0, 1000)]
            for client in clients:
                client.start()
            truth.run_until(app, lambda: not any(client.is_alive() for client in clients))
            app.end(10.0)
            frames, accounting = dict(app.tables.stacks.frames), app.accounting().as_json()
    finally:
        server.stop()
        ports.close()
    assert len(answers) == 4 * PUTS
    assert set(frames) == {"resolved"}
    assert (accounting["unaccounted"], accounting["dropped"]) == (0, {})
    go = gos.needed(gos.OWN)
    listed = {
        (row[1], row[2])
        for line in go.run("version", "-m", str(etcd), folder=tmp_path).splitlines()
        if len(row := line.strip().split("\t")) > 2 and row[0] in {"dep", "=>"}
    }
    owners: Counter[bool] = Counter()
    ownerless, libraries = Counter[str](), set()
    for span in truth.read_spans(tmp_path / "spans.jsonl"):
        if not span.name.startswith(("file.", "tcp.", "network.")):
            continue
        if span.start_ns < began_ns:  # its runtime looks at its cgroup now and then, also before it can be walked
            continue
        stack = str(span.attributes.get("code.stacktrace", ""))
        assert stack, (span.name, span.attributes)
        owned = "code.function.name" in span.attributes or "kernelspan.library.name" in span.attributes
        owners[owned] += 1
        if not owned:
            ownerless[stack.split("\n")[-2].partition(" ")[0]] += 1
        if "kernelspan.library.name" in span.attributes:
            attributes = span.attributes
            libraries.add((attributes["kernelspan.library.name"], attributes["kernelspan.library.version"]))
    assert owners[True] > 2 * PUTS, owners
    # What the standard library does by itself: an HTTP server reads what comes next, the scheduler has its own files.
    assert all(name.startswith(("net/http.", "runtime.")) for name in ownerless), ownerless
    assert libraries <= listed
    assert ("go.etcd.io/bbolt", dict(listed)["go.etcd.io/bbolt"]) in libraries, libraries
