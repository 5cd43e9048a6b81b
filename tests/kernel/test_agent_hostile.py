# SPDX-License-Identifier: Apache-2.0
"""What is done to `kernelspan agent` against all reason: plans that are none or change without end, storms of processes,
kills, collectors that hang, compilers that fail. What goes on must go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from kernelspan_api.control.control_pb2 import Container, NodePlan, PodPlan, ProfilePlan
from tests.support.collector import Collector
from tests.support.node_agents import PYTHON, Running, Start, profile, program, starting
from tests.support.pods import Pod, every_container, line
from tests.support.ports import PortReservation
from tests.support.server import http_get
from tests.support.tls import TlsFiles

KILLS = int(os.environ.get("KERNELSPAN_KILLS", "3"))
BCC = "/usr/lib/python3/dist-packages/bcc"
STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}
GOOD = profile("good", files={"operations": ["Stat"], "paths": ["/mark/*"]})
# Starts others without end, of which some become another program.
STORM = """
import os, sys, time
print("ready", flush=True)
while True:
    for name in range(20):
        try: os.stat(f"/else/{name}")
        except OSError: pass
    pid = os.fork()
    if not pid:
        os.execv("/bin/true", ["/bin/true"]) if os.getpid() % 2 else os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> Iterator[Start]:
    """Starts agents that dial one server; ends all."""
    with starting(tmp_path, tls_files, collector) as begin:
        yield begin


def raw(uid: str, spec: bytes, **fields: Any) -> ProfilePlan:
    known: dict[str, Any] = {"kind": "TraceProfile", "namespace": "shop", "name": "x", "generation": 1}
    return ProfilePlan(uid=uid, spec=spec, **(known | fields))


def junk() -> list[ProfilePlan]:
    """Profiles that are none."""
    fine = json.dumps({"podSelector": {}, **STATS}).encode()
    long = {"paths": [f"/{'*a' * 200}{number}/**/[!" for number in range(40)]}
    return [
        raw("empty", b""),
        raw("cut", b'{"podSelector":'),
        raw("no-utf-8", b'{"podSelector":"\xff"}'),
        raw("deep", b'{"podSelector":' * 3000),
        raw("list", b"[" * 9000 + b"]" * 9000),
        raw("huge", b'{"podSelector":{},"files":{},"limits":{"eventsPerSecond":1' + b"0" * 400 + b"}}"),
        raw("negative", b'{"podSelector":{},"files":{},"limits":{"eventsPerSecond":-1}}'),
        raw("kind", fine, kind="Pod"),
        raw("name", fine, name="../x"),
        raw("../../odd/uid\x01", fine, generation=-(1 << 63)),
        raw("good", b"{", name="twice"),
        raw("slow", json.dumps({"podSelector": {}, "files": long}).encode()),
    ]  # fmt: skip


def strangers(uids: list[str]) -> list[PodPlan]:
    """As many pods as a node may have, none of which is here."""
    matches = [every_container(uid) for uid in uids]
    containers = [Container(name=f"c{number}", id=f"{number:064x}") for number in range(200)]
    return [
        PodPlan(uid=str(uuid.uuid4()), name="p", namespace="n", containers=containers, matches=matches)
        for _ in range(110)
    ]


def descriptors(agent: Running) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def threads(agent: Running) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/task").iterdir()))


def scrape(port: int) -> None:
    """A server takes no two samples of one name and the same labels."""
    status, body = http_get(port, "/metrics")
    assert status == HTTPStatus.OK
    samples = [line.rpartition(" ")[0] for line in body.decode().splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))


