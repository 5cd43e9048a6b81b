# SPDX-License-Identifier: Apache-2.0
"""What a system call pays for being seen, in instructions, by mechanism and kernel: `python -m bench.instructions [KERNEL]...`

In emulated machines whose clock counts instructions: the figures are the same from run to run, and say nothing of what an
instruction takes (a miss of a cache, a mitigation). `empty` programs look a process up that is not there; `ours` are those of
a profile that wants writes, without a stack. Prints a table.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.processes import Worker, compile_c
from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, fentry, mechanisms
from kernelspan_agent.probes.attach import Attachment, raw_tracepoint, tracepoint
from kernelspan_agent.probes.callfunctions import call_functions
from kernelspan_agent.probes.loader import with_locked_memory
from kernelspan_agent.probes.session import Session
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_api.plan import wanted
from kernelspan_api.profile import load

ARMED, OTHER = "write1", "getppid"  # workloads: the call that is seen, and one that is not
COUNT, BURSTS = 500, 5
SECONDS = 1200.0
_PROFILE = """
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: instructions}
spec:
  podSelector: {}
  files: {operations: [Write]}
  code: {stacks: None}
  limits: {eventsPerSecond: 10000000, spansPerSecond: 10000000}
"""


def _instructions(worker: Worker) -> dict[str, int]:
    """Of one call of each workload."""
    found = {}
    for name in (ARMED, OTHER):
        runs = (worker.run(name, COUNT) for _ in range(BURSTS))
        found[name] = min(round(each.wall_ns / each.operations) for each in runs)
    return found


def _looks_up(map_fd: int) -> bytes:
    of = bpf.instruction
    return (
        of(0x85, immediate=14)  # bpf_get_current_pid_tgid
        + of(0x77, 0, immediate=32)
        + of(0x63, 10, 0, offset=-4)
        + of(0xBF, 2, 10)
        + of(0x07, 2, immediate=-4)
        + of(0x18, 1, 1, immediate=map_fd)
        + of(0)
        + of(0x85, immediate=1)  # bpf_map_lookup_elem
        + bpf.NOTHING
    )


def _empty(name: str, code: bytes) -> Iterator[Attachment | None]:
    if name == mechanisms.FENTRY.name:
        (write,) = call_functions(frozenset({"write"}))
        for returns in (True, False):
            program = bpf.prog_load(fentry.KIND, code, "empty", fentry.target(write.number, returns=returns))
            yield fentry.attach(program, write.name)
    elif name == mechanisms.TRACEPOINT.name:
        program = bpf.prog_load(bpf.PROG_TRACEPOINT, code, "empty")
        for side in ("exit", "enter"):
            yield tracepoint(Tracefs.find(), "syscalls", f"sys_{side}_write", program)
    else:
        program = bpf.prog_load(bpf.PROG_RAW_TRACEPOINT, code, "empty")
        for side in ("exit", "enter"):
            yield raw_tracepoint(f"sys_{side}", program)


def _row(name: str, what: str, worker: Worker) -> None:
    print(json.dumps([platform.release(), name, what, _instructions(worker)]), flush=True)


def guest(program: str) -> None:
    """What runs in a machine: a line of JSON for each row."""
    plan = wanted("instructions", load(_PROFILE.encode(), standalone=True).spec)
    nobody = with_locked_memory(partial(bpf.map_create, bpf.MAP_TYPES["hash"], 4, 8, 1024, 0, "nobody"))
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("C", [program, folder, folder, "0", "0", "0"], core=None) as worker,
    ):
        _row("nothing", "", worker)
        for mechanism in (mechanisms.FENTRY, mechanisms.TRACEPOINT, mechanisms.RAW_TRACEPOINT):
            try:
                with contextlib.ExitStack() as stack:
                    for each in _empty(mechanism.name, _looks_up(nobody)):
                        stack.callback(each.close) if each else None
                    _row(mechanism.name, "empty", worker)
                with Session.open(plan, os.environ, mechanism=mechanism) as session:
                    _row(mechanism.name, "ours, of a neighbour", worker)
                    session.set_class(1, plan)
                    session.procs.trace(worker.pid, 1, 1)
                    _row(mechanism.name, "ours, of a traced program", worker)
            except (MachineError, OSError) as error:
                print(json.dumps([platform.release(), mechanism.name, f"cannot: {error}", {}]), flush=True)


def main(labels: list[str]) -> None:
    """Boots a machine for each kernel, and prints what it said."""
    from tests.support import kernels, vm  # noqa: PLC0415 - a checkout without tests can measure the rest

    print(
        "| kernel | mechanism | programs | armed call | more | another call | more |\n| --- | --- | --- | ---: | ---: | ---: | ---: |"
    )
    with tempfile.TemporaryDirectory() as made:
        program = compile_c("work.c", Path(made), "-static")
        for label in labels or kernels.SUITES:
            command = [sys.executable, "-m", "bench.instructions", "--guest", str(program)]
            ran = vm.run(
                kernels.kernel(label),
                command,
                seconds=SECONDS,
                folder=Path(__file__).resolve().parents[1],
                counted=True,
            )
            bare: dict[str, int] = {}
            for line in ran.output.splitlines():
                if not line.startswith("["):
                    print(line)
                    continue
                release, name, what, found = json.loads(line)
                bare = bare or found
                cells = [
                    f"{found[each]} | +{found[each] - bare[each]}" if each in found else "- | -"
                    for each in (ARMED, OTHER)
                ]
                print("|", " | ".join([release, name, what, *cells]), "|", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--guest"]:
        guest(sys.argv[2])
    else:
        main(sys.argv[1:])
