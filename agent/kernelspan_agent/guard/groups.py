# SPDX-License-Identifier: Apache-2.0
"""Which probe groups this kernel takes, by compiling and loading each one with each mechanism. Nothing is attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.guard.checks import Check, State
from kernelspan_agent.probes import bpf, constants
from kernelspan_agent.probes.build import Built, Module, build
from kernelspan_agent.probes.loader import Loader
from kernelspan_agent.probes.loads import Loads
from kernelspan_agent.probes.mechanisms import MECHANISMS, Mechanism, calls_of, has_call
from kernelspan_agent.probes.modules import EVERYTHING, modules_of
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_agent.ring.size import RING_BYTES
from kernelspan_api.plan import Wanted


@dataclass(frozen=True, slots=True)
class Loaded:
    """One module with one mechanism. `instructions`: what the verifier followed; None: not said or not loaded."""

    module: str
    mechanism: str
    state: State
    programs: int = 0
    instructions: int | None = None
    detail: str = ""
    reason: str = ""
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """For check --json."""
        return {
            "module": self.module,
            "mechanism": self.mechanism,
            "state": self.state.value,
            "programs": self.programs,
            "verifiedInstructions": self.instructions,
            "detail": self.detail,
            "reason": self.reason,
            "hint": self.hint,
        }


def load_all(
    environ: Mapping[str, str], mechanisms: tuple[Mechanism, ...] = MECHANISMS, wanted: Wanted | None = None
) -> list[Loaded]:
    """Every module (of a plan, where one is given) with every mechanism."""
    return [found for mechanism in mechanisms for found in _load(wanted or EVERYTHING, mechanism, environ)]


def untried(why: str, mechanisms: tuple[Mechanism, ...] = MECHANISMS, wanted: Wanted | None = None) -> list[Loaded]:
    """The same rows, where trying makes no sense."""
    modules = modules_of(wanted or EVERYTHING)
    return [
        Loaded(module.name, mechanism.name, State.UNTRIED, detail=why) for mechanism in mechanisms for module in modules
    ]


def _load(wanted: Wanted, mechanism: Mechanism, environ: Mapping[str, str]) -> list[Loaded]:
    try:
        loads = Loads(mechanism, wanted)
    except MachineError as error:
        return [_failed(module, mechanism, error) for module in modules_of(wanted)]
    found = []
    with Loader({"ks_ring": RING_BYTES, **loads.sizes}) as loader:
        for module, built in _build(modules_of(wanted), mechanism, environ).items():
            if isinstance(built, MachineError):
                found.append(_failed(module, mechanism, built))
                continue
            mine = list(loads.of({module.name: built.modules[module.name]}))
            try:
                loader.load(*mine)
            except MachineError as error:
                found.append(_failed(module, mechanism, error))
                continue
            programs = [loader.programs[name + load.suffix] for load in mine for name in load.module["programs"]]
            counts = [bpf.prog_info(program)["verified_instructions"] for program in programs]
            found.append(Loaded(module.name, mechanism.name, State.OK, len(counts), sum(counts) or None))
    return found


def _build(
    modules: list[Module], mechanism: Mechanism, environ: Mapping[str, str]
) -> dict[Module, Built | MachineError]:
    """All at once; one by one where that fails, to see which one it is."""
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=True, **mechanism.flags)
    found: dict[Module, Built | MachineError] = {}
    try:
        return dict.fromkeys(modules, build(modules, defines, environ))
    except MachineError:
        for module in modules:
            try:
                found[module] = build([module], defines, environ)
            except MachineError as error:
                found[module] = error
    return found


def _failed(module: Module, mechanism: Mechanism, error: MachineError) -> Loaded:
    return Loaded(module.name, mechanism.name, State.NO, detail=str(error), reason=error.reason, hint=error.hint)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a profile would attach. `absent`: system calls that this kernel does not have; None: not known."""

    mechanism: str
    groups: dict[str, tuple[list[str], list[str]]]  # operations, system calls
    absent: list[str] | None

    def as_json(self) -> dict[str, Any]:
        """For check --json."""
        return {
            "mechanism": self.mechanism,
            "groups": [
                {"group": group, "operations": operations, "systemCalls": calls}
                for group, (operations, calls) in self.groups.items()
            ],
            "absentSystemCalls": self.absent,
        }


def plan_of(wanted: Wanted, mechanism: Mechanism) -> Plan:
    """What would be attached for a profile on this machine."""
    groups = {
        group.value: (
            [operation.name for operation in wanted.wanted() if operation.group is group],
            calls_of(group, wanted),
        )
        for group in wanted.groups
    }
    return Plan(mechanism.name, groups, _absent([call for _, calls in groups.values() for call in calls]))


def _absent(calls: list[str]) -> list[str] | None:
    try:
        tracefs = Tracefs.mounted()
    except OSError:
        return None
    if tracefs is None or not has_call(tracefs, "execve"):
        return None
    return [call for call in calls if not has_call(tracefs, call)]


def as_check(loaded: list[Loaded]) -> Check:
    """Whether at least one mechanism takes every module."""
    by_mechanism = {each.mechanism for each in loaded if each.state is not State.OK}
    good = {each.mechanism for each in loaded} - by_mechanism
    if good:
        return Check("programs", State.OK, f"all load as {', '.join(sorted(good))}")
    worst = next((each for each in loaded if each.state is State.NO), None)
    if worst is None:
        return Check("programs", State.UNTRIED, loaded[0].detail if loaded else "")
    return Check("programs", State.NO, f"{worst.module}: {worst.detail}", worst.reason, worst.hint)
