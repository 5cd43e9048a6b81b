# SPDX-License-Identifier: Apache-2.0
"""`python -m bench [--check] [--quick] [--part NAME]...`: measure, say, and with --check compare with the lines to hold.

Writes bench/results (JSON and plots) and docs/reference/benchmarks.md, unless --check or --output says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import killed, load, machine, own, start, web
from bench.collectors import collector
from bench.judging import Measured, rows
from bench.lines import Row, Verdict
from bench.matrix import run_matrix, workloads
from bench.plots import plots
from bench.processes import HERE, BenchError, Peer, Worker, compile_c
from bench.report import lines_table, page
from bench.variants import NEIGHBOUR, variants
from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.tracefs import Tracefs

PARTS = ("matrix", "own", "flood", "steady", "killed", "send", "start", "web")
_QUICK_VARIANTS = ("none", "none again", "empty raw", "empty user", "raw, no stack", "raw", "ours", "user probes")


@dataclass(frozen=True)
class Effort:
    """How long each part may take."""

    rounds: int
    matrix_seconds: float
    steady_seconds: float
    flood_seconds: float
    kills: int
    starts: int
    send_rounds: int
    web_rounds: int
    web_seconds: float  # of each variant at the rate, and again at saturation
    own_rounds: int


FULL, QUICK = Effort(10, 640, 600, 5, 50, 5, 5, 10, 8, 10), Effort(3, 75, 60, 2, 5, 2, 2, 3, 3, 3)


@dataclass
class Bench:
    """The processes of a run, and where they write."""

    workers: dict[str, Worker] = field(default_factory=dict)
    pythons: list[str] = field(default_factory=list)
    endpoint: str = ""
    http_endpoint: str = ""
    sink: str = ""
    program: list[str] = field(default_factory=list)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def interpreters() -> dict[str, str]:
    """CPythons of this machine by version: 3.12, whose walk the line is about, then 3.11 and 3.13, then the others."""
    from tests.support.pythons import own_interpreters  # noqa: PLC0415 - a checkout without tests can measure the rest

    order = {12: 0, 11: 1, 13: 2}
    found: dict[str, str] = {}
    for each in sorted(
        own_interpreters(), key=lambda interpreter: (order.get(interpreter.minor, 3), -interpreter.minor)
    ):
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([each.program, "-c", "import sqlite3"], capture_output=True, timeout=10, check=True)
            found.setdefault(f"CPython 3.{each.minor}", each.program)
    if not found:
        raise BenchError("there is no CPython with sqlite3 on this machine")
    return found


@contextmanager
def set_up(parts: Sequence[str], *, quick: bool) -> Iterator[Bench]:
    """Programs compiled, workers and collector started; all of it ended and removed at the end."""
    bench = Bench()
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    with ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelspan-bench-", dir="/var/tmp")))
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelspan-bench-", dir="/dev/shm")))
        bench.endpoint, bench.http_endpoint, bench.sink = stack.enter_context(collector(disk, say))
        if not set(parts) & {"matrix", "own", "flood", "steady", "killed"}:
            yield bench
            return
        peer = stack.enter_context(Peer(compile_c("peer.c", disk, "-static")))
        arguments = [str(memory), str(disk), *peer.ports]
        bench.program = [str(compile_c("work.c", disk)), *arguments]
        script = str(HERE / "workloads" / "work.py")
        pythons = interpreters()
        bench.pythons = list(pythons)[: 1 if quick else 3]
        commands = {"C": bench.program, "neighbour C": bench.program}
        commands |= {label: [pythons[label], script, *arguments] for label in bench.pythons}
        commands["neighbour Python"] = [pythons[bench.pythons[0]], script, *arguments]
        for label, command in commands.items():
            bench.workers[label] = stack.enter_context(Worker(label, command))
        yield bench


def measure(parts: Sequence[str], effort: Effort, *, quick: bool) -> Measured:
    """All parts asked for, one after the other."""
    found = Measured()
    found.facts = machine.describe()
    began, steal = time.monotonic(), machine.steal_ticks()
    if {"matrix", "own"} & set(parts):
        Tracefs.find()  # what others attach to; before an hour's work, not in the midst of it
    with set_up(parts, quick=quick) as bench:
        found.facts["sink"], found.facts["pythons"] = bench.sink, bench.pythons
        for part in parts:
            say(part)
            try:
                _PARTS[part](bench, found, effort, quick)
            except BenchError as error:
                if len(parts) == 1 or part not in _APART:
                    raise
                say(f"{part} was not measured: {error}")  # the other parts were, for half an hour
                found.failed.append(part)
    found.facts["seconds"] = round(time.monotonic() - began)
    found.facts["steal_ticks"] = machine.steal_ticks() - steal
    return found


def _matrix(bench: Bench, found: Measured, effort: Effort, quick: bool) -> None:
    chosen = [each for each in variants() if not quick or each.name in _QUICK_VARIANTS]
    todo = workloads(bench.pythons, quick=quick)
    if quick:
        todo = [each for each in todo if each.name not in {"files-disk", "connect"} or each.in_set == NEIGHBOUR]
    until = time.monotonic() + effort.matrix_seconds
    found.matrix = run_matrix(chosen, bench.workers, todo, bench.endpoint, rounds=effort.rounds, until=until, say=say)


def _own_probes(bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    found.own = own.measure(bench.workers["C"], bench.program[0], bench.endpoint, effort.own_rounds, say)


def _flood(bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    found.floods.append(load.flood(bench.workers["C"], bench.endpoint, 200_000, effort.flood_seconds, 1))
    with Worker("flood", bench.program, core=None) as free:
        os.sched_setaffinity(free.pid, range(os.cpu_count() or 1))
        found.floods.append(load.flood(free, bench.endpoint, 1_000_000, effort.flood_seconds, 4))


def _steady(bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    found.steady = load.steady(bench.workers[bench.pythons[0]], bench.endpoint, effort.steady_seconds, 0.02, say)


def _killed(bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    found.killed = killed.measure(bench.workers["C"], bench.endpoint, effort.kills, say)


def _send(_bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    sent = _own("encode.py", "--rounds", str(effort.send_rounds))
    traced = _own("trace_rate.py", "--rounds", str(effort.send_rounds))
    found.spans_per_cpu_second = sent["send_grpc_spans_per_cpu_second"]
    found.encode_per_cpu_second = sent["encode_spans_per_cpu_second"]
    found.trace_per_cpu_second = traced["operations_per_cpu_second"]
    found.facts["send"], found.facts["trace"] = sent, traced


def _own(script: str, *arguments: str) -> dict[str, Any]:
    """What one of the folder's own small benchmarks says. Raises BenchError."""
    child = subprocess.run(
        [sys.executable, str(HERE / script), "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
    )
    if child.returncode:
        raise BenchError(f"{script}: {child.stderr.strip()[-400:]}")
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


def _start(_bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    found.cold_seconds = start.first_span_seconds(cold=True, times=effort.starts)
    found.warm_seconds = start.first_span_seconds(cold=False, times=effort.starts)


def _web(bench: Bench, found: Measured, effort: Effort, _quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="kernelspan-bench-", dir="/dev/shm") as folder:
        ends = bench.endpoint, bench.http_endpoint
        found.web = web.measure(Path(folder), *ends, effort.web_rounds, effort.web_seconds, say)


_PARTS = {
    "matrix": _matrix,
    "own": _own_probes,
    "flood": _flood,
    "steady": _steady,
    "killed": _killed,
    "send": _send,
    "start": _start,
    "web": _web,
}


_APART = {"send", "start", "web"}  # share no process with others


def write(found: Measured, table: Sequence[Row], folder: Path, reference: Path) -> None:
    """The result as JSON, its plots, and the page made of it."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "facts": found.facts,
        "lines": [row.as_json() for row in table],
        "matrix": found.matrix.as_json() if found.matrix else [],
        "reports": dict(found.matrix.reports) if found.matrix else {},
        "own": found.own.as_json() if found.own else [],
        "floods": [{name: getattr(flood, name) for name in flood.__slots__} for flood in found.floods],
        "memory_mb": found.steady.anonymous_mb if found.steady else [],
        "web": found.web.as_json() if found.web else {},
        "killed": asdict(found.killed) if found.killed else {},
        "start_seconds": {"cold": found.cold_seconds, "warm": found.warm_seconds},
    }
    (folder / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, text in plots(found).items():
        (folder / f"{name}.svg").write_text(text)
    reference.write_text(page(found, table))
    say(f"written: {folder}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a judged line does not hold; writes nothing"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and one minute of load: for development")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--rounds", type=int, help="rounds of the matrix, of own and of web")
    parser.add_argument("--minutes", type=float, help="of steady load")
    parser.add_argument("--output", type=Path, help="write results here instead of bench/results and docs/reference")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    effort = Effort(
        options.rounds or effort.rounds,
        effort.matrix_seconds if not options.rounds else float("inf"),
        options.minutes * 60 if options.minutes else effort.steady_seconds,
        effort.flood_seconds,
        effort.kills,
        effort.starts,
        effort.send_rounds,
        options.rounds or effort.web_rounds,
        effort.web_seconds,
        options.rounds or effort.own_rounds,
    )
    if os.geteuid() != 0:
        say("loading kernel programs needs root")
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = measure(options.part or PARTS, effort, quick=options.quick)
    except (BenchError, MachineError) as error:
        say(f"{error}: {error.hint}" if isinstance(error, MachineError) and error.hint else str(error))
        return 3
    table = rows(found)
    print(lines_table(table))
    if options.output is not None:
        write(found, table, options.output, options.output / "benchmarks.md")
    elif not options.check and not found.failed:
        write(found, table, HERE / "results", HERE.parent / "docs" / "reference" / "benchmarks.md")
    if found.failed:
        return 3
    return int(options.check and any(row.verdict is Verdict.NOT_HELD for row in table))


if __name__ == "__main__":
    sys.exit(main())
