# SPDX-License-Identifier: Apache-2.0
"""A call that sleeps while somebody else begins to look at its function: the kernel then runs no program at its return."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kernelspan_agent.probes import bpf, fentry
from kernelspan_agent.probes.callfunctions import call_functions
from tests.support.engines import engines

_READ = "0"  # its number, on x86-64
SECONDS = 60.0  # emulated
SPEC = {"network": {"operations": ["Receive"]}}
# Reads a socket for as long as nobody sends, then a file: no receive, and its entry is declined.
_PROGRAM = """
import os, socket, sys
here, there = socket.socketpair()
file = os.open("/etc/passwd", os.O_RDONLY)
if not os.fork():
    os.read(0, 1)
    there.send(b"at last")  # 7 bytes
    os._exit(0)
print("begins", flush=True)
os.read(int(sys.argv[1]), 1)
os.read(here.fileno(), 100)
os.read(file, 50)
print("done", flush=True)
os.read(0, 1)
"""


def found() -> dict[str, Any]:
    """By which mechanism, what was told, and what was counted."""
    begin, begins = os.pipe()
    command = [sys.executable, "-c", _PROGRAM, str(begin)]
    with (
        engines() as make,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[begin]) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            made = make(SPEC)
            made.add("p", SPEC)
            assert program.stdout.readline() == b"begins\n"
            traced = made.engine.trace(program.pid, "program", frozenset(("p",)))
            made.until(lambda: traced.runtime is not None, "its runtime is known")
            os.write(begins, b"1")
            _sleeps(program.pid, begin)
            (read,) = call_functions(frozenset({"read"}))
            other = bpf.prog_load(fentry.KIND, bpf.NOTHING, "other", fentry.target(read.number))
            attached = fentry.attach(other, read.name)
            program.stdin.write(b"\n")
            program.stdin.flush()
            assert program.stdout.readline() == b"done\n"
            made.engine.finish()
            attached.close()
            counted = made.engine.accounting_of("p")
            return {
                "mechanism": made.engine.session.mechanism.name,
                "told": [each["kernelspan.io.transferred"] for each in made.seen["p"].attributes],
                "seen": counted.seen,
                "dropped": dict(counted.dropped),
                "unaccounted": counted.unaccounted,
            }
        finally:
            program.kill()


def _sleeps(pid: int, before: int) -> None:
    """Until it reads something else than what it was told to begin by."""
    end = time.monotonic() + SECONDS
    while True:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        if call[0] == _READ and int(call[1], 16) != before:
            return
        assert time.monotonic() < end, call
        time.sleep(0.05)
