# SPDX-License-Identifier: Apache-2.0
"""One probe of the user's: what is loaded and attached for it, and where it stands."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.own.missed import Missed
from kernelspan_agent.process.symbols.identity import Identity
from kernelspan_agent.resolve.arguments import Captured
from kernelspan_api.userprobes import UserProbe

if TYPE_CHECKING:
    from kernelspan_agent.probes.own.codegen import Generated
    from kernelspan_agent.probes.own.machine import Plan


@dataclass(slots=True, eq=False)
class Part:
    """Programs of one text that are loaded for a probe, and what they are attached to. `suffix`: behind their names.

    A probe of the kernel's has one; a probe on user code one for each way in which files pass its arguments.
    """

    suffix: str
    kind: int  # of its programs, one of bpf.PROG_*
    generated: Generated
    walkers: str = ""  # behind the names of those it can go on to; empty: it never walks
    attachments: list[Attachment] = field(default_factory=list)
    map_bytes: int = 0
    plans: list[Plan] = field(default_factory=list)  # by which it was attached, and can be again


class Standing(enum.Enum):
    """Where a probe stands, as a profile's status says it."""

    ATTACHED = "Attached"
    PENDING = "Pending"  # on user code: no process that has the file has come yet
    FAILED = "Failed"


@dataclass(slots=True, eq=False)
class OwnProbe:
    """A probe of the user's. `problem`: why it is not attached; `files`: of a probe on user code, where it is.

    `awaits`: of a probe on user code that is attached nowhere yet, what was last found instead.
    """

    spec: UserProbe
    number: int
    mechanism: str = ""
    captured: tuple[Captured, ...] = ()
    problem: KernelspanError | None = None
    parts: list[Part] = field(default_factory=list)
    files: set[Identity] = field(default_factory=set)
    waits: bool = False  # for a process that has the file
    awaits: KernelspanError | None = None
    was_attached: bool = False  # at some time
    keep: float = 1.0  # the share of its hits that the guard does not have thrown away
    off: bool = False  # the guard has taken it off
    epoch: int = 0  # how often it has
    missed: Missed = field(default_factory=Missed)

    @property
    def is_attached(self) -> bool:
        """Whether something of it can be seen."""
        return self.off or any(part.attachments for part in self.parts)

    def programs(self) -> tuple[list[str], list[str]]:
        """Names of its programs: at entries, at returns."""
        enters = [name + part.suffix for part in self.parts for name in part.generated.enters]
        exits = [name + part.suffix for part in self.parts for name in part.generated.exits]
        return enters, exits

    def look_for_missed(self, programs: Mapping[str, int]) -> None:
        """Brings `missed` up to date; a probe on user code has no such counts. `programs`: descriptors by name."""
        for part in self.parts:
            if len(self.parts) == 1 and not self.files:
                mine = (programs[name + part.suffix] for name in part.generated.programs)
                self.missed.look(part.kind, part.attachments, mine)

    @property
    def standing(self) -> Standing:
        """Attached if it is anywhere: what one file of several refuses is logged."""
        if self.is_attached:
            return Standing.ATTACHED
        return Standing.FAILED if self.problem is not None or not self.waits else Standing.PENDING

    @property
    def trouble(self) -> KernelspanError | None:
        """Why it is not attached, or not yet; None: it is, or nothing is known."""
        return None if self.is_attached else self.problem or self.awaits
