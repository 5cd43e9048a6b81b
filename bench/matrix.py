# SPDX-License-Identifier: Apache-2.0
"""Every variant on every workload, interleaved and shuffled round by round; the first burst of each is thrown away.

A burst is short enough to fit into the ring whole, and what follows waits until it is drained: the figures are those of
operations that are all captured. `Cell` keeps one figure a round, the median of its bursts.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.processes import BenchError, Worker
from bench.variants import APPLICATION, CHILD, MICRO, NEIGHBOUR, Reports, Targets, Variant, attached

PAUSE_SECONDS = 0.02  # what a burst left in the ring is drained meanwhile
Key = tuple[str, str]  # worker, workload


@dataclass(frozen=True, slots=True)
class Workload:
    """`count` operations a burst. `in_set`: which variants it is for. `by_wall`: another process does the work."""

    worker: str
    name: str
    count: int
    in_set: str
    bursts: int = 5
    by_wall: bool = False
    pause: float = PAUSE_SECONDS  # behind each burst

    @property
    def key(self) -> Key:
        """Of its cells."""
        return (self.worker, self.name)


def workloads(pythons: Sequence[str], *, quick: bool) -> list[Workload]:
    """Of one round: C, each Python (the first in full), and the neighbours that nobody traces."""
    applications = (("files-memory", 100), ("files-disk", 10), ("pingpong", 150), ("connect", 60), ("http", 150))
    micro = (("getppid", 3000), ("write1", 3000), ("pread4k", 2000))
    found = [Workload("C", name, count, MICRO) for name, count in micro]
    found += [Workload("C", name, count, APPLICATION) for name, count in applications]
    found.append(Workload("C", "dd", 10_000, CHILD, 2, by_wall=True))
    for number, python in enumerate(pythons):
        found += [Workload(python, name, count, MICRO) for name, count in micro[1 : 2 if number else 3]]
        if number == 0:
            found += [Workload(python, name, count, APPLICATION) for name, count in (*applications, ("sqlite", 40))]
            found.append(Workload(python, "job", 15, APPLICATION))
    found += [
        Workload("neighbour C", "write1", 20_000, NEIGHBOUR, 6),
        Workload("neighbour C", "getppid", 20_000, NEIGHBOUR, 4),
        Workload("neighbour Python", "job", 20 if quick else 40, NEIGHBOUR, 6),
    ]
    return found


@dataclass
class Cell:
    """A variant on a workload: nanoseconds an operation, one figure a round."""

    wall_ns: dict[int, float] = field(default_factory=dict)
    cpu_ns: dict[int, float] = field(default_factory=dict)


@dataclass
class Matrix:
    """Cells by variant and workload, and what our agents reported, by variant."""

    variants: list[Variant]
    workloads: list[Workload]
    rounds: int
    cells: dict[str, dict[Key, Cell]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Cell)))
    reports: dict[str, Reports] = field(default_factory=lambda: defaultdict(list))
    left_out: set[str] = field(default_factory=set)

    def figures(self, variant: str, workload: Workload) -> dict[int, float]:
        """Nanoseconds an operation, by round: of the worker's CPU, or of the clock where others do the work."""
        cell = self.cells[variant][workload.key]
        return cell.wall_ns if workload.by_wall else cell.cpu_ns

    def lost(self, variant: str) -> dict[str, int]:
        """Operations that a variant's agents lost, by reason, over all rounds."""
        total: dict[str, int] = defaultdict(int)
        for report in self.reports[variant]:
            for reason, count in report["operations"]["dropped"].items():
                total[reason] += count
        return dict(total)

    def as_json(self) -> list[dict[str, Any]]:
        """One row a cell."""
        return [
            {
                "variant": variant.name,
                "what": variant.what,
                "data": variant.data,
                "runtime": key[0],
                "workload": key[1],
                "wall_ns": [round(value, 1) for value in cell.wall_ns.values()],
                "cpu_ns": [round(value, 1) for value in cell.cpu_ns.values()],
            }
            for variant in self.variants
            for key, cell in self.cells[variant.name].items()
        ]


def _measure(worker: Worker, workload: Workload, variant: Variant, number: int, cell: Cell) -> None:
    count = max(1, workload.count // variant.slow)
    walls, cpus = [], []
    for burst in range(workload.bursts):
        answer = worker.run(workload.name, count)
        if burst:  # the first is the warm-up
            walls.append(answer.wall_ns / answer.operations)
            cpus.append(answer.cpu_ns / answer.operations)
        time.sleep(workload.pause)
    cell.wall_ns[number], cell.cpu_ns[number] = statistics.median(walls), statistics.median(cpus)


def run_matrix(
    variants: list[Variant],
    workers: dict[str, Worker],
    todo: list[Workload],
    endpoint: str,
    *,
    rounds: int,
    until: float,
    say: Callable[[str], None],
) -> Matrix:
    """`rounds` rounds, fewer where `until` (time.monotonic) comes first, never less than two. Raises BenchError."""
    matrix = Matrix(variants, todo, 0)
    shuffle = random.Random(7).shuffle
    targets = Targets(
        tuple(worker.pid for name, worker in workers.items() if not name.startswith("neighbour")), endpoint
    )
    for number in range(rounds):
        if number >= 2 and time.monotonic() > until:
            say(f"time is over after {number} rounds")
            break
        began = time.monotonic()
        order = [each for each in variants if number < each.most_rounds and each.name not in matrix.left_out]
        shuffle(order)
        for variant in order:
            _one(variant, targets, matrix, workers, number)
        matrix.rounds = number + 1
        say(f"round {number + 1} of {rounds}: {time.monotonic() - began:.0f} s")
    if matrix.rounds < 2:
        raise BenchError("fewer than two rounds")
    return matrix


def _one(variant: Variant, targets: Targets, matrix: Matrix, workers: dict[str, Worker], number: int) -> None:
    with attached(variant, targets, matrix.reports[variant.name]) as works:
        if not works:
            matrix.left_out.add(variant.name)
            return
        for workload in matrix.workloads:
            if workload.in_set in variant.covers:
                cell = matrix.cells[variant.name][workload.key]
                _measure(workers[workload.worker], workload, variant, number, cell)
