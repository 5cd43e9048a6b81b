# SPDX-License-Identifier: Apache-2.0
"""The processes that compile (compiler.py): one for each request, which it ends with. Nothing of what requests are made of is here:
a command that will want some starts them first (`expect`), and they read bcc and the kernel's types while it is imported itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kernelspan_agent.probes import cache

PYTHON = "/usr/bin/python3"  # Debian's bcc belongs to Debian's Python
AT_ONCE = 2  # and no more than CPUs; 2 x 120 MB for a second
AT_ONCE_VARIABLE = "KERNELSPAN_COMPILERS"  # 1 where memory is bounded: an agent's pod has 256 MiB
TIMEOUT_SECONDS = 300  # 2 s of a CPU; an agent may be allowed a tenth of one, or run on an emulated one
AHEAD = "ahead"

_expected: list[subprocess.Popen[bytes]] = []
running: dict[subprocess.Popen[bytes], frozenset[str]] = {}
"""Those at work, with the modules that they compile."""


def at_once(environ: Mapping[str, str]) -> int:
    """How many may run side by side."""
    return max(1, min(int(environ.get(AT_ONCE_VARIABLE, AT_ONCE)), len(os.sched_getaffinity(0))))


def expect(environ: Mapping[str, str]) -> None:
    """Starts as many as may run, unless all that will be wanted may be kept already. Those nobody wanted are to be dismissed."""
    if not cache.has_any(environ):
        try:
            _expected.extend(_start(AHEAD) for _ in range(at_once(environ)))
        except OSError:  # whoever compiles will hear of it
            dismiss()


def dismiss() -> None:
    """Ends those that were expected to be wanted and were not."""
    while _expected:
        with _expected.pop() as child:
            child.kill()


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    script, pipe = Path(__file__).with_name("compiler.py"), subprocess.PIPE
    return subprocess.Popen([PYTHON, "-I", str(script), *arguments], stdin=pipe, stdout=pipe, stderr=pipe)


def _next() -> subprocess.Popen[bytes]:
    """One that was expected to be wanted and lives, else another."""
    while True:
        try:
            child = _expected.pop()
        except IndexError:
            return _start()
        if child.poll() is None:
            return child
        with child:  # closes its pipes
            pass


def answer(wanted: Mapping[str, Any]) -> tuple[bytes, bytes, int]:
    """What a child says to a request, on its standard output and the other, and its status.

    Raises FileNotFoundError: there is no such Python; subprocess.TimeoutExpired.
    """
    with _next() as child:
        running[child] = frozenset(wanted["modules"])
        try:
            output, said = child.communicate(json.dumps(wanted).encode(), TIMEOUT_SECONDS)
        finally:
            child.kill()
            running.pop(child, None)
    return output, said, child.returncode


def abandon(modules: Iterable[str] = ()) -> None:
    """What is being compiled, in whatever thread, fails at once: these modules alone, or whatever it is."""
    wanted = frozenset(modules)
    for child, names in list(running.items()):
        if not wanted or names <= wanted:
            child.kill()
