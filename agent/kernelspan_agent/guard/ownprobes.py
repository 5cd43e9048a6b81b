# SPDX-License-Identifier: Apache-2.0
"""What this machine makes of a profile's own probes, by compiling, loading and attaching each one for a moment.

No process is traced meanwhile, so none of the programs sees anything; what is probed pays for them as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.probes import functions, proofs
from kernelspan_agent.probes.kfunctions import KernelFunction
from kernelspan_agent.probes.own.files import UserFiles
from kernelspan_agent.probes.own.machine import Machine
from kernelspan_agent.probes.own.probe import OwnProbe, Standing
from kernelspan_agent.probes.session import Session
from kernelspan_agent.probes.syscalls import system_call
from kernelspan_api.userprobes import Kprobe, Mechanism, Mode, UserProbe

if TYPE_CHECKING:
    from kernelspan_api.plan import Wanted

FILES_SECONDS = 60.0  # the largest binaries take some, and so does a compile
UNTRIED = "Untried"


@dataclass(frozen=True, slots=True)
class Tried:
    """One probe. `state`: a Standing's, or Untried. `others`: mechanisms that were not taken, each with why."""

    name: str
    kind: str
    state: str
    mechanism: str = ""
    programs: int = 0
    instructions: int | None = None  # that the verifier followed; None: the kernel does not say
    places: int = 0
    reason: str = ""
    message: str = ""
    hint: str = ""
    others: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For check --json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "mechanism": self.mechanism,
            "programs": self.programs,
            "verifiedInstructions": self.instructions,
            "places": self.places,
            "reason": self.reason,
            "message": self.message,
            "hint": self.hint,
            "others": [{"mechanism": mechanism, "why": why} for mechanism, why in self.others],
        }


def kind_of(spec: UserProbe) -> str:
    """The member that the probe has."""
    return next(kind for kind in ("kprobe", "tracepoint", "uprobe", "usdt") if getattr(spec, kind) is not None)


def untried(wanted: Wanted, why: str) -> list[Tried]:
    """The same rows, where trying makes no sense."""
    return [Tried(spec.name, kind_of(spec), UNTRIED, message=why) for spec in wanted.probes]


def try_all(wanted: Wanted, environ: Mapping[str, str]) -> list[Tried]:
    """Each of the probes of a plan."""
    only = replace(wanted, operations=frozenset(), min_duration_ns={})
    try:
        session = Session.open(only, environ)
    except KernelspanError as error:
        return [
            replace(each, state=Standing.FAILED.value, reason=error.reason, hint=error.hint)
            for each in untried(wanted, str(error))
        ]
    files = UserFiles(session.own, session.defines, environ)
    machine = Machine()
    try:
        files.saw(None, wanted.probes)
        files.wait(FILES_SECONDS)
        programs = session.programs()
        found = [own for spec in wanted.probes if (own := session.own.get(spec)) is not None]
        return [_tried(own, programs, machine) for own in found]
    finally:
        machine.close()
        files.close()
        session.close()


def _tried(own: OwnProbe, programs: Mapping[str, Mapping[str, int]], machine: Machine) -> Tried:
    names = [name + part.suffix for part in own.parts for name in part.generated.programs]
    counts = [programs[name]["verified_instructions"] for name in names if name in programs]
    trouble = own.trouble
    message = str(trouble or "")
    if own.standing is Standing.PENDING and trouble is None:
        message = "looked for in each traced process: its executable, and for USDT its libraries"
    return Tried(
        own.spec.name,
        kind_of(own.spec),
        own.standing.value,
        own.mechanism,
        len(names),
        sum(counts) or None,
        sum(len(part.attachments) for part in own.parts),
        trouble.reason if trouble else "",
        message,
        trouble.hint if trouble else "",
        tuple(_others(own, machine)),
    )


def _others(own: OwnProbe, machine: Machine) -> Iterator[tuple[str, str]]:
    """Of a function of the kernel, what each mechanism that was not taken says to this very function."""
    kprobe = own.spec.kprobe
    if kprobe is None or (own.problem is not None and own.problem.reason == "FunctionNotFound"):
        return
    for mechanism in proofs.IN_ORDER:
        if mechanism.value == own.mechanism:
            continue
        if kprobe.mechanism not in (Mechanism.AUTO, mechanism):
            yield mechanism.value, f"the profile says {kprobe.mechanism.value}"
            continue
        yield mechanism.value, _why_not(own.spec, kprobe, mechanism, machine)


def _why_not(spec: UserProbe, kprobe: Kprobe, mechanism: Mechanism, machine: Machine) -> str:
    if (error := proofs.prove(mechanism).error) is not None:
        return str(error)
    try:
        function = _function(kprobe, machine)
        functions.place(function, mechanism, returns=spec.mode is Mode.SPAN, types=machine.types).close()
    except MachineError as error:
        return str(error)
    return "would do too, at a higher cost"


def _function(kprobe: Kprobe, machine: Machine) -> KernelFunction:
    name = kprobe.call
    if kprobe.syscall:
        name = system_call(name, machine.types, machine.tracefs).function
    return machine.functions.function(name)
