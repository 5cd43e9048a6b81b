# SPDX-License-Identifier: Apache-2.0
"""Spans of one profile's own probes: their names, their arguments as attributes, what counts as an error.

Arguments differ from call to call, so each operation has a segment of its own; everything else is shared.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernelspan_agent.model import AttributeValue, Kind, Segment
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.resolve.arguments import NUMBERS, SIGNED
from kernelspan_agent.resolve.judging import Judge
from kernelspan_agent.resolve.paths import REDACTED, Redactor
from kernelspan_agent.resolve.segments import address_text, socket_segment
from kernelspan_agent.ring.records import MAX_OWN_PROBES, OWN_OPERATION, ArgumentState, OperationFlag
from kernelspan_api import semconv
from kernelspan_api.conditions import ArgumentType, Operator, ResultCondition
from kernelspan_api.userprobes import SpanKind, UserProbe

if TYPE_CHECKING:
    from kernelspan_agent.errors import KernelspanError
    from kernelspan_agent.resolve.arguments import Arguments, Captured
    from kernelspan_agent.resolve.tables import Tables
    from kernelspan_agent.resolve.traced import TracedProcess
    from kernelspan_api.handling import Redaction

_KINDS = {
    SpanKind.INTERNAL: Kind.INTERNAL,
    SpanKind.SERVER: Kind.SERVER,
    SpanKind.CLIENT: Kind.CLIENT,
    SpanKind.PRODUCER: Kind.PRODUCER,
    SpanKind.CONSUMER: Kind.CONSUMER,
}
_T = ArgumentType
_UNSIGNED = NUMBERS - SIGNED
_U64 = (1 << 64) - 1
_SOCKET = struct.Struct("<HHHH16s16s")
_ADDRESSES: dict[int, slice] = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}  # in a sockaddr
_CREDENTIALS = struct.Struct("<IIIIQ")
_MAX_ERRNO = 4095
_LOST = 1  # in place of a path's id: the record that has it is not there


class OwnProbe(Protocol):
    """A probe as it is in the kernel."""

    spec: UserProbe
    number: int
    captured: tuple[Captured, ...]
    problem: KernelspanError | None


class OwnProbes(Protocol):
    """Those of a session."""

    def get(self, spec: UserProbe) -> OwnProbe | None:
        """The probe of that spec; None: it was never asked for."""

    def tell(self, about: int, number: int, of: int, mask: int) -> None:
        """Tells the kernel which conditions of a probe can hold for an image or a path."""


def as_number(kind: ArgumentType, value: int) -> AttributeValue:
    """A number as it is shown; OTLP has no unsigned 64 bits: what does not fit is its decimal text, an address hexadecimal."""
    if kind is _T.BOOL:
        return bool(value)
    if kind is _T.POINTER:
        return f"{value:#x}"
    if value >= 1 << 63:
        return value - (1 << 64) if kind in SIGNED else str(value)
    return value


class OwnSpans:
    """What a profile's own probes show. Not for several threads."""

    def __init__(self, specs: Sequence[UserProbe], probes: OwnProbes, tables: Tables, redaction: Redaction) -> None:
        self._unknown, self._probes, self._tables = list(specs), probes, tables
        self._has_any = bool(specs)
        self._redactor = Redactor(redaction.paths)
        self._hidden = (
            re.compile("|".join(f"(?:{each})" for each in redaction.arguments)) if redaction.arguments else None
        )
        self._known: dict[int, OwnProbe] = {}
        self._judge = Judge(specs, probes.tell)
        self.undecided = 0  # operations of programs that nobody knows, and that are wanted of some
        self.unread = 0  # those whose arguments were lost, and that are wanted with some

    def accepts(self, ops: np.ndarray, traced: Sequence[TracedProcess]) -> np.ndarray:
        """Which operations meet the conditions that the kernel leaves to user space: bool, shape (n,)."""
        found = np.ones(len(ops), bool)
        if not self._judge.is_needed:
            return found
        mine = self._mine()
        for row in np.flatnonzero(ops["op"] >= OWN_OPERATION).tolist():
            own = mine.get(int(ops["op"][row]) - OWN_OPERATION)
            if own is None or not (judged := self._judge.judged(own.spec, own.number)).any:
                continue
            mask = int.from_bytes(ops["local_address"][row][:4].tobytes(), "little")
            if judged.image:
                mask &= self._judge.image(own.number, traced[row])
                self.undecided += not mask and not traced[row].executable
            for at in judged.arguments:
                path, text = self._path_of(at, ops[row])
                holds = self._judge.path(own.number, at, path, text)
                self.unread += bool(mask and not mask & holds and path and not text)
                mask &= holds
            found[row] = bool(mask)
        return found

    def _path_of(self, at: int, op: np.void) -> tuple[int, str]:
        """An argument's path, by its id and as text. No id: it is none that has a path; no text beside one: it was lost."""
        arguments = self._tables.arguments.get(int(op["arg"])) if op["arg"] else None
        if arguments is None or at >= len(arguments.rows):
            return _LOST, ""
        number = int(arguments.rows["value"][at])
        return number, self._path(number)

    def _path(self, number: int) -> str:
        """The text of a PATH record's id; empty: there is none, or it is not known."""
        return self._tables.paths.resolve(number, 0) if number else ""

    def _mine(self) -> dict[int, OwnProbe]:
        """By number, whether it is attached or may come to be."""
        if self._unknown:
            found = [(spec, self._probes.get(spec)) for spec in self._unknown]
            self._unknown = [spec for spec, own in found if own is None]
            self._known |= {own.number: own for _, own in found if own is not None and own.number >= 0}
        return self._known

    def wanted(self, numbers: np.ndarray) -> np.ndarray:
        """Which operations, by number, are of probes of the profile: bool, of the same shape."""
        mask = np.zeros(MAX_OWN_PROBES, bool)
        mask[list(self._mine())] = True
        found: np.ndarray = mask[np.maximum(numbers.astype(np.int64) - OWN_OPERATION, 0)] & (numbers >= OWN_OPERATION)
        return found

    def name_segment(self, number: int) -> Segment:
        """Name, kind and attributes that all spans of a probe have."""
        own = self._mine().get(number - OWN_OPERATION)
        if own is None:
            return Segment(name="unknown", kind=Kind.INTERNAL)
        span = own.spec.span
        attributes: dict[str, AttributeValue] = {semconv.PROBE_NAME: own.spec.name, **span.attributes}
        return Segment(attributes, span.name or own.spec.name, _KINDS[span.kind])

    def describe(self, ops: np.ndarray, parts: np.ndarray) -> None:
        """Fills arguments and errors of own operations in. `ops`: OPERATION, (n,). `parts`: Segments, (n, 5), as Resolver's."""
        if not self._has_any:
            return
        mine = self._mine()
        for row in np.flatnonzero(ops["op"] >= OWN_OPERATION).tolist():
            own = mine.get(int(ops["op"][row]) - OWN_OPERATION)
            if own is None:
                continue
            op = ops[row]
            attributes = self._arguments(own, op)
            has_result = not int(op["flags"]) & OperationFlag.NO_RESULT
            error = ""
            if has_result:
                result = int(op["ret"])
                # a text, or what else lies at the address that was returned
                is_data = len(own.captured) > len(own.spec.args)
                if own.spec.returns is not None and not is_data:
                    attributes[own.spec.returns.attribute] = as_number(own.spec.returns.type, result & _U64)
                if own.spec.error_when is not None and is_error(own.spec.error_when, _compared(own.spec, result)):
                    error = errno.errorcode.get(-result, str(result)) if 0 < -result <= _MAX_ERRNO else str(result)
                    attributes[semconv.ERROR_TYPE] = error
            if attributes or error:
                parts[row, 2] = Segment(attributes, error=error)

    def _arguments(self, own: OwnProbe, op: np.void) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {}
        if not own.captured or int(op["flags"]) & OperationFlag.NO_ARGUMENT:
            return found
        arguments = self._tables.arguments.get(int(op["arg"]))
        if arguments is None:
            found[semconv.ARGUMENTS_MISSING] = "Lost"
            return found
        for each in own.captured:
            if each.slot.number < len(arguments.rows):
                found.update(self._shown(each, arguments))
        return found

    def _shown(self, each: Captured, arguments: Arguments) -> dict[str, AttributeValue]:
        slot, name = each.slot, each.attribute
        value, state = int(arguments.rows["value"][slot.number]), arguments.state(slot.number)
        kind = slot.type
        if kind in (_T.FILE, _T.PATH):
            text = self._path(value)
            return {name: self._redactor.shown(text)} if text else {}
        if kind is _T.FD:
            text = self._path(value)
            number = int(arguments.rows["length"][slot.number])
            return {name: self._redactor.shown(text) if text else number - (number >> 31 << 32)}
        if state is ArgumentState.UNREADABLE:
            return {}
        if not slot.data_bytes:
            return {name: as_number(kind, value)}
        data = arguments.bytes_of(slot.number, slot.at, slot.data_bytes)
        if kind is _T.SOCK:
            return _socket(name, data)
        if kind is _T.SOCK_ADDR:
            return _address(name, data)
        if kind is _T.CRED:
            return _credentials(name, data)
        text = self._hide(data.decode("utf-8", "backslashreplace"))
        return {name: printable(text) + ("…" if state is ArgumentState.CUT else "")}

    def _hide(self, text: str) -> str:
        return self._hidden.sub(REDACTED, text) if self._hidden else text


