# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run -- COMMAND`: a child that waits, before its exec, until it is traced.

The child is forked before the agent starts any thread, so it may do what a child of a fork may: wait and exec.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence

from kernelspan_agent.errors import UsageError

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells do
_MAX_FIRST_LINE_BYTES = 256  # as much as the kernel reads of a script
_MOST_WORDS = 32  # of a command line that may name a program
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH)


def program_of(path: str) -> str:
    """What runs when this file is executed: of a script its interpreter, also by way of `env`."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            first = file.read(_MAX_FIRST_LINE_BYTES).split(b"\n", 1)[0]
    except OSError:
        return path
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    if not words:
        return path
    names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return (shutil.which(names[0]) or path) if words[0].endswith("/env") and names else words[0]


def programs_of(program: str, arguments: Sequence[str]) -> list[str]:
    """What runs when a program is executed with these arguments, and what they name besides: a wrapper (`env`, `timeout`) runs one of
    them.
    """
    named = (found for word in arguments[1:_MOST_WORDS] if (found := shutil.which(word)) is not None)
    return list(dict.fromkeys(map(program_of, [program, *named])))


class Command:
    """A child process, held before its exec until `release`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Raises UsageError where there is no such program."""
        program = shutil.which(arguments[0])
        if program is None:
            raise UsageError(f"{arguments[0]}: no such program", hint="give a path, or a name that is in PATH")
        self.arguments, self.program = tuple(arguments), program
        held, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(program, held)
        os.close(held)
        self._status: int | None = None
        self._released = False

    def _child(self, program: str, held: int) -> None:
        try:
            os.close(self._go)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            if os.read(held, 1) != b"g":
                os._exit(0)  # the agent ended before it began to trace
            os.close(held)
            os.execv(program, self.arguments)  # noqa: S606 - the user's own command
        except BaseException as error:  # noqa: BLE001 - this is the child: it must never return
            sys.stderr.write(f"kernelspan: {program}: {error}\n")
            sys.stderr.flush()
            os._exit(NOT_EXECUTABLE)

    def release(self) -> None:
        """Lets the child exec."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"g")
        os.close(self._go)
        self._released = True

    def forward_signals(self) -> None:
        """Passes on what is sent to the agent. SIGINT only without a terminal: there the child gets it by itself."""
        numbers = _FORWARDED if os.isatty(0) else (*_FORWARDED, signal.SIGINT)
        for number in numbers:
            signal.signal(number, lambda got, _frame: self._send(got))
        if os.isatty(0):
            signal.signal(signal.SIGINT, lambda _got, _frame: None)

    def _send(self, number: int) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Its exit status as a shell tells it (128 + signal); None: it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
        return self._status

    def abandon(self) -> None:
        """Ends a child that was never released; one that was goes on."""
        if self._released:
            return
        with contextlib.suppress(OSError):
            os.close(self._go)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
