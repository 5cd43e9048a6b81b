# SPDX-License-Identifier: Apache-2.0
"""Random probes of one's own and their programs, made without a machine: where arguments lie is made up as well.

`python -m tests.support.own_generation COUNT` makes so many, compiles them, and looks at every instruction (as root, with
bcc); it says what it came to, and fails at the first program that does not compile or calls what it must not.
"""

from __future__ import annotations

import base64
import os
import random
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from kernelspan_agent.errors import KernelspanError
from kernelspan_agent.probes import bpf, constants, fentry, proofs
from kernelspan_agent.probes.btf import Btf
from kernelspan_agent.probes.build import Module, compile_now, request
from kernelspan_agent.probes.ktypes import Leaf, LeafKind, Resolved, Step
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.own.codegen import Generated, Generator
from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.prepare import checked
from kernelspan_agent.probes.own.sources import (
    GoFunction,
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
from kernelspan_agent.probes.syscalls import function_of
from kernelspan_agent.probes.tracefs import Field, FieldKind, Place, Tracepoint
from kernelspan_api.conditions import ArgumentType, CapabilitySet, NamespaceType, Operator
from kernelspan_api.userprobes import Mechanism, UserProbe

AT_ONCE = 24  # texts that one child compiles
RING_BYTES = 4096
# include/uapi/linux/bpf.h: maps (1-3), reads of memory (4, 112-115), time (5), chance (7), tail calls (12), who runs (14, 16,
# 35), the ring (130, 134). None writes to memory of a program or of the kernel, sends a signal or changes what a call returns.
HELPERS = frozenset({1, 2, 3, 4, 5, 7, 12, 14, 16, 35, 112, 113, 114, 115, 130, 134})
_CALL = 0x85  # BPF_JMP | BPF_CALL
_FUNCTIONS = {3: "ksys_read", 4: "ksys_fadvise64_64"}  # of the kernel, by how many arguments they have
_PSEUDO_KFUNC = 2

_POINTER = Leaf(LeafKind.POINTER, "void *", 8)
_T, _O = ArgumentType, Operator
_TEXTS = (_T.STRING, _T.BYTES, _T.GO_STRING, _T.GO_SLICE, _T.IO_VEC)
_SOCKETS = (_T.SOCK, _T.SOCK_ADDR)
_PATHS = (_T.FILE, _T.PATH, _T.FD)
_ON_NUMBERS = (_O.EQUAL, _O.NOT_EQUAL, _O.IN, _O.NOT_IN, _O.GREATER_THAN, _O.LESS_THAN, _O.IN_RANGE, _O.MASK)
_ON_TEXTS = (_O.EQUAL, _O.NOT_EQUAL, _O.IN, _O.NOT_IN, _O.PREFIX, _O.NOT_PREFIX, _O.SUFFIX, _O.NOT_SUFFIX)
_ON_ADDRESSES = (
    _O.DESTINATION_CIDR,
    _O.NOT_DESTINATION_CIDR,
    _O.DESTINATION_PORT,
    _O.NOT_DESTINATION_PORT,
    _O.FAMILY,
)
_ON_SOCKETS = (
    *_ON_ADDRESSES,
    _O.SOURCE_CIDR,
    _O.NOT_SOURCE_CIDR,
    _O.SOURCE_PORT,
    _O.NOT_SOURCE_PORT,
    _O.PROTOCOL,
)
_LETTERS = "abcXYZ019 _-./\\\"'%${}();#\n\té\u2028"


def fields() -> tuple[Field, ...]:
    """Of a tracepoint: every kind and size, in the record and elsewhere."""
    integers = [
        Field(f"{'s' if signed else 'u'}{8 * size}", "int", FieldKind.INTEGER, 8 + 8 * index, size, signed)
        for index, (size, signed) in enumerate((size, signed) for size in (1, 2, 4, 8) for signed in (False, True))
    ]
    return (
        *integers,
        Field("pointer", "void *", FieldKind.POINTER, 72, 8, signed=False),
        Field("comm", "char[16]", FieldKind.STRING, 80, 16, signed=True, elements=16, element_size=1),
        Field("name", "char[]", FieldKind.STRING, 96, 4, signed=True, place=Place.DATA_LOC, element_size=1),
        Field("more", "char[]", FieldKind.STRING, 100, 4, signed=True, place=Place.REL_LOC, element_size=1),
        Field("ret", "long", FieldKind.INTEGER, 104, 8, signed=True),
    )


def places_of(probe: UserProbe, chance: random.Random) -> Places:
    """Some places that such a probe may be attached to."""
    source: Source
    leave: Source
    if probe.tracepoint is not None:
        if probe.tracepoint.raw:
            return Places([RawTracepoint(probe.tracepoint.event, 6)])
        is_call = probe.tracepoint.category == "syscalls"
        record = TracepointRecord(Tracepoint(probe.tracepoint.category, probe.tracepoint.event, 1, fields()), is_call)
        return _sided(probe, [record], [record])
    if probe.kprobe is not None:
        if probe.kprobe.syscall:
            source = chance.choice([SystemCallFunction(168), Trampoline(1, is_call=True)])
        else:
            source = chance.choice([KernelFunction(168), KernelFunction(152), Trampoline(chance.randint(0, 12))])
        return replace(_sided(probe, [source], [source]), type_of=lambda _: _POINTER)
    if probe.usdt is not None:
        count = chance.randint(1, 3)
        return _sided(probe, [_static(chance) for _ in range(count)], [_static(chance) for _ in range(count)])
    source, leave = chance.choice(
        [
            (UserFunction(), UserFunction()),
            (UserFunction(), UserFunction(at_ret=True)),
            (GoFunction(), GoFunction()),
            (GoFunction(stack=True), GoFunction(stack=True)),
        ]
    )
    return _sided(probe, [source], [leave])


def _sided(probe: UserProbe, enters: Sequence[Source], exits: Sequence[Source]) -> Places:
    return Places(enters, exits if probe.mode.value == "Span" else ())


def _static(chance: random.Random) -> StaticProbe:
    kinds = [
        "(u64)(s64)(s32)(KS_OWN_REGISTER(KS_REGS_AX) >> 0)",
        "(u64)(u64)KS_UREAD(u64, KS_OWN_REGISTER(KS_REGS_BP) + KS_OWN_REGISTER(KS_REGS_R9) * 8 + 0xfffffffffffffff8ULL)",
        "(u64)(s64)(s16)KS_UREAD(u16, KS_OWN_REGISTER(KS_REGS_IP) + 4096)",
        "0xffffffffffffffffULL",
    ]
    return StaticProbe(tuple(Operand(chance.choice(kinds)) for _ in range(12)))


# --- probes ---------------------------------------------------------------------------------------------------------------


def random_probe(chance: random.Random) -> dict[str, Any]:
    """A probe in its wire form, of any kind and shape; most of them can be made."""
    kind = chance.choice(["tracepoint", "raw", "call", "kprobe", "syscall", "uprobe", "usdt"])
    mode = "Event" if kind == "raw" else chance.choice(["Span", "Event"])
    target: dict[str, Any] = {
        "tracepoint": {"tracepoint": {"category": "sched", "event": "x", "exitEvent": "y"}},
        "raw": {"tracepoint": {"category": "sched", "event": "x", "raw": True}},
        "call": {"tracepoint": {"category": "syscalls", "event": "sys_enter_x", "exitEvent": "sys_exit_x"}},
        "kprobe": {"kprobe": {"call": "x"}},
        "syscall": {"kprobe": {"call": "x", "syscall": True}},
        "uprobe": {"uprobe": {"path": "/x", "symbols": ["x"]}},
        "usdt": {"usdt": {"path": "/x", "provider": "x", "probe": "x", "endProbe": "y"}},
    }[kind]
    user, record = kind in ("uprobe", "usdt"), kind in ("tracepoint", "call")
    types = [each for each in _T if not (user or kind in ("call", "syscall")) or each not in _KERNELS]
    args = []
    for index in range(chance.randint(0, 8)):
        if record and chance.random() < 0.3:
            args.append(
                {
                    "field": chance.choice(fields()).name,
                    "type": chance.choice(["String", "Bytes"]),
                    "attribute": f"a{index}",
                }
            )
            continue
        argument = {"index": index, "type": chance.choice(types).value, "attribute": f"a{index}"}
        if kind == "kprobe" and chance.random() < 0.4:
            argument["resolve"] = f"m{chance.randrange(10_000)}.x[{chance.randrange(4)}]"
        if chance.random() < 0.4:
            argument["maxBytes"] = chance.choice([1, 2, 7, 8, 16, 63, 64, 127, 255, 256, 1000, 4096])
        args.append(argument)
    probe: dict[str, Any] = {"name": "x", **target, "mode": mode, "args": args}
    compared = [each for each in args if "index" in each]
    probe["match"] = [_match(chance, compared, mode) for _ in range(chance.choice([0, 0, 1, 1, 2, 8]))]
    if mode == "Span" and chance.random() < 0.5 and kind != "usdt":
        probe["returns"] = {"type": chance.choice([*_NUMBERS, _T.STRING, _T.BYTES]).value, "attribute": "r"}
    if mode == "Span" and chance.random() < 0.3 and kind != "usdt":
        probe["errorWhen"] = {"operator": "LessThan", "values": ["0"]}
    if mode == "Span" and chance.random() < 0.3:
        probe["minDurationMicroseconds"] = chance.choice([1, 250, 10_000_000])
    if chance.random() < 0.2:
        probe["rateLimit"] = {"eventsPerSecond": 10, "scope": chance.choice(["Process", "Pod", "Node"])}
    return {key: value for key, value in probe.items() if value != []}


_KERNELS = (_T.FILE, _T.PATH, _T.SOCK, _T.CRED)
_NUMBERS = [each for each in _T if each not in (*_TEXTS, *_SOCKETS, *_KERNELS)]


def _match(chance: random.Random, args: list[dict[str, Any]], mode: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if args and chance.random() < 0.8:
        chosen = chance.sample(args, chance.randint(1, min(3, len(args))))
        found["args"] = [
            {"index": each["index"], "resolve": each.get("resolve", ""), **_compared(chance, each)} for each in chosen
        ]
    if mode == "Span" and chance.random() < 0.2:
        found["returns"] = [_on_number(chance, _T.INT64)]
    if chance.random() < 0.2:
        names = chance.sample(["CAP_CHOWN", "CAP_BPF", "SYS_ADMIN", "cap_checkpoint_restore"], 2)
        operator = chance.choice(["In", "NotIn"])
        found["capabilities"] = [
            {"set": chance.choice(list(CapabilitySet)).value, "operator": operator, "values": names}
        ]
    if chance.random() < 0.2:
        operator, values = chance.choice(_ON_TEXTS), ["/usr/bin/x", '/opt/"y";']
        found["binaries"] = [{"operator": operator.value, "values": chance.sample(values, chance.randint(1, 2))}]
    if chance.random() < 0.2 or not found:
        kind, operator = chance.choice(list(NamespaceType)), chance.choice(["Equal", "NotEqual"])
        found["namespaces"] = [
            {"type": kind.value, "operator": operator, "values": ["Host", str(chance.randrange(2**32))]}
        ]
    return found


def _compared(chance: random.Random, argument: Mapping[str, Any]) -> dict[str, Any]:
    kind = _T(argument["type"])
    if kind in _PATHS:
        operator = chance.choice(_ON_TEXTS)
        return {"operator": operator.value, "values": chance.sample(["/etc/passwd", "/tmp/", ".so"], 2)}
    if kind in _TEXTS:
        room = argument.get("maxBytes") or 64
        values = [
            "".join(chance.choices(_LETTERS, k=chance.randint(0, min(room, 40)))) for _ in range(chance.randint(1, 4))
        ]
        return {
            "operator": chance.choice(_ON_TEXTS).value,
            "values": [each for each in values if len(each.encode()) <= room] or ["x"],
        }
    if kind in _SOCKETS:
        operator = chance.choice(_ON_SOCKETS if kind is _T.SOCK else _ON_ADDRESSES)
        values = {
            _O.FAMILY: ["AF_INET", "AF_INET6", "1"],
            _O.PROTOCOL: ["IPPROTO_TCP", "17"],
            _O.SOURCE_PORT: ["1", "65535"],
            _O.DESTINATION_PORT: ["443", "80"],
        }.get(operator, ["0.0.0.0/0", "10.0.0.0/8", "fd00::/9", "::1/128"])
        return {"operator": operator.value, "values": chance.sample(values, chance.randint(1, len(values)))}
    return _on_number(chance, kind)


def _on_number(chance: random.Random, kind: ArgumentType) -> dict[str, Any]:
    operator = chance.choice(_ON_NUMBERS)
    low, high = (-(2**63), 2**63 - 1) if kind is _T.INT64 else (0, 1 if kind is _T.BOOL else 127)
    values = [str(chance.choice([low, high, chance.randint(low, high)])) for _ in range(chance.randint(1, 4))]
    if operator is _O.IN_RANGE:
        values = [f"{each}:{high}" for each in values]
    if operator in (_O.GREATER_THAN, _O.LESS_THAN, _O.MASK):
        values = values[:1]
    return {"operator": operator.value, "values": values}


# --- their programs -------------------------------------------------------------------------------------------------------


def generated(probe: UserProbe, places: Places) -> Generated:
    """The text. Raises KernelspanError where the probe asks for what cannot be."""
    return checked(Generator(probe, places, lambda _: 4026531836, _followed).generate())


def _followed(_start: Leaf, path: str) -> Resolved:
    """A way that no kernel has, always the same for a path; some lead to what cannot be read."""
    chance = random.Random(path)
    steps = [
        Step(chance.randint(-512, 4096), dereference=True, user=chance.random() < 0.1)
        for _ in range(chance.randint(0, 6))
    ]
    end = Step(chance.choice([0, 8, 4095, -24]), dereference=False)
    kind = chance.choice([*LeafKind, *[LeafKind.INTEGER, LeafKind.POINTER] * 5])
    size = chance.choice([0, 16, 64, 100_000] if kind in (LeafKind.STRING, LeafKind.ARRAY) else [1, 2, 4, 8])
    bits = (
        (chance.randint(0, 7), chance.randint(1, 8)) if kind is LeafKind.INTEGER and chance.random() < 0.3 else (0, 0)
    )
    text = f"struct {chance.choice(['x', 'file', 'dentry', 'path', 'sock', 'cred'])}"
    text += " *" if kind is LeafKind.POINTER else ""
    leaf = Leaf(kind, text, size, signed=chance.random() < 0.5, bit_offset=bits[0], bit_size=bits[1])
    return Resolved((*steps, end), leaf)


def some(seed: int, count: int) -> list[tuple[UserProbe, Places, Generated]]:
    """That many probes that can be made, by their seed."""
    chance, found = random.Random(seed), list[tuple[UserProbe, Places, Generated]]()
    tries = 0
    while len(found) < count:
        tries += 1
        assert tries < 20 * count, "most of what is tried cannot be made"
        probe = msgspec.convert(random_probe(chance), UserProbe)
        try:
            places = places_of(probe, chance)
            found.append((probe, places, generated(probe, places)))
        except KernelspanError:
            continue
    return found


def compiled(texts: Sequence[Generated]) -> dict[str, Any]:
    """What one child makes of them, by o0, o1, ..."""
    defines = constants.defines(ring_bytes=RING_BYTES, watch_exec=False, raw=False)
    modules = [Module(f"o{index}", each.programs, each.text) for index, each in enumerate(texts)]
    found: dict[str, Any] = compile_now(request(modules, defines, os.environ))["modules"]
    return found


def calls(program: Mapping[str, Any]) -> set[tuple[str, int]]:
    """What a program calls: ("helper", number) or ("kfunc", number of its type). Raises AssertionError: something odd."""
    code = base64.b64decode(program["instructions"])
    found = set()
    for at in range(0, len(code), 8):
        op, registers, _, immediate = struct.unpack_from("<BBhi", code, at)
        if op == _CALL:
            source = registers >> 4
            assert source in (0, _PSEUDO_KFUNC), f"a call of kind {source}"
            found.add(("kfunc" if source else "helper", immediate))
    return found


def can_be_loaded(places: Places) -> bool:
    """Whether this kernel runs such programs, and has a function that one of a trampoline can be loaded for."""
    source = places.enters[0]
    return not isinstance(source, Trampoline) or (
        proofs.prove(Mechanism.FENTRY).works and (source.is_call or source.count in _FUNCTIONS)
    )


def load(places: Places, made: Generated, module: Mapping[str, Any]) -> None:
    """Loads a module into this kernel and gives it back. Raises MachineError: the verifier refuses it."""
    (kind,) = {each.kind for each in (*places.enters, *places.exits)}
    source, ends, targets = places.enters[0], bpf.ANYWHERE, None
    if isinstance(source, Trampoline):
        with Btf.of_kernel() as btf:
            number = btf.function(function_of("read") if source.is_call else _FUNCTIONS[source.count])
        ends = fentry.target(number, returns=bool(made.exits))
        targets = dict.fromkeys(made.enters, fentry.target(number))
    with Loader({"ks_ring": RING_BYTES, "ks_scratches": 2}) as loader:
        loader.load(Load(module, kind, target=ends, targets=targets))
        assert set(loader.programs) == set(made.programs)


def main(count: int) -> int:
    """Makes and compiles that many, and loads one in three."""
    seed, started, loaded, helpers = random.randrange(1 << 30), time.monotonic(), 0, set[tuple[str, int]]()
    for at in range(0, count, AT_ONCE):
        part = some(seed + at, min(AT_ONCE, count - at))
        modules = compiled([made for _, _, made in part])
        for index, (probe, places, made) in enumerate(part):
            module = modules[f"o{index}"]
            for program in module["programs"].values():
                helpers |= calls(program)
            wrong = {number for kind, number in helpers if kind == "helper"} - HELPERS
            assert not wrong, (wrong, msgspec.json.encode(probe))
            if index % 3 == 0 and can_be_loaded(places):
                load(places, made, module)
                loaded += 1
        print(
            f"\r{at + len(part)} made, {loaded} loaded, seed {seed}, {time.monotonic() - started:.0f} s",
            end="",
            flush=True,
        )
    print(f"; helpers {sorted(number for kind, number in helpers if kind == 'helper')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
