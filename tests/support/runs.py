# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run` as a user runs it, and what came of it: status, output, spans, accounting.

Every run that ends in order is checked for its balance: seen = exported + filtered + … with nothing unaccounted for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kernelspan_agent.app import App
from kernelspan_agent.export.base import Exporter
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_api.operations import OPERATIONS
from kernelspan_api.profile import load
from tests.support.otlp_json import ReceivedSpan, spans_of
from tests.support.ports import PortReservation
from tests.support.server import answers_ok

KERNELSPAN = Path(sys.executable).with_name("kernelspan")
PROGRAMS = Path(__file__).with_name("programs")
SYSTEM_PYTHON = "/usr/bin/python3"  # without the start-up files of a virtual environment
TIMEOUT_SECONDS = 120
UNLIMITED = {"eventsPerSecond": 10_000_000, "spansPerSecond": 10_000_000, "cpuMillicores": 64_000}
_NAMES = {operation.span_name: operation.name for operation in OPERATIONS}


@dataclass(frozen=True, slots=True)
class Run:
    """What one run left. `report` is empty where it ended before it could write one."""

    status: int
    stdout: bytes
    stderr: str
    spans: list[ReceivedSpan]
    report: dict[str, Any]

    @property
    def operations(self) -> list[ReceivedSpan]:
        """The operations' spans in the order of their start."""
        return sorted(
            (span for span in self.spans if operation_of(span)), key=lambda span: (span.start_ns, -span.end_ns)
        )

    def of(self, pid: int) -> list[ReceivedSpan]:
        """The operations of one process."""
        return [span for span in self.operations if span.resource["process.pid"] == pid]

    @property
    def balance(self) -> dict[str, Any]:
        """The report's accounting."""
        found: dict[str, Any] = self.report["operations"]
        return found


def operation_of(span: ReceivedSpan) -> str:
    """Name of the operation that a span stands for; empty: it stands for none."""
    head, _, rest = span.name.partition(".")
    known = _NAMES.get(span.name, "")
    return known or (_NAMES.get(f"socket.{rest}", "") if head in ("tcp", "udp", "unix", "icmp") else "")


def profile(folder: Path, **spec: Any) -> Path:
    """A profile file with this spec; limits are out of the way and no stacks are walked unless it says otherwise."""
    spec = {"limits": UNLIMITED, "code": {"stacks": "None", "functions": False}, **spec}
    path = folder / f"profile-{len(list(folder.glob('profile-*')))}.yaml"
    head = {"apiVersion": "kernelspan.io/v1alpha1", "kind": "TraceProfile", "metadata": {"name": "test"}}
    path.write_text(yaml.safe_dump({**head, "spec": spec}))
    return path


def check_balance(report: Mapping[str, Any]) -> None:
    """The accounting's one rule, from the single figures and from what the report says of them."""
    found = report["operations"]
    rest = sum(found[key] for key in ("exported", "filtered", "sampledOut", "rateLimited", "inFlight"))
    assert found["unaccounted"] == 0, found
    assert found["seen"] == rest + sum(found["dropped"].values()), found
    assert min(found[key] for key in ("exported", "filtered", "sampledOut", "rateLimited", "inFlight")) >= 0, found


