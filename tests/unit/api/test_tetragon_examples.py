# SPDX-License-Identifier: Apache-2.0
"""Profiles for what Tetragon's public examples observe: valid, whole, and programs can be made of them.

The names of kernel functions and struct members are the kernel's: where this kernel describes itself they are looked up.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf
from kernelspan_agent.probes.ktypes import Function, KernelTypes, Leaf, Resolved
from kernelspan_agent.probes.memberpath import resolve
from kernelspan_agent.probes.own.codegen import Generated, Generator
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.prepare import checked
from kernelspan_agent.probes.own.sources import (
    KernelFunction,
    Operand,
    RawTracepoint,
    Source,
    StaticProbe,
    SystemCallFunction,
    TracepointRecord,
    Trampoline,
    UserFunction,
)
from kernelspan_agent.probes.tracefs import Field, FieldKind, Place, Tracepoint
from kernelspan_api import profile
from kernelspan_api.userprobes import Argument, Mode, UserProbe
from tests.support.require import require

ROOT = Path(__file__).parents[3]
PROFILES = sorted((ROOT / "examples" / "tetragon").glob("*.yaml"))
PAGE = (ROOT / "docs" / "how-to" / "tetragon.md").read_text(encoding="utf-8")
POLICIES = 78  # files of both folders at the commit that the page names
# Members that a kernel has one or the other of; whichever it has, one of the group must be found.
ONE_OF = (
    {("capability-gains", "gain"), ("capability-gains", "gain-before-6-3")},
    {
        ("privileges-raise", "capset"),
        ("privileges-raise", "capset-before-6-3"),
        ("privileges-raise", "capset-before-6-3-high"),
    },
    {("overlayfs-copy-up", "copy-up"), ("overlayfs-copy-up", "copy-up-one-argument")},
)


def _field(name: str, offset: int, size: int, kind: FieldKind = FieldKind.INTEGER, **more: object) -> Field:
    return Field(name, "", kind, offset, size, signed=bool(more.pop("signed", False)), **more)  # type: ignore[arg-type]


_NAME = {"kind": FieldKind.STRING, "place": Place.DATA_LOC, "element_size": 1}
# As their `format` files have them, of the fields that are read; Linux 6.18.
RECORDS = {
    "net_dev_queue": (
        _field("skbaddr", 8, 8, FieldKind.POINTER),
        _field("len", 16, 4),
        _field("name", 20, 4, **_NAME),  # type: ignore[arg-type]
    ),
    "net_dev_start_xmit": (_field("name", 8, 4, **_NAME), _field("len", 36, 4)),  # type: ignore[arg-type]
    "kfree_skb": (
        _field("location", 16, 8, FieldKind.POINTER),
        _field("protocol", 32, 2),
        _field("reason", 36, 4),
    ),
    "sys_enter": (_field("id", 8, 8, signed=True),),
    "sys_exit": (_field("id", 8, 8, signed=True), _field("ret", 16, 8, signed=True)),
}


def _probes() -> Iterator[tuple[str, UserProbe]]:
    for path in PROFILES:
        for probe in profile.load(path.read_bytes()).spec.probes:
            yield path.stem, probe


ALL = list(_probes())


def _needs_types(probe: UserProbe) -> bool:
    return any(argument.resolve for argument in probe.args)


# --- the page -------------------------------------------------------------------------------------------------------------


def _rows() -> list[list[str]]:
    table = PAGE.partition("| policy |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_policy_is_listed_once() -> None:
    """None is left out, and none is told of twice."""
    names = [row[0] for row in _rows()]
    assert {len(row) for row in _rows()} == {4}
    assert all(re.fullmatch(r"`(tracingpolicy|policylibrary)/[\w./-]+\.ya?ml`", name) for name in names)
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert len(names) == POLICIES


def test_every_policy_has_a_profile_or_a_reason() -> None:
    """A link leads to a profile, each profile is linked, each reason is explained, and nothing else is."""
    links = [re.findall(r"\]\(\.\./\.\./examples/tetragon/([^)]+)\)", row[2]) for row in _rows()]
    reasons = [re.findall(r"\[([^]]+)\]\(#", row[3]) for row in _rows()]
    assert [row[0] for row, linked, why in zip(_rows(), links, reasons, strict=True) if not linked and not why] == []
    assert {each for linked in links for each in linked} == {path.name for path in PROFILES}
    headings = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    assert {each for why in reasons for each in why} == set(headings)
    anchors = {each.lower().replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) == anchors


# --- the profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("standalone", [True, False])
def test_profile_is_valid_and_available(path: Path, standalone: bool) -> None:
    """For the API server and for a run; it has its file's name, and a comment that says what it watches."""
    text = path.read_text(encoding="utf-8")
    loaded = profile.load(text, standalone=standalone)
    assert profile.unavailable(loaded) == []
    assert loaded.metadata.name == path.stem
    assert re.match(r"# SPDX[^\n]+\n# [A-Z]", text)


