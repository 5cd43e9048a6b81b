# SPDX-License-Identifier: Apache-2.0
"""`kernelspan trace`: requests as they come, which are slow, and why."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kernelspan_api.profile import TraceProfile

SLOWEST = 3
# What a request is made of, and nothing else. Of waits those that one would call long: the others are in the sum.
PROFILE = """
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: trace}
spec:
  podSelector: {}
  requests:
    - {protocol: HTTP}
    - {protocol: Redis, roles: [Client]}
    - {protocol: PostgreSQL, roles: [Client]}
    - {protocol: MySQL, roles: [Client]}
    - {protocol: MongoDB, roles: [Client]}
    - {protocol: Kafka, roles: [Client]}
  files: {}
  network: {operations: [Connect, Resolve]}
  processes: {}
  waits: {operations: [OffCPU], minDurationMicroseconds: 1000}
  correlation: {orphans: Drop}
  limits: {eventsPerSecond: 50000, spansPerSecond: 50000, cpuMillicores: 1000}
"""


@click.command("trace")
@click.option(
    "-f",
    "--file",
    "profile_path",
    metavar="PROFILE",
    help="A TraceProfile that says what is looked at. Default: requests of HTTP with what was done for each, and what was asked of Redis, PostgreSQL, MySQL, MongoDB and Kafka.",
)
@click.option(
    "-p", "--pid", "pids", type=int, multiple=True, help="Trace this process and its children. May be repeated."
)
@click.option("--duration", type=click.FloatRange(min=0.001), metavar="SECONDS", help="Stop after so long.")
@click.option(
    "--slowest",
    type=click.IntRange(0, 100),
    default=SLOWEST,
    show_default=True,
    metavar="N",
    help="At the end show so many traces whole.",
)
@click.argument("command_line", nargs=-1, metavar="[-- COMMAND [ARGUMENT]...]", type=click.UNPROCESSED)
def command(profile_path: str | None, slowest: int, command_line: tuple[str, ...], **options: Any) -> int:
    """Show the requests that a program answers as they end, then a table by route and the slowest ones whole.

    A line has the answer's status, the request, the function that took most of its time (by itself, not what it called) and the
    library of its longest operation. Programs that answer each other are one trace where both are traced. The table says how much
    of its time a route's requests were on a CPU, where one thread works on each.

    Which processes: a command (after --), --pid, or those that the profile's processSelector matches. Ctrl-C ends it with the
    table. `---` stands for an answer that was not seen.

    \b
    kernelspan trace -- gunicorn app:app
    kernelspan trace --pid 4242 --duration 30 --slowest 5
    """
    from kernelspan_agent.cli import run
    from kernelspan_agent.export.console import terminal_width, wants_color
    from kernelspan_agent.export.requestlines import RequestLines

    profile = run.read(profile_path) if profile_path is not None else _default()
    color, width = wants_color(sys.stdout, os.environ), terminal_width(sys.stdout, os.environ)
    nothing = dict.fromkeys(("endpoint", "output_path", "report_path", "listen"), "")
    lines = RequestLines(sys.stdout, color=color, width=width, slowest=slowest)
    more = {"self_traces": False, "histogram": False, "quiet": True, "console": False, "only_output": lines}
    return run.start(profile, command_line, {**nothing, **more, **options})


def _default() -> TraceProfile:
    from kernelspan_api.profile import load

    return load(PROFILE.encode(), standalone=True)
