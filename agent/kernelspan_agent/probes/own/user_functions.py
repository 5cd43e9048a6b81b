# SPDX-License-Identifier: Apache-2.0
"""Where a probe on user code attaches in one file: functions by name or offset, Go's by their RET instructions, USDT sites.

Everything is told of the file's inode: whoever runs it, now or later, is seen, and the programs themselves ask whether a
process is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from kernelspan_agent.errors import KernelspanError, MachineError
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.machine import Attach, Plan
from kernelspan_agent.probes.own.sources import (
    ArgumentError,
    GoFunction,
    Operand,
    Source,
    StaticProbe,
    UserFunction,
)
from kernelspan_agent.probes.uprobe import open_file, target, uprobe
from kernelspan_agent.probes.uretprobe import require_safe
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.process.symbols.functions import Function, check_offset, find_functions
from kernelspan_agent.process.symbols.golang import Abi, go_program
from kernelspan_agent.process.symbols.returns import COLD, go_returns, may_unwind, plain_returns
from kernelspan_agent.process.symbols.usdt import Site, find_probe
from kernelspan_agent.process.symbols.usdt_arguments import Argument, Place
from kernelspan_agent.process.symbols.where import Binary
from kernelspan_api.userprobes import ABI, Mode, Uprobe, Usdt, UserProbe

MAX_PLACES = 1024  # of one probe in one file


def plan_in(probe: UserProbe, binary: Binary) -> Plan:
    """How the probe attaches in that file. Raises KernelspanError. The plan holds a descriptor: close it."""
    file = open_file(binary.attach_path)
    try:
        found = (
            _static(probe, probe.usdt, binary, file)
            if probe.usdt is not None
            else _functions(probe, _required(probe.uprobe), binary, file)
        )
    except ElfError as error:
        os.close(file)
        raise MachineError(f"{binary.path}: {error}", reason="BinaryNotFound") from error
    except KernelspanError:
        os.close(file)
        raise
    found.entry = found.exit = target()
    found.close = lambda: os.close(file)
    return found


def _required(wanted: Uprobe | None) -> Uprobe:
    assert wanted is not None
    return wanted


def _at(file: int, places: Sequence[tuple[int, int]], name: str, *, returns: bool = False) -> Attach:
    """Attaches at offsets with their semaphores; all of them or none."""

    def attach(program: int) -> list[Attachment]:
        made: list[Attachment] = []
        try:
            for offset, semaphore in places:
                made.append(uprobe(file, offset, program, returns=returns, semaphore=semaphore, name=name))
        except BaseException:
            for each in made:
                each.close()
            raise
        return made

    return attach


# --- functions ------------------------------------------------------------------------------------------------------------


def _functions(probe: UserProbe, wanted: Uprobe, binary: Binary, file: int) -> Plan:
    for offset in wanted.offsets:
        check_offset(binary, offset)
    found = find_functions(binary, wanted.symbols) if wanted.symbols else []
    functions = {each.offset: each for one in found for each in one.functions if not each.name.endswith(COLD)}
    problems = [one.problem for one in found if one.problem is not None]
    if problems and not functions and not wanted.offsets:
        raise problems[0]
    if len(functions) + len(wanted.offsets) > MAX_PLACES:
        raise MachineError(f"{len(functions)} functions match; at most {MAX_PLACES} are probed", reason="TooManyProbes")
    program = go_program(binary)
    is_go = wanted.abi is ABI.GO or (wanted.abi is ABI.AUTO and program is not None)
    places = [(offset, 0) for offset in sorted({*functions, *wanted.offsets})]
    if not is_go:
        source = UserFunction()
        enter = _at(file, places, binary.path)
        if probe.mode is Mode.EVENT:
            return Plan("Uprobe", Places([source]), [enter])
        return _plain(binary, functions, wanted.offsets, file, enter)
    if program is None or program.abi is Abi.UNKNOWN:
        raise ArgumentError(f"{binary.path} does not say which Go made it: how it passes arguments is not known")
    go = GoFunction(stack=program.abi is Abi.STACK)
    if probe.mode is Mode.EVENT:
        return Plan("Uprobe", Places([go]), [_at(file, places, binary.path)])
    if wanted.offsets:
        raise MachineError(
            "an offset in a Go program has no return that is known",
            reason="UretprobeUnsafe",
            hint="name the function, or use mode Event",
        )
    returns = go_returns(binary, list(functions.values()))
    bodies = [(each.body_offset, 0) for each in returns]
    rets = [(offset, 0) for each in returns for offset in each.offsets]
    return Plan("Uprobe", Places([go], [go]), [_at(file, bodies, binary.path)], [_at(file, rets, binary.path)])


def _plain(binary: Binary, functions: dict[int, Function], offsets: Sequence[int], file: int, enter: Attach) -> Plan:
    """A span of functions that C compilers made: at their RET instructions where these are certain, else by uretprobes."""
    known = plain_returns(binary, functions.values())
    rest = sorted({*functions, *offsets} - known.keys())
    exits: list[Source] = []
    attaches: list[Attach] = []
    if rets := sorted({(offset, 0) for each in known.values() for offset in each}):
        exits.append(UserFunction(at_ret=True))
        attaches.append(_at(file, rets, binary.path))
    if rest:
        require_safe(file)
        if may_unwind(binary):
            name = functions[rest[0]].name if rest[0] in functions else f"offset {rest[0]:#x}"
            raise MachineError(
                f"the returns of {name} are not certain, and an exception that passes a uretprobe ends the program",
                reason="UretprobeUnsafe",
                hint="use mode Event, or probe another function",
            )
        exits.append(UserFunction())
        attaches.append(_at(file, [(offset, 0) for offset in rest], binary.path, returns=True))
    return Plan("Uprobe", Places([UserFunction()], exits), [enter], attaches)


# --- static probes --------------------------------------------------------------------------------------------------------


def _static(probe: UserProbe, wanted: Usdt, binary: Binary, file: int) -> Plan:
    enters, attach = _sites(find_probe(binary, wanted.provider, wanted.probe).sites, binary, file)
    if probe.mode is Mode.EVENT:
        return Plan("Usdt", Places(enters), attach)
    exits, detach = _sites(find_probe(binary, wanted.provider, wanted.end_probe).sites, binary, file)
    return Plan("Usdt", Places(enters, exits), attach, detach)


def _sites(sites: Sequence[Site], binary: Binary, file: int) -> tuple[list[Source], list[Attach]]:
    """A source for each way in which sites take their arguments."""
    groups: dict[tuple[Operand, ...], list[Site]] = {}
    for site in sites:
        operands = tuple(_operand(each, site) for each in site.arguments)
        groups.setdefault(operands, []).append(site)
    sources: list[Source] = [StaticProbe(operands) for operands in groups]
    attaches = [
        _at(file, [(site.offset, site.semaphore_offset) for site in group], binary.path) for group in groups.values()
    ]
    return sources, attaches


def _operand(argument: Argument, site: Site) -> Operand:
    """A u64 expression, or why there is none."""
    if argument.place is Place.CONSTANT:
        return Operand(f"{argument.value & (1 << 64) - 1:#x}ULL")
    cast = f"(u64)(s64)(s{8 * argument.size})" if argument.signed else f"(u64)(u{8 * argument.size})"
    if argument.place is Place.REGISTER:
        return Operand(f"{cast}(KS_OWN_REGISTER(KS_REGS_{argument.base.upper()}) >> {argument.shift})")
    if argument.place is not Place.MEMORY or argument.floating:
        why = argument.problem or "it is a floating-point number"
        return Operand(problem=f"argument {argument.text!r} cannot be read: {why}")
    if argument.relative:
        address = f"KS_OWN_REGISTER(KS_REGS_IP) + {argument.value - site.address}"
    else:
        parts = [f"KS_OWN_REGISTER(KS_REGS_{argument.base.upper()})"] if argument.base else []
        if argument.index:
            parts.append(f"KS_OWN_REGISTER(KS_REGS_{argument.index.upper()}) * {argument.scale}")
        parts.append(f"{argument.value & (1 << 64) - 1:#x}ULL")
        address = " + ".join(parts)
    return Operand(f"{cast}KS_UREAD(u{8 * argument.size}, {address})")