# --- their programs -------------------------------------------------------------------------------------------------------


def _no_way(_leaf: Leaf, path: str) -> Resolved:
    raise AssertionError(f"{path}: the types of a machine are needed")


def _generated(probe: UserProbe, places: Places, way: Callable[[Leaf, str], Resolved] = _no_way) -> Generated:
    return checked(Generator(probe, places, lambda _: 4026531836, way).generate())


def _sources(probe: UserProbe) -> list[list[Source]]:
    """At entry and at return, by each way that it may be attached."""
    if probe.kprobe is not None:
        if probe.kprobe.syscall:
            return [[each, each] for each in (SystemCallFunction(168), Trampoline(1, is_call=True))]
        return [[each, each] for each in (KernelFunction(168), KernelFunction(152), Trampoline(8))]
    if probe.tracepoint is not None:
        wanted = probe.tracepoint
        if wanted.raw:
            return [[RawTracepoint(wanted.event, 3)]]
        ends = [wanted.event, wanted.exit_event] if wanted.exit_event else [wanted.event]
        return [[TracepointRecord(Tracepoint(wanted.category, event, 1, RECORDS[event])) for event in ends]]
    if probe.usdt is not None:
        operand = Operand("(u64)(s64)(s32)(KS_OWN_REGISTER(KS_REGS_AX) >> 0)")
        return [[StaticProbe((operand,) * 3)]]
    return [[UserFunction(), UserFunction(at_ret=True)]]


def _places(probe: UserProbe, sources: list[Source], type_of: Callable[[Argument], Leaf | None]) -> Places:
    return Places(sources[:1], sources[1:] if probe.mode is Mode.SPAN else (), type_of)


@pytest.mark.parametrize(
    "probe", [pytest.param(probe, id=f"{name}-{probe.name}") for name, probe in ALL if not _needs_types(probe)]
)
def test_program_of_a_probe_that_needs_no_types(probe: UserProbe) -> None:
    """Its arguments can be read and compared, however it is attached."""
    for sources in _sources(probe):
        made = _generated(probe, _places(probe, sources, lambda _: None))
        assert len(made.enters) == 1
        assert len(made.exits) == (probe.mode is Mode.SPAN)
        assert [each.attribute for each in made.captured][: len(probe.args)] == [each.attribute for each in probe.args]


@pytest.fixture(scope="module")
def types() -> Iterator[KernelTypes]:
    require("unit", os.access(btf.DIRECTORY / btf.VMLINUX, os.R_OK), "this kernel does not publish its types")
    with KernelTypes.open() as opened:
        yield opened


def _function(probe: UserProbe, types: KernelTypes) -> Function | None:
    if probe.tracepoint is not None:
        return types.raw_tracepoint(probe.tracepoint.event)
    return types.function(probe.kprobe.call) if probe.kprobe and not probe.kprobe.syscall else None


def test_programs_with_the_types_of_this_kernel(types: KernelTypes) -> None:
    """Every function that this kernel describes has the arguments and members that its probe names."""
    found, refused = set(), {}
    for name, probe in ALL:
        function = _function(probe, types)
        if function is None or (probe.tracepoint is not None and not probe.tracepoint.raw):
            continue  # another kernel's, or none that the kernel would describe

        def type_of(argument: Argument, function: Function = function) -> Leaf | None:
            return next((each.type for each in function.parameters if each.slot == argument.index), None)

        indices = {argument.index for argument in probe.args}
        assert max([each for each in indices if each is not None], default=-1) < len(function.parameters) or (
            _alternative(name, probe)
        ), f"{name}: {probe.name}: {function.name} has {len(function.parameters)} arguments"
        try:
            for sources in _sources(probe):
                _generated(probe, _places(probe, sources, type_of), lambda leaf, path: resolve(types, leaf, path))
        except MachineError as error:
            refused[name, probe.name] = str(error)
        else:
            found.add((name, probe.name))
    assert {key: why for key, why in refused.items() if not any(key in group for group in ONE_OF)} == {}
    assert [group for group in ONE_OF if not group & found and group & set(refused)] == []
    assert len(found) > 50


def _alternative(name: str, probe: UserProbe) -> bool:
    return any((name, probe.name) in group for group in ONE_OF)
