# SPDX-License-Identifier: Apache-2.0
"""The parts of an operation's span: each made once for what it depends on, then shared by every span that has it.

A failure is a failure: EAGAIN, EINPROGRESS and EINTR are how non-blocking programs live, and ETIMEDOUT how waits end;
those are named but do not make a span an error.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernelspan_agent.model import AttributeValue, Kind, Library, Segment, Stack, StackState
from kernelspan_agent.resolve.stacks import nearest_app, nearest_library
from kernelspan_api import semconv
from kernelspan_api.operations import BY_NUMBER, Group

MAX_SEGMENTS = 16384
NOT_FAILURES = {errno.EAGAIN, errno.EINPROGRESS, errno.EINTR}
_WAITS_END = {errno.ETIMEDOUT}
_TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}
_FAMILIES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Unknown:
    """What holds for now: a name has not arrived, and may yet."""

    value: Any


class Cache(dict[Any, Any]):
    """What `make` gives for each key, made at the first look and kept; the oldest goes first when there are too many.

    A plain look-up, so a hit costs no more than that of a dict. What `make` gives as Unknown is not kept.
    """

    def __init__(self, make: Callable[[Any], Any], size: int = MAX_SEGMENTS) -> None:
        super().__init__()
        self._make, self._size = make, size

    def __missing__(self, key: Any) -> Any:
        found = self._make(key)
        if isinstance(found, Unknown):
            return found.value
        self[key] = found
        if len(self) > self._size:
            del self[next(iter(self))]
        return found


def transport_of(family: int, protocol: int) -> str:
    """network.transport; empty: not one that has a name."""
    return "unix" if family == socket.AF_UNIX else _TRANSPORTS.get(protocol, "")


def operation_segment(number: int, transport: str) -> Segment:
    """Name and kind of an operation's span."""
    operation = BY_NUMBER[number]
    name = operation.span_name
    if name.startswith("socket.") and transport:
        name = transport + name.removeprefix("socket")
    return Segment(name=name, kind=Kind.INTERNAL)


def code_segment(stack: Stack, *, stack_trace: bool) -> Segment | None:
    """Who did it: the nearest App frame, the library nearest to the kernel, the innermost frame's origin."""
    found: dict[str, AttributeValue] = {}
    if app := nearest_app(stack):
        if app.function:
            found[semconv.CODE_FUNCTION_NAME] = app.function
        found[semconv.CODE_FILE_PATH] = app.file
        if app.line:
            found[semconv.CODE_LINE_NUMBER] = app.line
    if (frame := nearest_library(stack)) and frame.library:
        found.update(library_attributes(frame.library))
    if stack.frames:
        found[semconv.CODE_ORIGIN] = stack.frames[0].origin.value
        if stack_trace:
            found[semconv.CODE_STACKTRACE] = trace_text(stack)
    if stack.state not in (StackState.COMPLETE, StackState.NONE):
        found[semconv.CODE_MISSING] = stack.reason or stack.state.value
    return Segment(found) if found else None


def library_attributes(library: Library) -> dict[str, AttributeValue]:
    """What is known of a library: its name, its version, its package URL."""
    found = {
        semconv.LIBRARY_NAME: library.name,
        semconv.LIBRARY_VERSION: library.version,
        semconv.LIBRARY_PURL: library.purl,
    }
    return {name: value for name, value in found.items() if value}


def trace_text(stack: Stack) -> str:
    """A stack as text, innermost first, one frame a line."""
    return "\n".join(f"{frame.function} ({frame.file}:{frame.line or '?'})" for frame in stack.frames)


def address_text(family: int, packed: bytes) -> str:
    """An address; IPv4 in the first four bytes."""
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(packed[:4]))
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def socket_segment(family: int, protocol: int, local: tuple[bytes, int], peer: tuple[bytes, int]) -> Segment:
    """Both ends of an internet socket; an end without a port is not known."""
    found: dict[str, AttributeValue] = {semconv.NETWORK_TYPE: _FAMILIES[socket.AddressFamily(family)]}
    if transport := transport_of(family, protocol):
        found[semconv.NETWORK_TRANSPORT] = transport
    if peer[1]:
        found[semconv.NETWORK_PEER_ADDRESS] = address_text(family, peer[0])
        found[semconv.NETWORK_PEER_PORT] = peer[1]
    if local[1]:
        found[semconv.NETWORK_LOCAL_ADDRESS] = address_text(family, local[0])
        found[semconv.NETWORK_LOCAL_PORT] = local[1]
    return Segment(found)


def unix_segment(peer: str, local: str) -> Segment:
    """A unix socket by the names that are known."""
    found: dict[str, AttributeValue] = {semconv.NETWORK_TRANSPORT: "unix"}
    if peer:
        found[semconv.NETWORK_PEER_ADDRESS] = peer
    if local:
        found[semconv.NETWORK_LOCAL_ADDRESS] = local
    return Segment(found)


def error_segment(number: int, code: int) -> Segment:
    """What a negative result means for the operation `number`."""
    name = errno.errorcode.get(code, str(code))
    group = BY_NUMBER[number].group
    if code in NOT_FAILURES or (group is Group.WAITS and code in _WAITS_END):
        return Segment({semconv.RESULT_NAME: name})
    return Segment({semconv.ERROR_TYPE: name}, error=name)
