# SPDX-License-Identifier: Apache-2.0
"""From what the ring gave to operations with everything looked up.

Records that carry names (processes, stacks, paths) are taken in first, then the operations that refer to them by id.
What only user space can filter (globs of paths, address ranges) is filtered here, and counted; a file that is not wanted
is told to the kernel, which then filters it by itself.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernelspan_agent.libraries.base import matches_glob
from kernelspan_agent.model import SPAN, VALUE_KEYS, Origin, ResolvedBatch, Segment, Stack, StackState
from kernelspan_agent.resolve import segments as seg
from kernelspan_agent.resolve.paths import PathTable
from kernelspan_agent.resolve.stacks import NO_FRAMES, StackTable
from kernelspan_agent.ring.records import HEADER, OPERATION, OperationFlag, RecordKind
from kernelspan_agent.ring.sound import is_sound, sound_operations
from kernelspan_api import semconv
from kernelspan_api.operations import OPERATIONS, Group

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import Verdict
    from kernelspan_agent.resolve.clock import Clock
    from kernelspan_agent.resolve.processes import ProcessTable, TracedProcess

_GROUP = np.zeros(64, np.uint8)
_ARGUMENT_KEY, _RESULT_KEY = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
for _operation in OPERATIONS:
    _GROUP[_operation.number] = 1 + list(Group).index(_operation.group)
    _ARGUMENT_KEY[_operation.number] = VALUE_KEYS.index(_operation.argument)
    _RESULT_KEY[_operation.number] = VALUE_KEYS.index(_operation.result)
_FILES, _NETWORK = 1, 2
_EXEC = next(operation.number for operation in OPERATIONS if operation.name == "Exec")
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LAYOUT_AT = {RecordKind.STACK: 36, RecordKind.CODE: 60}  # the last word of each one's header: the layout's number
SEGMENTS = 5  # name, code, object, error, thread


@dataclass(frozen=True, slots=True)
class ResolveSettings:
    """What a profile says about what operations show, and which are wanted."""

    paths: tuple[str, ...] = ()
    cidrs: tuple[str, ...] = ()
    stacks: bool = True  # whether they are walked
    stack_trace: bool = False
    redact_paths: tuple[str, ...] = ()


class Kernel(Protocol):
    """What the kernel's side is told."""

    def reject_file(self, file: int, path: int) -> None:
        """Operations on this file are not wanted."""

    def forget_ids(self, *, stacks: list[int] | None = None, paths: list[int] | None = None) -> None:
        """These ids are no longer known here."""


