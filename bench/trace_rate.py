# SPDX-License-Identifier: Apache-2.0
"""How many operations per CPU-second trace/ takes: 20 stacks of 12 frames, 8 contexts, runs of one stack, functions on.

    python bench/trace_rate.py [--operations N] [--run-length N] [--seed N] [--json]

CPU time of this process, the best and the median of several rounds; the rounds differ in nothing, so their spread is
the noise. Batches are made beforehand. What is printed besides (spans made) says how much work that was: a shorter run
of one stack means more function spans per operation. `--profile` prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from kernelspan_agent.model import (
    SPAN,
    Frame,
    Kind,
    Library,
    Origin,
    ProcessInfo,
    ResolvedBatch,
    Resource,
    Segment,
    Stack,
)
from kernelspan_agent.ring.records import OPERATION
from kernelspan_agent.trace import Tracer, TraceSettings

STACKS, DEPTH, CONTEXTS, BATCH = 20, 12, 8, 4096
GAP_NS = 20_000  # between two operations of the machine: 50,000 a second
BASE_NS = 1_790_000_000_000_000_000


def make_stacks() -> list[Stack]:
    """20 stacks as of a web application: runtime and server outside, app, a library, runtime inside; they fork at 4-10."""
    library = Library("requests", "2.32.0", "pkg:pypi/requests@2.32.0")
    origins = (
        [Origin.RUNTIME] * 2 + [Origin.LIBRARY] * 2 + [Origin.APP] * 4 + [Origin.LIBRARY] * 2 + [Origin.RUNTIME] * 2
    )
    stacks = []
    for number in range(STACKS):
        fork = 4 + number % 7
        frames = []
        for level, origin in enumerate(origins):
            branch = number if level >= fork else 0
            line = 10 + (number if level >= fork - 1 else 0)
            name = f"shop.level{level}.branch{branch}"
            code = 4096 * (1 + level) + 64 * branch
            owner = library if origin is Origin.LIBRARY else None
            frames.append(Frame(name, f"/app/{name}.py", line, origin, owner, 2 * line, code))
        stacks.append(Stack(tuple(reversed(frames))))
    return stacks


def make_batches(operations: int, run_length: float, seed: int) -> Callable[[], list[ResolvedBatch]]:
    """A maker of equal batches: contexts interleaved, in each of them runs of one stack of geometric length."""
    random = np.random.default_rng(seed)
    context = random.integers(0, CONTEXTS, operations)
    changes = random.random(operations) < 1 / run_length
    picks = random.integers(0, STACKS, operations)
    stacks, current = make_stacks(), [0] * CONTEXTS
    chosen = []
    for where, change, pick in zip(context.tolist(), changes.tolist(), picks.tolist(), strict=True):
        current[where] = pick if change else current[where]
        chosen.append(stacks[current[where]])
    info = ProcessInfo(1, BASE_NS, False, "app", Resource({"service.name": "app"}))
    segment = Segment({}, "file.read", Kind.INTERNAL)
    end = GAP_NS * np.arange(1, operations + 1, dtype=np.uint64)

    def make() -> list[ResolvedBatch]:
        made = []
        for first in range(0, operations, BATCH):
            part = slice(first, first + BATCH)
            ops = np.zeros(len(end[part]), OPERATION)
            ops["tid"], ops["time"], ops["start"] = 100 + context[part], end[part], end[part] - GAP_NS // 2
            segments = np.full((len(ops), 3), None, object)
            segments[:, 0] = segment
            times = BASE_NS + ops["start"], BASE_NS + ops["time"]
            made.append(ResolvedBatch(ops, *times, chosen[part], [info] * len(ops), segments, np.zeros(len(ops), SPAN)))
        return made

    return make


def one_round(batches: list[ResolvedBatch]) -> tuple[int, int]:
    """CPU nanoseconds for all batches, with a tick after each, and the number of spans that came of them."""
    tracer, spans = Tracer(TraceSettings()), 0
    began = time.process_time_ns()
    for batch in batches:
        last = int(batch.end_ns[-1])
        spans += len(tracer.process(batch)) + len(tracer.tick(last))
    spans += len(tracer.close(last))
    return time.process_time_ns() - began, spans


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--run-length", type=float, default=8, help="mean operations of a context at one stack")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    make = make_batches(options.operations, options.run_length, options.seed)
    one_round(make())
    if options.profile:
        batches = make()
        cProfile.runctx("one_round(batches)", globals(), {"batches": batches}, sort="tottime")
        return
    rounds = [one_round(make()) for _ in range(options.rounds)]
    costs = [cost / options.operations for cost, _ in rounds]
    result = {
        "operations": options.operations,
        "run_length": options.run_length,
        "spans_per_operation": round(rounds[0][1] / options.operations, 3),
        "ns_per_operation_best": round(min(costs)),
        "ns_per_operation_median": round(statistics.median(costs)),
        "operations_per_cpu_second": round(1e9 / statistics.median(costs)),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:28} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
