# SPDX-License-Identifier: Apache-2.0
"""The walkers that a session does not begin with: each is compiled and loaded at the first sight of a process of its runtime.

Compiling takes seconds once after each boot and is not waited for; loading takes a moment. Until a walker is there its
processes' operations say RuntimePending.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.probes import children
from kernelspan_agent.runtimes.registry import Runtime, Unsupported, all_runtimes

if TYPE_CHECKING:
    from kernelspan_agent.probes.build import Built
    from kernelspan_agent.probes.session import Session

_log = logging.getLogger(__name__)


class Waiting(Protocol):
    """Who waits for walkers."""

    def walker_came(self, number: int) -> None:
        """The processes of a runtime can be walked from now on."""

    def walker_failed(self, number: int, why: Unsupported) -> None:
        """They cannot be."""


class Walkers:
    """Gives a session what it calls for, one walker at a time. `tick` it, then `close` it."""

    def __init__(self, session: Session, environ: Mapping[str, str]) -> None:
        self._session, self._environ = session, environ
        self._begun: set[int] = set()
        self._thread: threading.Thread | None = None
        self._runtime: Runtime | None = None
        self._made: Built | KernelspanError | OSError | None = None

    def tick(self, waiting: Waiting) -> None:
        """Loads what has been compiled, and begins with what else is called for."""
        if self._thread is None:
            if self._session.called_for - self._begun:
                self._begin(min(self._session.called_for - self._begun))
            return
        if self._thread.is_alive() or self._runtime is None:
            return
        self._thread = None
        made, number = self._made, self._runtime.number
        try:
            if made is None or isinstance(made, KernelspanError | OSError):
                raise made or MachineError("its compiling ended without a word", reason="CompileFailed")
            self._session.add_walker(self._runtime, made)
        except (KernelspanError, OSError) as error:
            reason = error.reason if isinstance(error, KernelspanError) else "CompileFailed"
            _log.error("walker.failed runtime=%s reason=%s message=%s", self._runtime.name, reason, error)
            waiting.walker_failed(number, Unsupported(reason, str(error), runtime=self._runtime.name))
        else:
            waiting.walker_came(number)

    def _begin(self, number: int) -> None:
        self._begun.add(number)
        self._made = None
        self._runtime = next(runtime for runtime in all_runtimes() if runtime.number == number)
        self._thread = threading.Thread(target=self._make, args=(self._runtime,), name="walker", daemon=True)
        self._thread.start()

    def _make(self, runtime: Runtime) -> None:
        try:
            self._made = self._session.build_walker(runtime, self._environ)
        except (KernelspanError, OSError) as error:
            self._made = error

    def close(self) -> None:
        """What is being compiled is not waited for."""
        if self._thread is not None and self._runtime is not None:
            children.abandon([self._runtime.name])
            self._thread.join(1.0)