class Resolver:
    """Takes in records, gives out resolved batches. Not for several threads."""

    def __init__(self, settings: ResolveSettings, processes: ProcessTable, clock: Clock, kernel: Kernel) -> None:
        self._settings, self._processes, self._clock, self._kernel = settings, processes, clock, kernel
        self.stacks = StackTable(lambda ids: kernel.forget_ids(stacks=ids))
        self.paths = PathTable(lambda ids: kernel.forget_ids(paths=ids), settings.redact_paths)
        self._networks = [ipaddress.ip_network(each, strict=False) for each in settings.cidrs]
        self._names = seg.Cache(lambda key: seg.operation_segment(key[0], seg.transport_of(key[1], key[2])))
        self._codes = seg.Cache(self._code_segment)
        self._refusals = seg.Cache(lambda reason: Stack((), StackState.UNRESOLVED, reason))
        self._errors = seg.Cache(lambda key: seg.error_segment(key[0], -key[1]))
        self._threads = seg.Cache(lambda key: _thread_segment(key[0], key[1]))
        self._files = seg.Cache(lambda key: self._file_segment(*key))
        self._unix = seg.Cache(lambda key: self._unix_segment(*key))
        self._internet = seg.Cache(lambda op: seg.socket_segment(op[1], op[0], (op[4], op[2]), (op[5], op[3])))
        self._wanted_paths = seg.Cache(lambda key: self._wants_path(*key))
        self._wanted_peers = seg.Cache(lambda key: self._wants_peer(*key))
        self.filtered = 0
        self.dropped = Counter[str]()
        self.frame_states = Counter[str]()
        self.unsound = 0  # records, no operations, that are none of ours

    def learn(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Takes in records that are no operations.

        Processes first, since every millisecond until a new program's runtime is known is one without frames; all
        others name the instant they belong to.
        """
        rest = []
        for kind, record in records:
            if not is_sound(kind, record):
                self.unsound += 1
            elif kind == RecordKind.PROCESS:
                self._processes.learn(record)
                self._processes.detect_pending(self._clock.monotonic_now_ns())
            else:
                rest.append((kind, record))
        for kind, record in rest:
            if kind == RecordKind.PATH:
                self.paths.learn(record)
            elif kind == RecordKind.CODE:
                self._learn_code(record)
            elif kind == RecordKind.STACK:
                self._learn_stack(record)

    def _learn_code(self, record: bytes) -> None:
        traced = self._walked(record)
        if traced is not None and traced.symboliser is not None:
            traced.symboliser.learn(record)

    def _walked(self, record: bytes) -> TracedProcess | None:
        """The process whose frames a record is about."""
        header = np.frombuffer(record, HEADER, 1)[0]
        traced = self._processes.find(int(header["tgid"]), int(header["time"]))
        if traced is not None and traced.symboliser is None:  # the kernel knew the program before we looked
            at = _LAYOUT_AT[RecordKind(int(header["kind"]))]
            self._processes.walked(traced, int.from_bytes(record[at : at + 4], "little"))
        return traced

    def _learn_stack(self, record: bytes) -> None:
        traced = self._walked(record)
        if traced is None or traced.symboliser is None:
            self.stacks.learn(record, None, _nobody)
            return
        self.stacks.learn(record, traced.symbolise, lambda file: self._processes.classify(traced, file))

    def resolve(self, operations: np.ndarray) -> ResolvedBatch | None:
        """A batch in the order of the operations' end; None: nothing that is wanted.

        `operations`: OPERATION, shape (n,), as drained.
        """
        sound = sound_operations(operations, _GROUP > 0)
        if not sound.all():
            self.dropped["Unsound"] += int((~sound).sum())
            operations = operations[sound]
        ops = operations[np.argsort(operations["time"], kind="stable")]
        traced = self._processes_of(ops)
        keep = np.fromiter((each is not None for each in traced), bool, len(ops))
        if not keep.all():
            self.dropped["TargetGone"] += int((~keep).sum())
        wanted = keep & self._filter(ops)
        self.filtered += int((keep & ~wanted).sum())
        if not wanted.any():
            return None
        if not wanted.all():
            ops = ops[wanted]
            traced = [each for each, kept in zip(traced, wanted.tolist(), strict=True) if kept]
        return self._batch(ops, [each for each in traced if each is not None])

    def _processes_of(self, ops: np.ndarray) -> list[TracedProcess | None]:
        # a successful exec is the first act of the image that it starts
        at = np.where((ops["op"] == _EXEC) & (ops["ret"] == 0), ops["time"], ops["start"]).tolist()
        find, tgids = self._processes.find, ops["tgid"].tolist()
        found = [find(tgid, when) for tgid, when in zip(tgids, at, strict=True)]
        unknown = {tgid for tgid, traced in zip(tgids, found, strict=True) if traced is None}
        for tgid in unknown:
            self._processes.recover(tgid)
        return [find(tgid, when) for tgid, when in zip(tgids, at, strict=True)] if unknown else found

    def _filter(self, ops: np.ndarray) -> np.ndarray:
        """Which operations the profile's globs and address ranges want."""
        wanted = np.ones(len(ops), bool)
        groups = _GROUP[ops["op"] & 63]
        if self._settings.paths:
            rows = np.flatnonzero(groups == _FILES)
            pairs = zip(ops["file"][rows].tolist(), ops["path"][rows].tolist(), strict=True)
            wanted[rows] = [self._wanted_paths[pair] for pair in pairs]
        if self._networks:
            wanted[(groups == _NETWORK) & ~np.isin(ops["family"], _INTERNET)] = False
            rows = np.flatnonzero(wanted & (groups == _NETWORK))
            for row in rows.tolist():
                wanted[row] = self._wanted_peers[int(ops["family"][row]), ops["peer_address"][row].tobytes()]
        return wanted

    def _wants_path(self, file: int, path: int) -> bool | seg.Unknown:
        text = self.paths.resolve(file, path)
        if not text:
            return seg.Unknown(False)
        if any(matches_glob(text, glob) for glob in self._settings.paths):
            return True
        self._kernel.reject_file(file, path)
        return False

    def _wants_peer(self, family: int, packed: bytes) -> bool:
        address = ipaddress.ip_address(seg.address_text(family, packed))
        return any(address in network for network in self._networks)

    def _batch(self, ops: np.ndarray, traced: list[TracedProcess]) -> ResolvedBatch:
        offset = np.int64(self._clock.offset_ns)
        stacks = self._stacks_of(ops)
        if self._settings.stacks:
            self._say_refusals(stacks, traced)
        parts = np.full((len(ops), SEGMENTS), None, object)
        parts[:, 0] = self._name_segments(ops)
        parts[:, 1] = [self._codes[stack] for stack in stacks]
        parts[:, 2] = self._object_segments(ops)
        parts[:, 3] = self._error_segments(ops)
        parts[:, 4] = self._thread_segments(ops, traced)
        return ResolvedBatch(
            ops=ops,
            start_ns=(ops["start"].astype(np.int64) + offset).astype(np.uint64),
            end_ns=(ops["time"].astype(np.int64) + offset).astype(np.uint64),
            stacks=stacks,
            processes=[each.info for each in traced],
            segments=parts,
            rows=_rows(ops),
        )

    def _stacks_of(self, ops: np.ndarray) -> list[Stack]:
        keys = np.stack([ops["stack"], ops["frame_state"].astype(np.uint64)], axis=1)
        unique, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        found = [self.stacks.get(number, state) for number, state in unique.tolist()]
        for (number, _), stack, count in zip(unique.tolist(), found, counts.tolist(), strict=True):
            self.frame_states[stack.reason or stack.state.value] += count
            if stack.state is StackState.UNRESOLVED and number:
                self.stacks.drop_unresolved(number)
        return [found[index] for index in inverse.reshape(-1).tolist()]

    def _say_refusals(self, stacks: list[Stack], traced: list[TracedProcess]) -> None:
        """Gives operations of programs that cannot be walked the reason."""
        refused = {
            each: self._refusals[each.unsupported.reason]
            for each in set(traced)
            if each.unsupported is not None and not each.unsupported.waits
        }
        if not refused:
            return
        for row, each in enumerate(traced):
            if each in refused and stacks[row] is NO_FRAMES:
                stacks[row] = refused[each]
                self.frame_states.subtract([NO_FRAMES.state.value])
                self.frame_states[refused[each].reason] += 1

    def _name_segments(self, ops: np.ndarray) -> list[Segment]:
        names = self._names
        return [
            names[key] for key in zip(ops["op"].tolist(), ops["family"].tolist(), ops["protocol"].tolist(), strict=True)
        ]

    def _code_segment(self, stack: Stack) -> Segment | None:
        return seg.code_segment(stack, stack_trace=self._settings.stack_trace)

    def _error_segments(self, ops: np.ndarray) -> list[Segment | None]:
        out: list[Segment | None] = [None] * len(ops)
        rows = np.flatnonzero((ops["ret"] < 0) & (ops["ret"] > -4096))
        for row, number, code in zip(rows.tolist(), ops["op"][rows].tolist(), ops["ret"][rows].tolist(), strict=True):
            out[row] = self._errors[number, code]
        return out

    def _thread_segments(self, ops: np.ndarray, traced: list[TracedProcess]) -> list[Segment | None]:
        threads = self._threads
        return [threads[key] for key in zip(traced, ops["tid"].tolist(), strict=True)]

    def _object_segments(self, ops: np.ndarray) -> list[Segment | None]:
        out: list[Segment | None] = [None] * len(ops)
        rows = np.flatnonzero((ops["file"] != 0) | (ops["path"] != 0) | (ops["path2"] != 0) | (ops["family"] != 0))
        columns = [ops[name][rows].tolist() for name in ("file", "path", "path2", "family")]
        for row, file, path, path2, family in zip(rows.tolist(), *columns, strict=True):
            if family in _INTERNET:
                out[row] = self._internet[_ends(ops[row])]
            elif family == socket.AF_UNIX:
                out[row] = self._unix[path, path2]
            else:
                base2 = int.from_bytes(ops["local_address"][row][:8].tobytes(), "little") if path2 else 0
                out[row] = self._files[file, path, path2, base2]
        return out

    def _file_segment(self, file: int, path: int, path2: int, base2: int) -> Segment | seg.Unknown:
        found = {}
        text, target = self.paths.resolve(file, path), self.paths.resolve(base2, path2) if path2 else ""
        if text:
            found[semconv.FILE_PATH] = self.paths.shown(text)
        if target:
            found[semconv.FILE_TARGET_PATH] = self.paths.shown(target)
        is_whole = (text or not file | path) and (target or not path2)
        return Segment(found) if is_whole else seg.Unknown(Segment(found))

    def _unix_segment(self, peer: int, local: int) -> Segment | seg.Unknown:
        names = [self.paths.raw(peer), self.paths.raw(local)]
        found = seg.unix_segment(*map(self.paths.shown, names))
        is_whole = (names[0] or not peer) and (names[1] or not local)
        return found if is_whole else seg.Unknown(found)


def _nobody(_file: str) -> Verdict:
    return Origin.UNKNOWN, None


def _ends(op: np.void) -> tuple[int, int, int, int, bytes, bytes]:
    """Protocol, family, ports and addresses of an operation on an internet socket."""
    protocol, family = int(op["protocol"]), int(op["family"])
    ports = int(op["local_port"]), int(op["peer_port"])
    return protocol, family, *ports, op["local_address"].tobytes(), op["peer_address"].tobytes()


def _thread_segment(traced: TracedProcess, tid: int) -> Segment | None:
    name = traced.thread_name(tid)
    return Segment({semconv.THREAD_NAME: name}) if name else None


def _rows(ops: np.ndarray) -> np.ndarray:
    """SPAN rows with the integer attributes that the table of operations names."""
    rows = np.zeros(len(ops), SPAN)
    numbers = ops["op"] & 63
    rows["values"][:, 0] = ops["arg"].astype(np.int64)
    rows["value_keys"][:, 0] = np.where(ops["flags"] & OperationFlag.NO_ARGUMENT, 0, _ARGUMENT_KEY[numbers])
    rows["values"][:, 1] = ops["ret"]
    has_result = (ops["ret"] >= 0) & (ops["flags"] & OperationFlag.NO_RESULT == 0)
    rows["value_keys"][:, 1] = np.where(has_result, _RESULT_KEY[numbers], 0)
    return rows


assert OPERATION.itemsize == 152
