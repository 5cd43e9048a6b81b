# SPDX-License-Identifier: Apache-2.0
"""An engine that a test steps itself, with exporters that remember, and a program that does what it is told."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kernelspan_agent.engine import Engine
from kernelspan_agent.export.base import DirectOutput
from kernelspan_agent.model import VALUE_KEYS, SpanBatch
from kernelspan_agent.profile_run import ProfileRun
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.resolve.traced import TracedProcess
from kernelspan_api.plan import Wanted, together
from kernelspan_api.plan import wanted as wanted_by
from kernelspan_api.profile import TraceProfile, load
from tests.support.runs import SYSTEM_PYTHON, UNLIMITED

WAIT_SECONDS = 30.0
SETTLE_STEPS = 20
# Does what each line of its input says, and answers with a line.
PROGRAM = """
import os, signal, socket, subprocess, sys, time
near, far = socket.socketpair()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)  # a call that it stops begins anew
def look(name):
    try: os.stat("/mark/" + name)
    except OSError: pass
children = []
def do(what, name="", *more):
    if what == "look": look(name)
    elif what == "exec": os.execv(sys.executable, sys.orig_argv)
    elif what == "sleep": time.sleep(float(name))
    elif what == "spin":  # keeps a CPU busy, and closes a socket
        peer, end = socket.socket(), time.monotonic() + float(name)
        while time.monotonic() < end: pass
        peer.close()
    elif what == "receive-now": far.send(b"x"); near.recv(1)
    elif what == "receive":  # after two seconds
        if not os.fork():
            time.sleep(2)
            far.send(b"x")
            os._exit(0)
        near.recv(1)
    elif what == "connect":
        for port in (name, *more):
            with socket.socket() as peer: peer.connect_ex(("127.0.0.1", int(port)))
    elif what == "fork":  # a child that does the same things
        a, b = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(a[0], 0); os.dup2(b[1], 1)
            for line in iter(lambda: os.read(0, 4096), b""):
                do(*line.decode().split())
                os.write(1, b"done\\n")
            os._exit(0)
        children.append((pid, a[1], b[0]))
        return pid
    elif what == "child":
        os.write(children[-1][1], (name + " " + " ".join(more) + "\\n").encode())
        os.read(children[-1][2], 100)
    return "done"
print("ready", flush=True)
while line := sys.stdin.readline():
    print(do(*line.split()), flush=True)
"""


class Program:
    """PROGRAM, running."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, "-S", "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.answer()

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def answered(self) -> bool:
        """Whether there is an answer that was not read."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def do(self, line: str) -> str:
        self.say(line)
        return self.answer()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Seen(DirectOutput):
    """An exporter that remembers the operations it was given: their path or peer, by name."""

    def __init__(self) -> None:
        super().__init__("seen")
        self.spans: list[tuple[str, str]] = []
        self.attributes: list[dict[str, Any]] = []  # of each

    def deliver(self, batch: SpanBatch) -> None:
        for row in range(batch.operations):
            found: dict[str, Any] = {}
            name = ""
            for segment in batch.segments[row]:
                if segment is not None:
                    found.update(segment.attributes)
                    name = segment.name or name
            keys, values = batch.rows["value_keys"][row], batch.rows["values"][row]
            found.update({VALUE_KEYS[key]: int(value) for key, value in zip(keys, values, strict=True) if key})
            self.attributes.append(found)
            self.spans.append((name, str(found.get("file.path") or found.get("network.peer.port") or "")))

    @property
    def marks(self) -> list[str]:
        return [what.removeprefix("/mark/") for _, what in self.spans if what.startswith("/mark/")]


@dataclass
class Made:
    """An engine, and what its profiles have seen."""

    engine: Engine
    seen: dict[str, Seen] = field(default_factory=dict)

    def add(self, uid: str, spec: dict[str, Any]) -> ProfileRun:
        self.seen[uid] = Seen()
        return self.engine.add(uid, profile(uid, spec), self.seen[uid], ResourceSettings())

    def trace(self, program: Program, *uids: str) -> TracedProcess:
        traced = self.engine.trace(program.pid, "program", frozenset(uids))
        self.until(lambda: traced.runtime is not None, "its runtime is known")
        return traced

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, f"never: {what}"
            self.engine.step(0.01)

    def settle(self) -> None:
        """Until all that has happened up to now has been taken on: the ring is looked at every 50 ms."""
        end, steps = time.monotonic() + 0.3, 0
        while (
            time.monotonic() < end or steps < SETTLE_STEPS
        ):  # one that looks at a new program takes as long on a busy machine
            self.engine.step(0.01)
            steps += 1

    def remove(self, uid: str) -> None:
        self.engine.remove(uid)

    def end(self) -> None:
        """Every balance is one, and says of each profile what it has been given."""
        self.engine.finish()
        for uid in self.engine.profiles:
            found = self.engine.accounting_of(uid)
            assert found.unaccounted == 0, (uid, found)
            assert found.exported == len(self.seen[uid].spans), (uid, found)


Begin = Callable[[], Program]
Make = Callable[..., Made]


@contextlib.contextmanager
def programs() -> Iterator[Begin]:
    """Begins programs; all end with the block."""
    with contextlib.ExitStack() as stack:

        def begin() -> Program:
            made = Program()
            stack.callback(made.close)
            return made

        yield begin


@contextlib.contextmanager
def engines(**defaults: Any) -> Iterator[Make]:
    """Makes engines for all that some specs want together, with the options of Engine; all are closed with the block."""
    with contextlib.ExitStack() as stack:

        def make(*specs: dict[str, Any], **options: Any) -> Made:
            engine = Engine(wanted_of(*specs), {**os.environ}, **{**defaults, **options})
            stack.callback(engine.close)
            return Made(engine)

        yield make


def wanted_of(*specs: dict[str, Any]) -> Wanted:
    """What profiles with these specs want together."""
    return together([wanted_by("p", profile("p", spec).spec) for spec in specs])


def profile(name: str, spec: dict[str, Any]) -> TraceProfile:
    document = {
        "apiVersion": "kernelspan.io/v1alpha1",
        "kind": "TraceProfile",
        "metadata": {"name": name},
        "spec": {"limits": UNLIMITED, **spec, "code": {"functions": False, **spec.get("code", {})}},
    }
    return load(json.dumps(document).encode(), standalone=True)
