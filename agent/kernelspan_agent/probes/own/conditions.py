# SPDX-License-Identifier: Apache-2.0
"""Conditions as C expressions: each true where it holds.

Values of a profile become numbers here: a text is compared by its words, so no byte of it is ever C text. A condition on
what could not be read holds only where it is negative (NotEqual, NotIn, NotPrefix …), as does a negative one of addresses or
ports on a socket that has none; one that compares more bytes than are read is refused.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernelspan_agent.probes.own.sources import ArgumentError
from kernelspan_agent.probes.own.values import ANY_BOUNDS, BOUNDS, SOCKETS, STRING_EXTRA, TEXTS
from kernelspan_agent.resolve.arguments import NUMBERS, SIGNED, Slot
from kernelspan_api.conditions import (
    ArgumentType,
    CapabilityCondition,
    NamespaceCondition,
    NamespaceType,
    Operator,
    SetOperator,
)

_U64 = (1 << 64) - 1
_O = Operator
_NEGATIVE = {
    _O.NOT_EQUAL: _O.EQUAL,
    _O.NOT_IN: _O.IN,
    _O.NOT_PREFIX: _O.PREFIX,
    _O.NOT_SUFFIX: _O.SUFFIX,
    _O.NOT_SOURCE_CIDR: _O.SOURCE_CIDR,
    _O.NOT_DESTINATION_CIDR: _O.DESTINATION_CIDR,
    _O.NOT_SOURCE_PORT: _O.SOURCE_PORT,
    _O.NOT_DESTINATION_PORT: _O.DESTINATION_PORT,
}
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_VSOCK": 40}
_PROTOCOLS = {"IPPROTO_ICMP": 1, "IPPROTO_TCP": 6, "IPPROTO_UDP": 17, "IPPROTO_ICMPV6": 58, "IPPROTO_SCTP": 132}
SUFFIX_ROOM = 264  # bytes behind all data that a comparison of a text's end may look at


@dataclass(frozen=True, slots=True)
class Subject:
    """What a condition is about: a number (`c`, a u64 expression) or the data of a slot."""

    type: ArgumentType
    c: str
    slot: Slot | None = None
    known: str = ""  # a C expression that is 0 where there is no such value


def holds(subject: Subject, operator: Operator, values: Sequence[str]) -> str:
    """A C expression. Raises ArgumentError where the type cannot be compared so."""
    positive = _NEGATIVE.get(operator)
    if positive is not None:
        return f"!{holds(subject, positive, values)}"
    if subject.type in NUMBERS:
        found = _number(subject, operator, values)
        return f"({subject.known} && {found})" if subject.known else found
    if subject.type in TEXTS and subject.slot is not None:
        return _any([_text(subject.slot, operator, value.encode()) for value in values])
    if subject.type in SOCKETS and subject.slot is not None:
        return _socket(subject.slot, operator, values)
    raise ArgumentError(f"{subject.type.value} cannot be compared in the kernel by {operator.value}")


def _any(parts: Sequence[str]) -> str:
    return f"({' || '.join(parts)})"


def whole(text: str) -> int:
    """A number as a profile writes it. Raises ArgumentError."""
    try:
        return int(text, 0)
    except ValueError:
        raise ArgumentError(f"{text!r} is no whole number, decimal or 0x") from None


def _c(value: int) -> str:
    return f"{value & _U64:#x}ULL"


def _range(value: str) -> tuple[str, str]:
    low, colon, high = value.partition(":")
    if not colon:
        raise ArgumentError(f"{value!r} is no range: write LOW:HIGH, both included")
    return low, high


def _number(subject: Subject, operator: Operator, values: Sequence[str]) -> str:
    signed = subject.type in SIGNED
    cast = "(s64)" if signed else ""

    def within(text: str) -> int:
        low, high = BOUNDS.get(subject.type, ANY_BOUNDS)
        if not low <= (value := whole(text)) <= high:
            raise ArgumentError(f"{text} is no {subject.type.value}: those are {low} to {high}")
        return value

    def compared(sign: str, value: int) -> str:
        return f"({cast}({subject.c}) {sign} {cast}{_c(value)})"

    if operator in (_O.EQUAL, _O.IN):
        return _any([compared("==", within(value)) for value in values])
    if operator is _O.GREATER_THAN:
        return compared(">", within(values[0]))
    if operator is _O.LESS_THAN:
        return compared("<", within(values[0]))
    if operator is _O.MASK:
        return _any([f"(({subject.c}) & {_c(whole(value))})" for value in values])
    if operator is _O.IN_RANGE:
        ends = [_range(value) for value in values]
        return _any([f"({compared('>=', within(low))} && {compared('<=', within(high))})" for low, high in ends])
    raise ArgumentError(f"{subject.type.value} is a number: it cannot be compared by {operator.value}")


def _text(slot: Slot, operator: Operator, value: bytes) -> str:
    room = slot.data_bytes - (STRING_EXTRA if slot.type is ArgumentType.STRING else 0)
    if len(value) > room:
        raise ArgumentError(f"{len(value)} bytes are to be compared, but only {room} are read: raise maxBytes")
    length, state = f"v->arguments[{slot.number}].length", f"v->arguments[{slot.number}].state"
    readable = f"{state} != KS_ARGUMENT_UNREADABLE"
    if operator in (_O.EQUAL, _O.IN):
        same = _words(f"v->data + {slot.at}", value)
        return f"({state} == KS_ARGUMENT_WHOLE && {length} == {len(value)}{same})"
    if operator is _O.PREFIX:
        return f"({readable} && {length} >= {len(value)}{_words(f'v->data + {slot.at}', value)})"
    if operator is _O.SUFFIX:
        mask = (1 << (slot.data_bytes - 1).bit_length()) - 1 if slot.data_bytes > 1 else 0
        begin = f"v->data + {slot.at} + (KS_LOAD({length}) - {len(value)} & {mask})"
        return f"({state} == KS_ARGUMENT_WHOLE && {length} >= {len(value)}{_words(begin, value)})"
    raise ArgumentError(f"{slot.type.value} is a text: it cannot be compared by {operator.value}")


def _words(begin: str, value: bytes) -> str:
    """`&& ...` for every word of a text."""
    parts, at = [], 0
    for size, kind in ((8, "u64"), (4, "u32"), (2, "u16"), (1, "u8")):
        while len(value) - at >= size:
            word = int.from_bytes(value[at : at + size], "little")
            parts.append(f" && *({kind} *)({begin} + {at}) == {word:#x}{'ULL' if size == 8 else 'U'}")
            at += size
    return "".join(parts)


def _socket(slot: Slot, operator: Operator, values: Sequence[str]) -> str:
    base = f"v->data + {slot.at}"
    readable = f"v->arguments[{slot.number}].state == KS_ARGUMENT_WHOLE"
    is_sock = slot.type is ArgumentType.SOCK
    family = f"*(u16 *)({base})"

    def swapped(place: int) -> str:
        return f"__builtin_bswap16(*(u16 *)({base} + {place}))"

    if operator is _O.FAMILY:
        return f"({readable} && {_any([f'{family} == {_named(value, _FAMILIES)}' for value in values])})"
    if operator is _O.PROTOCOL and is_sock:
        protocol = f"*(u16 *)({base} + 2)"
        return f"({readable} && {_any([f'{protocol} == {_named(value, _PROTOCOLS)}' for value in values])})"
    if operator is _O.SOURCE_PORT and is_sock:
        return f"({readable} && {_any([f'*(u16 *)({base} + 4) == {whole(value)}' for value in values])})"
    if operator is _O.DESTINATION_PORT:
        port = f"*(u16 *)({base} + 6)" if is_sock else swapped(2)
        internet = f"({family} == {socket.AF_INET.value} || {family} == {socket.AF_INET6.value})"
        return f"({readable} && {internet} && {_any([f'{port} == {whole(value)}' for value in values])})"
    if operator is _O.SOURCE_CIDR and is_sock:
        return f"({readable} && {_any([_network(base, 8, 8, value) for value in values])})"
    if operator is _O.DESTINATION_CIDR:
        places = (24, 24) if is_sock else (4, 8)
        return f"({readable} && {_any([_network(base, *places, value) for value in values])})"
    raise ArgumentError(f"{slot.type.value} cannot be compared by {operator.value}")


def _named(text: str, names: dict[str, int]) -> int:
    if text in names:
        return names[text]
    if text.isidentifier():
        raise ArgumentError(f"{text!r} is none of {', '.join(names)}, nor a number")
    return whole(text)


def _network(base: str, place4: int, place6: int, text: str) -> str:
    """Whether the address at a place is in a network; IPv4 in IPv6 is IPv4."""
    network = ipaddress.ip_network(text, strict=False)
    parts = []
    if network.version == 4:
        mask, wanted = (int(each) for each in (network.netmask, network.network_address))
        word = f"__builtin_bswap32(*(u32 *)({base} + {{}}))"
        same = f"({word} & {mask:#x}U) == {wanted:#x}U"
        mapped = f"*(u64 *)({base} + {place6}) == 0 && *(u32 *)({base} + {place6 + 8}) == 0xffff0000U"
        return (
            f"((*(u16 *)({base}) == {socket.AF_INET.value} && {same.format(place4)}) || "
            f"(*(u16 *)({base}) == {socket.AF_INET6.value} && {mapped} && {same.format(place6 + 12)}))"
        )
    masks = struct.unpack("<QQ", network.netmask.packed)
    words = struct.unpack("<QQ", network.network_address.packed)
    for index, (mask, word) in enumerate(zip(masks, words, strict=True)):
        parts.append(f" && (*(u64 *)({base} + {place6 + 8 * index}) & {mask:#x}ULL) == {word:#x}ULL")
    return f"(*(u16 *)({base}) == {socket.AF_INET6.value}{''.join(parts)})"


# --- of the thread --------------------------------------------------------------------------------------------------------

# As capabilities(7) lists them; their order is that of include/uapi/linux/capability.h.
CAPABILITIES = {
    name: number
    for number, name in enumerate(
        [
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
            "LINUX_IMMUTABLE",
            "NET_BIND_SERVICE",
            "NET_BROADCAST",
            "NET_ADMIN",
            "NET_RAW",
            "IPC_LOCK",
            "IPC_OWNER",
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_CHROOT",
            "SYS_PTRACE",
            "SYS_PACCT",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_NICE",
            "SYS_RESOURCE",
            "SYS_TIME",
            "SYS_TTY_CONFIG",
            "MKNOD",
            "LEASE",
            "AUDIT_WRITE",
            "AUDIT_CONTROL",
            "SETFCAP",
            "MAC_OVERRIDE",
            "MAC_ADMIN",
            "SYSLOG",
            "WAKE_ALARM",
            "BLOCK_SUSPEND",
            "AUDIT_READ",
            "PERFMON",
            "BPF",
            "CHECKPOINT_RESTORE",
        ]
    )
}
_NEGATIVE_SETS = {SetOperator.NOT_EQUAL, SetOperator.NOT_IN}


def has_capabilities(condition: CapabilityCondition) -> str:
    """Whether the thread has one of the capabilities in the set; negated: none of them. Raises ArgumentError."""
    mask = 0
    for name in condition.values:
        number = CAPABILITIES.get(name.upper().removeprefix("CAP_"))
        if number is None:
            raise ArgumentError(f"{name!r} is no capability; capabilities(7) lists them")
        mask |= 1 << number
    cred = "KS_KREAD(u64, ks_current_task() + KS_TASK_CRED)"
    found = f"(KS_KREAD(u64, {cred} + KS_CRED_{condition.set.value.upper()}) & {mask:#x}ULL)"
    return f"!{found}" if condition.operator in _NEGATIVE_SETS else f"!!{found}"


def in_namespaces(condition: NamespaceCondition, host: Callable[[NamespaceType], int]) -> str:
    """Whether a namespace of the thread is one of these. `host`: inode number of the host's own of a kind."""
    kind, task = condition.type.name, "ks_current_task()"
    if condition.type is NamespaceType.USER:
        space = f"KS_KREAD(u64, KS_KREAD(u64, {task} + KS_TASK_CRED) + KS_CRED_USER)"
    elif condition.type is NamespaceType.PID:
        pid = f"KS_KREAD(u64, {task} + KS_TASK_THREAD_PID)"
        last = f"KS_PID_NUMBERS + KS_UPID_SIZE * (u64)KS_KREAD(u32, {pid} + KS_PID_OWN_LEVEL) + KS_UPID_NS"
        space = f"KS_KREAD(u64, {pid} + {last})"
    else:
        space = f"KS_KREAD(u64, KS_KREAD(u64, {task} + KS_TASK_NSPROXY) + KS_NS_{kind})"
    offset = "KS_PIDNS_INUM" if condition.type is NamespaceType.PID else f"KS_INUM_{kind}"
    numbers = [host(condition.type) if value == "Host" else whole(value) for value in condition.values]
    found = _any([f"KS_KREAD(u32, {space} + {offset}) == {number & 0xFFFFFFFF:#x}U" for number in numbers])
    return f"!{found}" if condition.operator in _NEGATIVE_SETS else found