def test_plans_without_reason_in_a_storm(start: Start, collector: Collector) -> None:
    """50 a second, full of what is no profile, the same again, garbage; few descriptors, processes that start without end."""
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
    agent = start("--listen", f"127.0.0.1:{port}", under=("prlimit", "--nofile=192:192"))
    chosen = random.Random(1)
    specs: list[dict[str, Any]] = [{"files": {}}, {"processes": {}}, STATS, {"waits": {"operations": ["Sleep"]}}]
    with Pod("web-1") as pod, Pod("api-1") as other:
        runs = program(pod)
        agent.follow([GOOD], [pod.plan(every_container("good"))])
        agent.until_seen(collector, runs, "before")
        storms = [each.run(PYTHON, "-S", "-c", STORM) for each in (pod, other)]
        bad = junk()
        everywhere = strangers([each.uid for each in bad])
        for number in range(150):
            others = [
                profile(f"p{which}", number // 7, **spec) for which, spec in enumerate(specs) if chosen.random() < 0.7
            ]
            matches = [every_container(each.uid) for each in (*others, *bad)]
            pods = [other.plan(*matches), pod.plan(every_container("good"), *matches[: number % 3])]
            plan = NodePlan(
                hash=f"s{number}" if number % 5 else "", node="n1", revision=1,
                profiles=[*bad, GOOD, *others], pods=[*pods, *(everywhere if number % 10 == 0 else [])],
            )  # fmt: skip
            agent.server.plans.put(plan)
            if number % 4 == 0:
                agent.server.plans.put(plan)
            if number % 10 == 0:
                scrape(port)
            if number == 75:
                agent.server.plans.put(b"\xff no plan")  # the stream ends, and another is begun
            time.sleep(0.02)
        for each in storms:
            each.kill()
        agent.follow([GOOD, *bad[:4]], [pod.plan(every_container("good"))])
        agent.until_seen(collector, runs, "after")
        states = agent.server.states()
        assert {states[uid].reason for uid in ("empty", "cut", "no-utf-8", "deep")} == {"AgentOutdated"}
        assert states["good"].reason == ""
        agent.until(lambda: descriptors(agent) < 100 and threads(agent) < 40, "as small as before")
        agent.stop()
    assert "Traceback" not in agent.log.read_text()


def test_killed_under_load(start: Start, collector: Collector) -> None:
    """Again and again: the programs do not notice, and each agent goes on with the plan that it finds."""
    with Pod("web-1") as pod:
        runs, storm = program(pod), pod.run(PYTHON, "-S", "-c", STORM)
        agent = start()
        agent.follow(
            [GOOD, profile("all", files={}, processes={}, limits={"spansPerSecond": 100})],
            [pod.plan(every_container("good"), every_container("all"))],
        )
        for number in range(KILLS):
            agent.until_seen(collector, runs, f"k{number}")
            agent.process.kill()
            agent.process.wait()
            assert line(runs, "alone") == b"done\n"
            assert storm.poll() is None
            agent = start()
        agent.until_seen(collector, runs, "last")
        storm.kill()
        agent.stop()


@contextlib.contextmanager
def no_compiler(agent: Running, folder: Path) -> Iterator[None]:
    """An agent in a mount namespace of its own has no bcc there."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    inside = ["nsenter", "-t", str(agent.process.pid), "-m"]
    subprocess.run([*inside, "mount", "--bind", str(empty), BCC], check=True)
    yield
    subprocess.run([*inside, "umount", BCC], check=True)


def test_a_collector_that_hangs_and_a_compiler_that_fails(start: Start, collector: Collector, tmp_path: Path) -> None:
    """They cost those who want them, and nobody else: no spans, no removal, not the end."""
    agent = start(under=("unshare", "-m"), KERNELSPAN_CACHE=str(tmp_path / "objects"))
    with Pod("web-1") as pod, socket.create_server(("127.0.0.1", 0)) as deaf:
        runs = program(pod)
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        hangs = profile("hangs", **STATS, export={"otlp": {"endpoint": endpoint}})
        pods = [pod.plan(*(every_container(uid) for uid in ("good", "hangs", "more")))]
        agent.follow([GOOD, hangs], pods)
        agent.until_seen(collector, runs, "one")
        agent.follow([GOOD], pods)
        agent.until_seen(collector, runs, "two")
        with no_compiler(agent, tmp_path):  # another mechanism is called for, and nothing of it can be compiled
            more = profile("more", files={}, network={}, processes={})
            agent.follow([GOOD, hangs, more], pods)
            state = agent.server.states()["more"]
            assert {probe.state for probe in state.probes} == {"Failed"}
            assert "bcc" in state.message
            agent.until_seen(collector, runs, "three")
        agent.follow([GOOD, hangs, profile("more", 2, **STATS)], pods)
        agent.until_seen(collector, runs, "four")
        agent.stop()
