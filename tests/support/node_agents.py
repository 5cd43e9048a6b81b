# SPDX-License-Identifier: Apache-2.0
"""`kernelspan agent` as a node runs it, with a plan server for an operator, and a program in a pod to look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelspan_agent.ring import size as ring_size
from kernelspan_api.control.control_pb2 import ExportSecret, NodePlan, PodPlan, ProfilePlan
from tests.support.collector import Collector
from tests.support.otlp_json import ReceivedSpan
from tests.support.plan_server import PlanServer
from tests.support.pods import Pod, line
from tests.support.tls import TlsFiles

WAIT_SECONDS = 60.0
PYTHON = "/usr/bin/python3"
# Answers each line of its input after it has looked at a file of that name, in a function of that name.
PROGRAM = """
import os, sys
def look(name):
    try: os.stat("/mark/" + name)
    except OSError: pass
print("ready", flush=True)
for line in sys.stdin:
    for name in line.split():
        look(name)
    print("done", flush=True)
"""
_COMMAND = [sys.executable, "-c", "from kernelspan_agent.cli import main; main()", "--log-level", "info"]


@dataclass(slots=True)
class Running:
    """An agent, and the operator's side of it."""

    server: PlanServer
    process: subprocess.Popen[bytes]
    log: Path
    revision: int = 0

    def follow(
        self, profiles: Sequence[ProfilePlan], pods: Sequence[PodPlan], secrets: Sequence[ExportSecret] = ()
    ) -> None:
        """Sends a plan, and waits until it is in effect: every profile is attached or refused."""
        self.revision += 1
        plan = NodePlan(
            hash=f"h{self.revision}-{time.monotonic_ns()}",
            node="n1",
            revision=1,
            profiles=profiles,
            pods=pods,
            secrets=secrets,
        )
        self.server.plans.put(plan)
        wanted = {(one.uid, one.generation) for one in profiles}

        def holds() -> bool:
            said = [one.state for one in list(self.server.heard) if one.WhichOneof("body") == "state"]
            if not said or said[-1].plan_hash != plan.hash:
                return False
            states = said[-1].profiles
            settled = all(probe.state != "Pending" for one in states for probe in one.probes)
            return settled and {(one.uid, one.generation) for one in states} == wanted

        self.until(holds, "in effect")

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.log.read_text()}"
            assert time.monotonic() < end, f"never {what}: {self.server.states()} {self.log.read_text()[-4000:]}"
            time.sleep(0.01)

    def until_seen(self, collector: Collector, program: subprocess.Popen[bytes], mark: str) -> ReceivedSpan:
        """Has a program make a mark, again and again, until one has been seen: a plan is told to be held a moment before."""
        path = f"/mark/{mark}"

        def seen() -> bool:
            line(program, mark)
            return any(span.attributes.get("file.path") == path for span in collector.spans())

        self.until(seen, f"seen: {mark}")
        return next(span for span in collector.spans() if span.attributes.get("file.path") == path)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # each thread says where it is
            status = self.process.wait(WAIT_SECONDS)
        assert status == 0, self.log.read_text()


Start = Callable[..., Running]


@contextlib.contextmanager
def starting(folder: Path, tls_files: TlsFiles, collector: Collector | None) -> Iterator[Start]:
    """Starts agents that dial one server; ends all. They export to the collector, or where it is said."""
    with contextlib.ExitStack() as stack:
        server = PlanServer(tls_files)
        stack.callback(server.close)
        token = folder / "token"
        token.write_text("secret")

        def begin(*more: str, under: Sequence[str] = (), otlp: str | None = None, **variables: str) -> Running:
            plain = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "KERNELSPAN_"))}
            environ = plain | {"KERNELSPAN_CACHE": plain.get("HOME", "/root") + "/.cache/kernelspan/objects"}
            environ |= {name: os.environ[name] for name in (ring_size.VARIABLE,) if name in os.environ}
            environ["PYTHONFAULTHANDLER"] = "1"
            log = folder / "agent.log"
            endpoint = collector.grpc_endpoint if collector and otlp is None else otlp
            with log.open("ab") as stderr:
                process = subprocess.Popen(
                    [
                        *under, *_COMMAND, "agent", "--operator", f"localhost:{server.port}", "--node", "n1",
                        "--token", str(token), "--ca", str(tls_files.ca), "--state", str(folder / "state"),
                        "--secrets", str(folder / "memory"), *(["--otlp", endpoint] if endpoint else []), *more,
                    ],
                    stderr=stderr, env=environ | variables,
                )  # fmt: skip
            stack.callback(_end, process)
            return Running(server, process, log)

        yield begin


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def profile(name: str, generation: int = 1, **spec: Any) -> ProfilePlan:
    spec = {"podSelector": {}, "correlation": {"acrossServices": True}, **spec}
    return ProfilePlan(
        uid=name,
        kind="TraceProfile",
        namespace="shop",
        name=name,
        generation=generation,
        spec=json.dumps(spec).encode(),
    )


def program(pod: Pod, container: str = "main", under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    path = Path(tempfile.gettempdir()) / "kernelspan-looker.py"
    path.write_text(PROGRAM)
    started = pod.run(PYTHON, "-S", str(path), container=container, under=under)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started
