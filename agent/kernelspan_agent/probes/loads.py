# SPDX-License-Identifier: Apache-2.0
"""How a plan's modules are loaded: each program once, or, by functions, for each system call and for each kind of walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kernelspan_agent.probes import bpf, constants
from kernelspan_agent.probes.callfunctions import SCRATCHES, Home
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.mechanisms import Mechanism
from kernelspan_agent.probes.source import GROUP_PROGRAMS, REQUESTS, REQUESTS_PROGRAM, walkers
from kernelspan_agent.runtimes.registry import Runtime
from kernelspan_api.operations import Group
from kernelspan_api.plan import Wanted

_WALKING_ENTRIES = frozenset((GROUP_PROGRAMS[Group.PROCESSES][0],))  # an exec's frames are gone when it returns


class Loads:
    """Those of one session. Raises MachineError where the mechanism does not know a call."""

    def __init__(self, mechanism: Mechanism, wanted: Wanted) -> None:
        self.mechanism = mechanism
        self.seats = mechanism.seats(wanted)
        self._homes = [Home()] if self.seats is None else self.seats.homes(_WALKING_ENTRIES)

    @property
    def sizes(self) -> dict[str, int]:
        """Of maps whose size follows from it: see Loader."""
        return {SCRATCHES: self.seats.scratches} if self.seats is not None else {}

    def of(self, modules: Mapping[str, Any]) -> Iterator[Load]:
        """Of built modules by name."""
        kind = self.mechanism.program_kind
        for name, module in modules.items():
            if name == "core":
                yield Load(module, bpf.PROG_RAW_TRACEPOINT)
            elif name in walkers():
                yield from (Load(module, kind, home.suffix, home.maps, home.target) for home in self._homes)
            elif name == REQUESTS:
                yield from (Load(module, kind, home.suffix, home.maps, home.target) for home in self._of_returns())
            elif self.seats is None:
                yield Load(module, kind)
            else:
                yield from self.seats.loads(module)

    def _of_returns(self) -> list[Home]:
        return [home for home in self._homes if home.returns]

    def link_walker(self, loader: Loader, runtime: Runtime) -> None:
        """Lets programs go on to a runtime's walker, which is loaded."""
        for home in self._homes:
            for place, program in runtime.places.items():
                loader.link(self.mechanism.walkers + home.suffix, place, program + home.suffix)

    def link_requests(self, loader: Loader) -> None:
        """The same of what tells of requests."""
        for home in self._of_returns():
            array = self.mechanism.walkers + home.suffix
            loader.link(array, constants.REQUESTS_PLACE, REQUESTS_PROGRAM + home.suffix)
