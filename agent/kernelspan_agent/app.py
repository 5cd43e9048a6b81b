# SPDX-License-Identifier: Apache-2.0
"""An agent for one profile, as `kernelspan run` has it: an Engine whose only profile it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernelspan_agent.accounting import Accounting
from kernelspan_agent.engine import Engine
from kernelspan_agent.probes.modules import walkers_of
from kernelspan_agent.process.linked import candidates
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.resolve.traced import TracedProcess
from kernelspan_agent.runtimes.look import FileCache
from kernelspan_agent.runtimes.registry import is_library, of_program
from kernelspan_api.plan import wanted as wanted_by

if TYPE_CHECKING:
    from kernelspan_agent.export.base import Exporter
    from kernelspan_agent.probes.mechanisms import Mechanism
    from kernelspan_api.profile import TraceProfile

_ONLY = frozenset({"run"})


class App(Engine):
    """`with` it, or `close` it."""

    def __init__(
        self,
        profile: TraceProfile,
        exporter: Exporter,
        environ: Mapping[str, str],
        *,
        resource: ResourceSettings,
        mechanism: Mechanism | None = None,
        ring_bytes: int = 0,
        watch_exec: bool = False,
        executable: str = "",
        programs: Sequence[str] = (),
    ) -> None:
        """Builds, loads and attaches. Raises MachineError; nothing is left behind then.

        `executable`: of the program that is going to be traced first. `programs`: files that are known to be traced: their
        runtimes' walkers are not waited for later.
        """
        wanted = wanted_by(profile.metadata.name, profile.spec)
        files = FileCache()
        libraries = [each for program in programs for each in candidates(program, environ, is_library)]
        found = {name for program in [*programs, *libraries] if (name := of_program(program, files))}
        usual = [runtime.name for runtime in walkers_of(wanted)]
        wanted = replace(wanted, runtimes=tuple(dict.fromkeys([*usual, *sorted(found)])))
        super().__init__(
            wanted, environ, mechanism=mechanism, ring_bytes=ring_bytes, watch_exec=watch_exec, files=files
        )
        self.profile, self.exporter = profile, exporter
        (uid,) = _ONLY
        self.only = self.add(uid, profile, exporter, resource)
        self.look_here(uid, executable)
        for program in programs:
            self.processes.foresee(program)
        for library in libraries:
            self.processes.foresee(library, library=True)

    @property
    def engine(self) -> Engine:
        """It is one."""
        return self

    @property
    def unobserved(self) -> None:
        """It knows no pods."""

    @property
    def peering(self) -> None:
        """It knows no other nodes."""

    def trouble(self) -> str:
        """Why nothing is traced now; empty: all is attached."""
        if not self.is_attached:
            return "the agent is starting, or ending"
        return "" if self.session.attached else "nothing is attached"

    def select(self, pid: int, name: str, *, held: bool = False) -> TracedProcess:
        """Traces a process that exists already: see `trace`."""
        return self.trace(pid, name, _ONLY, held=held)

    def accounting(self) -> Accounting:
        """The balance; exact once it has ended."""
        return self.accounting_of(self.only.uid)

    def end(self, timeout_seconds: float) -> None:
        """`finish`, and sends what is queued, for at most so long."""
        self.finish()
        self.exporter.close(timeout_seconds)
