# SPDX-License-Identifier: Apache-2.0
"""Probes of one's own against bpftrace with the same probe and the same data: process, thread, time, arguments, what is returned.

A C function's return is seen by ours at its RET instruction, since a uretprobe writes into the stack of who is traced: bpftrace
is put there too, and its uretprobe, which is another probe, stands beside without a verdict. Both print or send every event. One kind of probe after the other is attached by both, in shuffled rounds, and both must have
captured the same number of events, none lost: a kind where they did not is not judged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.lines import AGAIN, NONE, Judge, Row, unjudged
from bench.machine import LOAD_CORE
from bench.matrix import Matrix, Workload, run_matrix
from bench.processes import BenchError, Worker, on_core
from bench.profiles import own_probe
from bench.variants import Open, Reports, Targets, Variant, nothing, ours

LINE = "<= 1.0"
COUNT, BURSTS = 1500, 7
_PAUSE_SECONDS = 0.12  # in which either takes a burst in: 13,000 events a second
_ATTACH_SECONDS, _START_SECONDS, _STOP_SECONDS = 1.5, 20.0, 60.0
_PAGES = "1024"  # of bpftrace's buffer for each CPU: nothing of a burst is lost
_INT, _TEXT = "Int32", "String"
_TEXT_BYTES = 63  # as many as bpftrace's str() takes without being asked for more


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of probe. `probe`: its entry in spec.probes. `script`: bpftrace's; PROGRAM, PID and RET stand for the worker's.

    `other`: in what bpftrace's probe is another one; such a kind has no verdict.
    """

    name: str
    workload: str
    probe: Mapping[str, Any]
    script: str
    other: str = ""


def _args(*types: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"index": index, "type": kind, "attribute": f"a{index}"} for index, kind in enumerate(types)
    ]
    return [{**each, "maxBytes": _TEXT_BYTES} if each["type"] == _TEXT else each for each in found]


_NAME, _RET = "bench_quote", "bench_quote_ret"  # Debian's bpftrace takes no offsets, so its RET has a name
_FUNCTION = {"uprobe": {"path": "PROGRAM", "symbols": [_NAME]}, "args": _args(_INT, _INT, _TEXT)}
_RETURNED = {**_FUNCTION, "mode": "Span", "returns": {"type": _INT, "attribute": "returned"}}
_BEGUN = f"uprobe:PROGRAM:{_NAME} /pid == PID/ {{ @call[tid] = (nsecs, arg0, arg1, str(arg2)); }}"
_ENDED = (
    ' {{ $call = @call[tid]; printf("%d %d %llu %llu %d %d %s %d\\n", pid, tid, $call.0, nsecs,'
    " $call.1, $call.2, $call.3, {returned}); delete(@call[tid]); }}"
)
KINDS = (
    Kind(
        "tracepoint",
        "write1",
        {
            "tracepoint": {"category": "syscalls", "event": "sys_enter_write"},
            "mode": "Event",
            "args": [
                {"field": "fd", "type": "UInt32", "attribute": "fd"},
                {"field": "count", "type": "Size", "attribute": "count"},
            ],
        },
        "tracepoint:syscalls:sys_enter_write /pid == PID/"
        ' { printf("%d %d %llu %d %llu\\n", pid, tid, nsecs, args->fd, args->count); }',
    ),
    Kind(
        "raw tracepoint",
        "getppid",
        {
            "tracepoint": {"category": "raw_syscalls", "event": "sys_enter", "raw": True},
            "mode": "Event",
            "args": _args("UInt64", "Int64"),
        },
        # The same event by its tracepoint, and the number of an argument for the address of all: 0.17 knows no raw tracepoints.
        "tracepoint:raw_syscalls:sys_enter /pid == PID/"
        ' { printf("%d %d %llu %llu %d\\n", pid, tid, nsecs, args->args[0], args->id); }',
    ),
    Kind(
        "uprobe",
        "function",
        {**_FUNCTION, "mode": "Event"},
        "uprobe:PROGRAM:bench_quote /pid == PID/"
        ' { printf("%d %d %llu %d %d %s\\n", pid, tid, nsecs, arg0, arg1, str(arg2)); }',
    ),
    Kind(
        "uprobe and return",
        "returns",
        _RETURNED,
        f"{_BEGUN} uprobe:PROGRAM:{_RET} /pid == PID/" + _ENDED.format(returned='(int32)reg("ax")'),
    ),
    Kind(
        "uprobe against uretprobe",
        "returns",
        _RETURNED,
        f"{_BEGUN} uretprobe:PROGRAM:{_NAME} /pid == PID/" + _ENDED.format(returned="(int32)retval"),
        other="a uretprobe writes an address of its own into the traced program's stack, which ours does not",
    ),
    Kind(
        "usdt",
        "static",
        {
            "usdt": {"path": "PROGRAM", "provider": "bench", "probe": "placed"},
            "mode": "Event",
            "args": _args(_INT, _INT),
        },
        'usdt:PROGRAM:bench:placed /pid == PID/ { printf("%d %d %llu %d %d\\n", pid, tid, nsecs, arg0, arg1); }',
    ),
)