def read_spans(path: Path) -> list[ReceivedSpan]:
    """The spans of an --output file; a last line that was cut off is left out."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [span for line in lines if line.endswith("\n") for span in spans_of(json.loads(line))]


@dataclass(slots=True)
class Agent:
    """A running `kernelspan run`."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def output(self) -> Path:
        """Its spans."""
        return self.folder / "spans.jsonl"

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Until the condition holds. Raises AssertionError where it does not, or the agent ends first."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {what}: {self.stderr()}"
            assert time.monotonic() < deadline, f"never {what}: {self.stderr()} {self.told()}"
            time.sleep(0.01)

    def told(self) -> str:
        """What it has told so far, for messages: how many spans of each kind every process has, and why they have no code."""
        spans = read_spans(self.output)
        kinds = Counter((str(span.resource.get("process.pid")), span.kind, _missing(span)) for span in spans)
        return ", ".join(f"{count} of {' '.join(filter(None, kind))}" for kind, count in sorted(kinds.items()))[:2000]

    def wait_for_spans(self, count: int = 1, where: Callable[[ReceivedSpan], bool] = lambda _: True) -> None:
        """Until so many spans are in the output."""
        self.wait_until(lambda: sum(where(span) for span in read_spans(self.output)) >= count, f"{count} spans")

    def stop(self, number: int = signal.SIGINT) -> Run:
        """Signals it, and gives what it left."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self, *, balanced: bool = True) -> Run:
        """Waits for its end, and gives what it left."""
        stdout, _ = self.process.communicate(timeout=TIMEOUT_SECONDS)
        report_path = self.folder / "report.json"
        report = json.loads(report_path.read_text()) if report_path.exists() and report_path.stat().st_size else {}
        if report and balanced:
            check_balance(report)
        return Run(self.process.returncode, stdout, self.stderr(), read_spans(self.output), report)

    def stderr(self) -> str:
        """What it has said so far."""
        return (self.folder / "stderr").read_text(errors="replace")


@contextlib.contextmanager
def agent(
    folder: Path,
    profile_path: Path,
    *command: str | Path,
    options: Sequence[str | Path] = (),
    output: bool = True,
    **popen: Any,
) -> Iterator[Agent]:
    """`kernelspan run` in the background; killed at the end of the block if it still runs."""
    folder = folder / f"run-{len(list(folder.glob('run-*')))}"
    folder.mkdir()
    arguments: list[str | Path] = [KERNELSPAN, "run", "-f", profile_path, "--report", folder / "report.json", *options]
    if output:
        arguments += ["--output", folder / "spans.jsonl"]
    if command:
        arguments += ["--", *command]
    popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "cwd": folder, **popen}
    with (folder / "stderr").open("wb") as stderr, subprocess.Popen(arguments, stderr=stderr, **popen) as process:
        try:
            yield Agent(process, folder)
        finally:
            if process.poll() is None:
                process.kill()


def _missing(span: ReceivedSpan) -> str:
    return str(span.attributes.get("kernelspan.code.missing", ""))


@contextlib.contextmanager
def attached(folder: Path, profile_path: Path, *options: str | Path, **popen: Any) -> Iterator[Agent]:
    """An agent without a command of its own, as soon as it traces."""
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
    with agent(folder, profile_path, options=[*options, "--listen", f"127.0.0.1:{port}"], **popen) as running:
        running.wait_until(lambda: _is_ready(port), "ready")
        yield running


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        return answers_ok(port, "/readyz")
    return False


def run(folder: Path, profile_path: Path, *command: str | Path, **options: Any) -> Run:
    """A run of a command from its start to its end."""
    balanced = options.pop("balanced", True)
    with agent(folder, profile_path, *command, **options) as started:
        return started.finish(balanced=balanced)


@contextlib.contextmanager
def app_of(profile_path: Path, exporter: Exporter | None = None, **settings: Any) -> Iterator[App]:
    """An agent inside this process, for what the command line does not let one set; without outputs all is exported."""
    profile_read = load(profile_path.read_bytes(), standalone=True)
    made = App(profile_read, exporter or Pipeline([]), {**os.environ}, resource=ResourceSettings(), **settings)
    try:
        yield made
    finally:
        made.close()


def accounting_of(app: App, timeout_seconds: float = 5.0) -> dict[str, Any]:
    """Ends an agent of `app_of`, and gives its balance, which must be one."""
    app.end(timeout_seconds)
    found = app.accounting().as_json()
    check_balance({"operations": found})
    return found


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one scenario of a program says it did, and what the spans say. Both in order of time."""

    pid: int
    said: list[dict[str, Any]]
    seen: list[dict[str, Any]]
    more: dict[str, Any]  # whatever else the scenario has to say
    spans: list[ReceivedSpan]
    others: list[Scenario]  # of its children, where it says what they did


def scenarios(ran: Run) -> dict[str, Scenario]:
    """By name, of a program of tests/support/programs."""
    assert ran.status == 0, ran.stderr
    found = {}
    for line in ran.stdout.decode().splitlines():
        said = json.loads(line)
        others = [_scenario(ran, int(pid), each, {}, []) for pid, each in said["more"].get("others", {}).items()]
        found[said["name"]] = _scenario(ran, said["pid"], said["said"], said["more"], others)
    return found


def _scenario(ran: Run, pid: int, said: list[dict[str, Any]], more: dict[str, Any], others: list[Scenario]) -> Scenario:
    spans = ran.of(pid)
    expected = [{key: _shown(value) for key, value in each.items()} for each in said]
    return Scenario(pid, expected, [_facts(span, _keys(expected)) for span in spans], more, spans, others)


def _keys(expected: Iterable[Mapping[str, Any]]) -> set[str]:
    return {key for each in expected for key in each} | {"error.type"}


def _facts(span: ReceivedSpan, keys: set[str]) -> dict[str, Any]:
    found = {"name": span.name, **{key: value for key, value in span.attributes.items() if key in keys}}
    assert (span.status == "ERROR") == ("error.type" in span.attributes), span
    return found


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def listing(pid: int) -> list[int]:
    """The children of a process's main thread, now."""
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