def _socket(name: str, data: bytes) -> dict[str, AttributeValue]:
    if len(data) < _SOCKET.size:
        return {}
    family, protocol, local_port, peer_port, local, peer = _SOCKET.unpack(data[: _SOCKET.size])
    if family not in (socket.AF_INET, socket.AF_INET6):
        return {f"{name}.family": _family(family)}
    shown = socket_segment(family, protocol, (local, local_port), (peer, peer_port)).attributes
    prefix = "network."  # of the conventions; a profile may give these another
    return {f"{name}.{key.removeprefix(prefix)}": value for key, value in shown.items()}


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return str(number)


def _address(name: str, data: bytes) -> dict[str, AttributeValue]:
    if len(data) < 2:
        return {}
    family = int.from_bytes(data[:2], "little")
    if family == socket.AF_UNIX:
        path = data[2:].split(b"\0", 1)[0]
        return {f"{name}.address": printable(path.decode("utf-8", "backslashreplace"))} if path else {}
    place = _ADDRESSES.get(family)
    if place is None or len(data) < place.stop:
        return {f"{name}.family": _family(family)}
    return {
        f"{name}.address": address_text(family, data[place].ljust(16, b"\0")),
        f"{name}.port": int.from_bytes(data[2:4], "big"),
    }


def _credentials(name: str, data: bytes) -> dict[str, AttributeValue]:
    if len(data) < _CREDENTIALS.size:
        return {}
    uid, gid, euid, egid, effective = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
    return {
        f"{name}.uid": uid,
        f"{name}.gid": gid,
        f"{name}.euid": euid,
        f"{name}.egid": egid,
        f"{name}.capabilities": f"{effective:#x}",
    }


def _compared(spec: UserProbe, result: int) -> int:
    """A returned value (signed) as its type has it."""
    is_unsigned = spec.returns is not None and spec.returns.type in _UNSIGNED
    return result & _U64 if is_unsigned else result


def is_error(condition: ResultCondition, result: int) -> bool:
    """Whether a returned value is one that the profile calls an error."""
    values = [int(value, 0) for value in condition.values if ":" not in value]
    operator = condition.operator
    if operator in (Operator.EQUAL, Operator.IN):
        return result in values
    if operator in (Operator.NOT_EQUAL, Operator.NOT_IN):
        return result not in values
    if operator is Operator.GREATER_THAN:
        return result > values[0]
    if operator is Operator.LESS_THAN:
        return result < values[0]
    if operator is Operator.MASK:
        return any(result & value for value in values)
    if operator is Operator.IN_RANGE:
        ranges = (value.split(":", 1) for value in condition.values if ":" in value)
        return any(int(low, 0) <= result <= int(high, 0) for low, high in ranges)
    return False
