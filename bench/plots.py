# SPDX-License-Identifier: Apache-2.0
"""The plots of a run, by name: what each variant adds, per workload; the agent's memory."""

from __future__ import annotations

from bench.judging import MEMORY_MB, Measured
from bench.lines import Judge
from bench.svg import Bar, bars, series

_SHOWN = (
    ("write1", "a one-byte write"),
    ("files-memory", "a file's life in memory"),
    ("sqlite", "a row in and out of SQLite"),
    ("pingpong", "a TCP message and its answer"),
    ("http", "an HTTP request"),
)
_OURS = ("raw", "tracepoints", "ours")


def plots(found: Measured) -> dict[str, str]:
    """File name without suffix: SVG text."""
    drawn = {}
    kernel = found.facts.get("kernel", "")
    if found.matrix is not None:
        judge = Judge(found.matrix)
        for runtime in dict.fromkeys(each.worker for each in found.matrix.workloads):
            for name, words in _SHOWN:
                workload = judge.workload(runtime, name)
                if workload is None or runtime.startswith("neighbour"):
                    continue
                data = []
                for variant in found.matrix.variants:
                    added = judge.added_ns(variant.name, workload)
                    if added is not None and not variant.name.startswith("none"):
                        data.append(Bar(variant.name, added, variant.name.startswith(_OURS)))
                title = f"Added to {words}, {runtime}"
                subtitle = f"ns of CPU, {found.matrix.rounds} rounds, 95 % intervals, logarithmic; Linux {kernel}"
                drawn[f"{name}-{runtime.replace(' ', '-').lower()}"] = bars(title, subtitle, data, "ns")
    if found.steady is not None and found.steady.seconds:
        steady = found.steady
        drawn["memory"] = series(
            "The agent's anonymous memory, MB",
            f"under load, Linux {kernel}",
            steady.seconds,
            steady.anonymous_mb,
            MEMORY_MB,
        )
    return drawn