def _of(what: str, kind: Kind) -> str:
    return f"{what}, {kind.name}"


def variants(program: str) -> list[Variant]:
    """Nothing twice; then each kind by ours, and by bpftrace where it is there."""
    every = tuple(kind.name for kind in KINDS)
    found = [
        Variant(NONE, "nothing attached", "none", every, nothing),
        Variant(AGAIN, "nothing attached, once more: the noise", "none", every, nothing),
    ]
    for kind in KINDS:
        probe = _placed(kind.probe, program)
        found.append(Variant(_of("ours", kind), f"ours: {kind.name}", "equal", (kind.name,), ours(own_probe(probe))))
        if shutil.which("bpftrace"):
            what = f"bpftrace: {kind.name}"
            script = kind.script.replace("PROGRAM", program)
            found.append(Variant(_of("bpftrace", kind), what, "equal", (kind.name,), _bpftrace(script)))
    return found


def _placed(probe: Mapping[str, Any], program: str) -> dict[str, Any]:
    """The probe on that program."""
    return {
        name: {**value, "path": program} if isinstance(value, Mapping) and "path" in value else value
        for name, value in probe.items()
    }


# --- bpftrace -------------------------------------------------------------------------------------------------------------


def _bpftrace(script: str) -> Open:
    """It prints every event into a file; what it counted is its report."""

    @contextmanager
    def opened(targets: Targets, reports: Reports) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="kernelspan-bench-", dir="/dev/shm") as folder:
            output, log = Path(folder) / "events", Path(folder) / "log"
            text = 'BEGIN { printf("attached\\n"); } ' + script.replace("PID", str(targets.pids[0]))
            with output.open("wb") as events, log.open("wb") as words:
                process = subprocess.Popen(
                    on_core(LOAD_CORE, ["bpftrace", "-B", "line", "-e", text]),
                    stdin=subprocess.DEVNULL,
                    stdout=events,
                    stderr=words,
                    env={**os.environ, "BPFTRACE_PERF_RB_PAGES": _PAGES},
                )
            try:
                _wait_for(process, output, log)
                yield
            finally:
                _end(process)
            reports.append(counted(output.read_text(errors="replace"), log.read_text(errors="replace")))

    return opened


def _wait_for(process: subprocess.Popen[bytes], output: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while "attached" not in output.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"bpftrace does not start: {log.read_text(errors='replace')[-400:]}")
        time.sleep(0.05)
    time.sleep(_ATTACH_SECONDS)  # it says so before it attaches the rest


def _end(process: subprocess.Popen[bytes]) -> None:
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
        return
    process.kill()
    process.wait()


def counted(events: str, log: str) -> dict[str, Any]:
    """What bpftrace printed, in the form of our agent's report: a line that begins with a number is an event."""
    seen = sum(line[:1].isdigit() for line in events.splitlines())
    words = [line.split() for line in (events + "\n" + log).splitlines()]
    lost = sum(int(each[1]) for each in words if len(each) == 3 and each[0] == "Lost" and each[2] == "events")
    return {"operations": {"seen": seen, "dropped": {"Lost": lost} if lost else {}}}


# --- the part -------------------------------------------------------------------------------------------------------------


def measure(worker: Worker, program: str, endpoint: str, rounds: int, say: Callable[[str], None]) -> Matrix:
    """So many rounds of every kind. Raises BenchError."""
    todo = [Workload(worker.label, kind.workload, COUNT, kind.name, BURSTS, pause=_PAUSE_SECONDS) for kind in KINDS]
    return run_matrix(
        variants(program), {worker.label: worker}, todo, endpoint, rounds=rounds, until=float("inf"), say=say
    )


def rows(matrix: Matrix) -> list[Row]:
    """One for each kind that both were measured on."""
    judge, found = Judge(matrix), list[Row]()
    for kind, workload in zip(KINDS, matrix.workloads, strict=True):
        mine, other = _of("ours", kind), _of("bpftrace", kind)
        row = judge.added_ratio(f"own probe, {kind.name}, added time, ours : bpftrace", mine, other, workload, LINE)
        if row is not None:
            problem = difference(matrix.reports[mine], matrix.reports[other], COUNT * BURSTS)
            reason = problem or kind.other
            found.append(unjudged(row, reason) if reason else row)
    return found


def difference(mine: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], made: int) -> str:
    """Why the two have not the same data; empty: they have. `made`: calls of the workload a round, of which none may miss."""
    for who, reports in (("ours", mine), ("bpftrace", other)):
        lost = Counter[str]()
        for each in reports:
            lost.update(each["operations"]["dropped"])
        if any(lost.values()):
            return f"{who} lost events: {', '.join(f'{why} {count:,}' for why, count in sorted(lost.items()) if count)}"
        if any(each["operations"]["seen"] < made for each in reports):
            return f"{who} saw {min(each['operations']['seen'] for each in reports):,} of {made:,} events"
    counts = [{each["operations"]["seen"] for each in reports} for reports in (mine, other)]
    return "" if counts[0] == counts[1] else f"not the same events: {sorted(counts[0])} and {sorted(counts[1])}"
