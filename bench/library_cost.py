# SPDX-License-Identifier: Apache-2.0
"""What counting by library costs, as a share of what the same operations cost otherwise, in the same process.

    python -m bench.library_cost [--seconds N] [--json]

A real program with libraries (--python PROGRAM, by default the tests' environment) reads, opens and connects in a loop;
an agent in this process traces it. The CPU time of this thread is taken around each stage: resolve, count by library
and kind, count where libraries go (only `kernelspan run` and `libraries` do), trace. Nothing is exported, so the share of
the whole is smaller than what is printed. "At first" is while the program imports: each new stack is looked at. As root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernelspan_agent.app import App
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.resolve.touched import Touched
from kernelspan_api.profile import load
from tests.support.venvs import library_venv

WARM_SECONDS = 3.0  # the program imports what it needs, and its stacks are met
PROFILE = b"""
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: cost}
spec:
  podSelector: {}
  files: {}
  network: {}
  limits: {eventsPerSecond: 10000000, spansPerSecond: 10000000, cpuMillicores: 64000}
"""
PROGRAM = """
import sys, jinja2, redis, yaml
folder = sys.argv[1]
environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), cache_size=0)
def own(number):
    for _ in range(10):
        with open(f"{folder}/{number % 50}.yaml") as file:
            file.read(10)
while True:
    for number in range(200):
        own(number)
        environment.get_template("page.html").render()
        with open(f"{folder}/{number % 50}.yaml") as file:
            yaml.safe_load(file)
        try:
            redis.Redis("127.0.0.1", 9, retry=None).ping()
        except redis.exceptions.ConnectionError:
            pass
"""


def timed(spent: Counter[str], batches: Counter[str], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, adding its CPU time (ns of this thread) to `spent`."""

    def wrapped(*arguments: Any) -> Any:
        began = time.thread_time_ns()
        try:
            return work(*arguments)
        finally:
            spent[name] += time.thread_time_ns() - began
            batches[name] += 1

    return wrapped


def measure(python: Path, seconds: float) -> dict[str, Any]:
    """Shares and ns for each operation."""
    spent: Counter[str] = Counter()
    batches: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "page.html").write_text("hello")
        for number in range(50):
            (folder / f"{number}.yaml").write_text("a: 1\n")
        (folder / "program.py").write_text(PROGRAM)
        app = App(load(PROFILE, standalone=True), Pipeline([]), os.environ, resource=ResourceSettings())
        run = app.only
        run.touched = Touched()
        run.resolver.resolve = timed(spent, batches, "resolve", run.resolver.resolve)  # type: ignore[method-assign]
        app.acts.add = timed(spent, batches, "count", app.acts.add)  # type: ignore[method-assign]
        run.touched.add = timed(spent, batches, "places", run.touched.add)  # type: ignore[method-assign]
        run.tracer.process = timed(spent, batches, "trace", run.tracer.process)  # type: ignore[method-assign]
        with subprocess.Popen([python, folder / "program.py", folder]) as program:
            try:
                app.select(program.pid, "program")
                _run(app, WARM_SECONDS)
                at_first = {**spent}
                spent.clear()
                batches.clear()
                before = app.acts.total
                _run(app, seconds)
                operations, libraries = app.acts.total - before, len(app.acts.libraries)
                now = Counter(spent)
            finally:
                program.kill()
        app.end(0.0)
        app.close()
    others, first = now["resolve"] + now["trace"], at_first["resolve"] + at_first["trace"]
    return {
        "operations": operations,
        "operations_in_a_batch": round(operations / batches["count"], 1),
        "libraries": libraries,
        "ns_per_operation": {stage: round(ns / operations) for stage, ns in now.items()},
        "count_to_resolve_and_trace_at_first": round(at_first["count"] / first, 4),
        "count_to_resolve_and_trace": round(now["count"] / others, 4),
        "places_to_resolve_and_trace": round(now["places"] / others, 4),
    }


def _run(app: App, seconds: float) -> None:
    until = time.monotonic() + seconds
    app.run(lambda: time.monotonic() >= until)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--python", type=Path, help="an interpreter that has jinja2, redis and PyYAML")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.python or library_venv() / "bin" / "python", options.seconds)
    sys.stdout.write(json.dumps(found, indent=None if options.json else 1) + "\n")


if __name__ == "__main__":
    main()
