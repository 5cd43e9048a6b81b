# SPDX-License-Identifier: Apache-2.0
"""Which lines there are (issue and design/benchmarks: ratios of one run), and the rows a run gives for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench import killed, own, web
from bench.killed import Killed
from bench.lines import Judge, Row, counted, unjudged
from bench.load import Flood, Steady
from bench.matrix import Matrix
from bench.web import Web

MEMORY_MB = 80
FLAT_MB = 4  # in ten minutes: a twentieth of what is allowed
TEN_MINUTES_SECONDS = 600
_FLAT_MINUTES = 5
_REACHED = 0.95  # of the rate asked for
FILES, NETWORK = ("files-memory", "sqlite"), ("pingpong", "connect", "http")


@dataclass
class Measured:
    """Everything one run found."""

    matrix: Matrix | None = None
    floods: list[Flood] = field(default_factory=list)
    steady: Steady | None = None
    spans_per_cpu_second: float = 0.0
    trace_per_cpu_second: float = 0.0
    encode_per_cpu_second: float = 0.0
    cold_seconds: list[float] = field(default_factory=list)
    warm_seconds: list[float] = field(default_factory=list)
    killed: Killed | None = None
    own: Matrix | None = None
    web: Web | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # parts


def rows(found: Measured) -> list[Row]:
    """All rows, in the order of the table."""
    listed = (_matrix_rows(found.matrix) if found.matrix else []) + _load_rows(found) + _own_rows(found)
    listed += killed.rows(found.killed) if found.killed else []
    listed += own.rows(found.own) if found.own else []
    return listed + (web.rows(found.web) if found.web else [])


def _matrix_rows(matrix: Matrix) -> list[Row]:
    judge = Judge(matrix)
    runtimes = list(dict.fromkeys(each.worker for each in matrix.workloads if not each.worker.startswith("neighbour")))
    found: list[Row | None] = []
    what = "equal data, added time, user probes : ours"
    keys = [(runtime, name) for runtime in runtimes for name in FILES + NETWORK]
    equal = [workload for key in keys if (workload := judge.workload(*key))]
    found += [judge.added_ratio(what, "user probes", "ours", workload, ">= 5") for workload in equal]
    for runtime in runtimes:
        found += _per_operation(judge, runtime)
    if workload := judge.workload("C", "dd"):
        found.append(judge.plain_ratio("dd bs=1, with us : without", "ours", "none", workload, "<= 5"))
    if workload := judge.workload("neighbour Python", "job"):
        found += [
            judge.plain_ratio(f"untraced neighbour, real work, {variant} : none", variant, "none", workload, "<= 1.02")
            for variant in ("ours", "tracepoints")
        ]
    if workload := judge.workload("neighbour C", "write1"):
        found += [
            judge.plain_ratio(f"untraced neighbour, armed call, {ours} : {empty}", ours, empty, workload, "<= 1.15")
            for ours, empty in (("ours", "empty raw"), ("raw", "empty raw"), ("tracepoints", "empty tracepoints"))
        ]
    return [row for row in found if row is not None]


def _per_operation(judge: Judge, runtime: str) -> list[Row | None]:
    workload = judge.workload(runtime, "write1")
    if workload is None:
        return []
    found: list[Row | None] = []
    for mechanism, empty in (("raw", "empty raw"), ("tracepoints", "empty tracepoints")):
        what = "added an operation, {} : empty pair of " + mechanism
        found.append(judge.added_ratio(what.format("no stack"), f"{mechanism}, no stack", empty, workload, "<= 2.5"))
        if runtime != "C":
            found.append(judge.added_ratio(what.format("16 frames"), mechanism, empty, workload, "<= 10"))
            share = f"added an operation, 16 frames ({mechanism}) : empty uprobe and uretprobe"
            found.append(judge.added_ratio(share, mechanism, "empty user", workload, "<= 0.45"))
    return found


def _load_rows(found: Measured) -> list[Row]:
    listed = []
    for flood in found.floods:
        where = f"reached {flood.reached_per_second:,.0f}/s of {flood.wanted_per_second:,}/s; {flood.made:,} operations"
        fates = ", ".join(f"{name} {count:,}" for name, count in sorted(flood.lost_after.items()) if count)
        note = f"seen {flood.seen:,}, exported {flood.exported:,}, lost in the kernel {flood.lost_in_kernel:,}"
        note += f", left out and counted: {fates}" if fates else ""
        if flood.wanted_per_second <= 200_000:
            row = counted(
                "loss between kernel and agent at 200,000 events/s", where, "= 0", [flood.lost_in_kernel], note
            )
            reached = flood.reached_per_second >= _REACHED * flood.wanted_per_second
            listed.append(
                row if reached or flood.lost_in_kernel else unjudged(row, "the generator did not reach the rate")
            )
        listed.append(
            counted(
                "accounting against the generator's own count, operations not accounted for",
                where,
                "= 0",
                [abs(flood.made - flood.seen) + abs(flood.unaccounted)],
                note,
            )
        )
    return listed + (_steady_rows(found.steady) if found.steady else [])


def _steady_rows(steady: Steady) -> list[Row]:
    minutes = steady.seconds[-1] / 60 if steady.seconds else 0
    note = f"{steady.exported:,} operations, {steady.spans:,} spans, {steady.cpu_seconds:.1f} s of CPU"
    rate = "ring to collector, function spans on, operations a core-second"
    most, growth = max(steady.anonymous_mb, default=0), steady.growth_mb(TEN_MINUTES_SECONDS)
    flat = counted(
        "its growth, MB in 10 minutes", f"slope of the second half of {minutes:.1f} min", f"< {FLAT_MB}", [growth]
    )
    return [
        counted(rate, "CPython, mix", ">= 50,000", [steady.per_core_second], note),
        counted("agent's anonymous memory, MB", f"the most in {minutes:.1f} min of load", f"< {MEMORY_MB}", [most]),
        flat if minutes >= _FLAT_MINUTES else unjudged(flat, f"a slope needs {_FLAT_MINUTES} min of load"),
    ]


def _own_rows(found: Measured) -> list[Row]:
    listed = []
    if found.spans_per_cpu_second:
        note = f"encoding alone {found.encode_per_cpu_second:,.0f}; trace/ alone {found.trace_per_cpu_second:,.0f} operations"
        listed.append(
            counted(
                "spans encoded and sent a core-second",
                "to a collector",
                ">= 100,000",
                [found.spans_per_cpu_second],
                note,
            )
        )
    for label, values in (("nothing compiled before", found.cold_seconds), ("compiled before", found.warm_seconds)):
        if values:
            listed.append(counted("command to first span, s", label, "< 1.5", values))
    return listed
