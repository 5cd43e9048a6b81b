# SPDX-License-Identifier: Apache-2.0
"""From operations to what one profile shows of them, with everything looked up.

What only user space can filter (globs of paths, address ranges) is filtered here, and counted; a file that is not wanted
is told to the kernel, which then filters it by itself. Where other profiles want the same processes the kernel's filters
are as wide as all of theirs together: then what this one wants is decided here too.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.libraries.base import matches_glob
from kernelspan_agent.model import SPAN, VALUE_KEYS, ResolvedBatch, Segment, Stack, StackState
from kernelspan_agent.resolve import segments as seg
from kernelspan_agent.resolve.paths import Redactor
from kernelspan_agent.resolve.stacks import NO_FRAMES, as_seen_by
from kernelspan_agent.ring.records import MAX_OWN_PROBES, OPERATION, OWN_OPERATION, OperationFlag
from kernelspan_api import semconv
from kernelspan_api.operations import BY_NAME, OPERATIONS, Group
from kernelspan_api.plan import Wanted

if TYPE_CHECKING:
    from kernelspan_agent.resolve.clock import Clock
    from kernelspan_agent.resolve.infos import Infos
    from kernelspan_agent.resolve.own import OwnSpans
    from kernelspan_agent.resolve.tables import Tables, Taken
    from kernelspan_agent.resolve.traced import TracedProcess

_NUMBERS = OWN_OPERATION + MAX_OWN_PROBES
_GROUP = np.zeros(_NUMBERS, np.uint8)
_ARGUMENT_KEY, _RESULT_KEY = np.zeros(_NUMBERS, np.uint8), np.zeros(_NUMBERS, np.uint8)
for _operation in OPERATIONS:
    _GROUP[_operation.number] = 1 + list(Group).index(_operation.group)
    _ARGUMENT_KEY[_operation.number] = VALUE_KEYS.index(_operation.argument)
    _RESULT_KEY[_operation.number] = VALUE_KEYS.index(_operation.result)
_FILES, _NETWORK = 1, 2
_CLOSE = BY_NAME[Group.NETWORK, "Close"].number
_NETWORK_NUMBERS = [operation.number for operation in OPERATIONS if operation.group is Group.NETWORK]
_ADDRESS_BYTES = OPERATION["peer_address"].itemsize
_INTERNET = (socket.AF_INET, socket.AF_INET6)
SEGMENTS = 5  # name, code, object (or arguments), error, thread


@dataclass(frozen=True, slots=True)
class ResolveSettings:
    """What a profile says about what operations show, and which are wanted."""

    wanted: Wanted
    stack_trace: bool = False
    redact_paths: tuple[str, ...] = ()
    app_paths: tuple[str, ...] = ()
    library_paths: tuple[str, ...] = ()


class Resolver:
    """Gives out resolved batches. Not for several threads.

    `reject`: told of files (file, path) on which no operation is wanted. `shared`: others may want the same processes.
    """

    def __init__(
        self,
        settings: ResolveSettings,
        tables: Tables,
        clock: Clock,
        infos: Infos,
        reject: Callable[[int, int], object],
        own: OwnSpans,
        *,
        shared: bool = False,
    ) -> None:
        self._own = own
        self._settings, self._clock, self._infos, self._reject = settings, clock, infos, reject
        self.stacks, self.paths, self._payloads = tables.stacks, tables.paths, tables.payloads
        self.shared = shared
        wanted = settings.wanted
        self._redactor = Redactor(settings.redact_paths)
        self._operations = np.zeros(OWN_OPERATION, bool)
        spans = wanted.spans
        durations, self._ports = wanted.min_duration_ns, wanted.ports
        self._operations[list(wanted.operations)] = True
        if spans is not None:
            self._operations[_NETWORK_NUMBERS] = False
            self._operations[list(spans.operations)] = True
            durations, self._ports = {**durations, Group.NETWORK: spans.min_duration_ns}, spans.ports
        self._min_duration_ns = np.array([0, *(durations.get(group, 0) for group in Group)], np.uint64)
        self._views = seg.Cache(
            lambda stack: as_seen_by(stack, wanted.max_depth, settings.app_paths, settings.library_paths)
        )
        self._networks = [ipaddress.ip_network(each, strict=False) for each in wanted.cidrs]
        self._names = seg.Cache(
            lambda key: (
                own.name_segment(key[0])
                if key[0] >= OWN_OPERATION
                else seg.operation_segment(key[0], seg.transport_of(key[1], key[2]))
            )
        )
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
        self.frame_states = Counter[str]()

    @property
    def undecided(self) -> int:
        """Operations of which nobody knows whether they are wanted: those of programs that had ended before they were known."""
        return self._own.undecided

    @property
    def unread(self) -> int:
        """Operations of which nobody knows whether they are wanted: their arguments were lost on the way."""
        return self._own.unread

    def resolve(self, taken: Taken) -> ResolvedBatch | None:
        """A batch of what the profile wants of these, in their order; None: nothing."""
        wanted = self._filter(taken.ops)
        before = self._own.undecided + self._own.unread
        wanted &= self._own.accepts(taken.ops, taken.traced)
        self.filtered += len(wanted) - int(wanted.sum()) - (self._own.undecided + self._own.unread - before)
        if not self._settings.wanted.requests:
            taken = taken.of(wanted)
            return self._batch(taken.ops, taken.traced) if len(taken.ops) else None
        payloads = self._payloads.of(taken.ops)
        kept = wanted | (taken.ops["op"] == _CLOSE)
        kept[list(payloads)] = True
        taken = taken.of(kept)
        if not len(taken.ops):
            return None
        batch = self._batch(taken.ops, taken.traced)
        at = np.cumsum(kept) - 1
        batch.payloads = {int(at[row]): payload for row, payload in payloads.items()}
        shown = wanted[kept]
        batch.hidden = None if shown.all() else ~shown
        return batch

    def _filter(self, ops: np.ndarray) -> np.ndarray:
        """Which operations the profile wants, as far as the kernel has not decided it."""
        groups = _GROUP[ops["op"]]
        is_wider = self.shared or self._settings.wanted.spans is not None  # than what is wanted: the kernel's filter
        wanted = self._filter_as_kernel(ops, groups) if is_wider else np.ones(len(ops), bool)
        if self._settings.wanted.paths:
            rows = np.flatnonzero(wanted & (groups == _FILES))
            pairs = zip(ops["file"][rows].tolist(), ops["path"][rows].tolist(), strict=True)
            wanted[rows] = [self._wanted_paths[pair] for pair in pairs]
        if self._networks:
            wanted[(groups == _NETWORK) & ~np.isin(ops["family"], _INTERNET)] = False
            rows = np.flatnonzero(wanted & (groups == _NETWORK))
            for row in rows.tolist():
                wanted[row] = self._wanted_peers[int(ops["family"][row]), ops["peer_address"][row].tobytes()]
        return wanted

    def _filter_as_kernel(self, ops: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """What bpf/include/calls.h and bpf/network.bpf.c decide where the profile has a process for itself."""
        numbers = ops["op"]
        is_own = numbers >= OWN_OPERATION
        wanted: np.ndarray = np.where(is_own, self._own.wanted(numbers), self._operations[numbers & OWN_OPERATION - 1])
        wanted &= ops["time"] - ops["start"] >= self._min_duration_ns[groups]
        if ports := self._ports:
            other = ~np.isin(ops["peer_port"], ports) & ~np.isin(ops["local_port"], ports)
            wanted &= ~((groups == _NETWORK) & other)
        return wanted

    def _wants_path(self, file: int, path: int) -> bool | seg.Unknown:
        text = self.paths.resolve(file, path)
        if not text:
            return seg.Unknown(False)
        if any(matches_glob(text, glob) for glob in self._settings.wanted.paths):
            return True
        self._reject(file, path)
        return False

    def _wants_peer(self, family: int, packed: bytes) -> bool:
        address = ipaddress.ip_address(seg.address_text(family, packed))
        return any(address in network for network in self._networks)

    def _batch(self, ops: np.ndarray, traced: list[TracedProcess]) -> ResolvedBatch:
        offset = np.int64(self._clock.offset_ns)
        stacks, distinct, stack_of = [NO_FRAMES] * len(ops), list[Stack](), None
        if self._settings.wanted.max_depth:
            distinct, stack_of = self._distinct_stacks(ops)
            stacks = [distinct[index] for index in stack_of.tolist()]
            self._say_refusals(stacks, traced)
        parts = np.full((len(ops), SEGMENTS), None, object)
        parts[:, 0] = self._name_segments(ops)
        parts[:, 1] = [self._codes[stack] for stack in stacks]
        parts[:, 2] = self._object_segments(ops)
        parts[:, 3] = self._error_segments(ops)
        parts[:, 4] = self._thread_segments(ops, traced)
        self._own.describe(ops, parts)
        return ResolvedBatch(
            ops=ops,
            start_ns=(ops["start"].astype(np.int64) + offset).astype(np.uint64),
            end_ns=(ops["time"].astype(np.int64) + offset).astype(np.uint64),
            stacks=stacks,
            processes=self._infos.of_all(traced),
            segments=parts,
            rows=_rows(ops),
            distinct=distinct,
            stack_of=stack_of,
        )

    def _distinct_stacks(self, ops: np.ndarray) -> tuple[list[Stack], np.ndarray]:
        """The stacks, each once, and the place in the list of each operation's."""
        keys = np.stack([ops["stack"], ops["frame_state"].astype(np.uint64)], axis=1)
        unique, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        found = [self.stacks.get(number, state) for number, state in unique.tolist()]
        for (number, _), stack, count in zip(unique.tolist(), found, counts.tolist(), strict=True):
            self.frame_states[stack.reason or stack.state.value] += count
            if stack.state is StackState.UNRESOLVED and number:
                self.stacks.drop_unresolved(number)
        if self._settings.app_paths or self._settings.library_paths or self.shared:
            found = [self._views[stack] for stack in found]
        return found, inverse.reshape(-1)

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
        rows = np.flatnonzero((ops["ret"] < 0) & (ops["ret"] > -4096) & (ops["op"] < OWN_OPERATION))
        for row, number, code in zip(rows.tolist(), ops["op"][rows].tolist(), ops["ret"][rows].tolist(), strict=True):
            out[row] = self._errors[number, code]
        return out

    def _thread_segments(self, ops: np.ndarray, traced: list[TracedProcess]) -> list[Segment | None]:
        threads = self._threads
        return [threads[key] for key in zip(traced, ops["tid"].tolist(), strict=True)]

    def _object_segments(self, ops: np.ndarray) -> list[Segment | None]:
        out: list[Segment | None] = [None] * len(ops)
        rows = np.flatnonzero((ops["file"] != 0) | (ops["path"] != 0) | (ops["path2"] != 0) | (ops["family"] != 0))
        is_internet = np.isin(ops["family"][rows], _INTERNET)
        on_internet, rows = rows[is_internet], rows[~is_internet]
        for row, ends in zip(on_internet.tolist(), _ends(ops[on_internet]), strict=True):
            out[row] = self._internet[ends]
        columns = [ops[name][rows].tolist() for name in ("file", "path", "path2", "family")]
        for row, file, path, path2, family in zip(rows.tolist(), *columns, strict=True):
            if family == socket.AF_UNIX:
                out[row] = self._unix[path, path2]
            else:
                base2 = int.from_bytes(ops["local_address"][row][:8].tobytes(), "little") if path2 else 0
                out[row] = self._files[file, path, path2, base2]
        return out

    def _file_segment(self, file: int, path: int, path2: int, base2: int) -> Segment | seg.Unknown:
        found = {}
        text, target = self.paths.resolve(file, path), self.paths.resolve(base2, path2) if path2 else ""
        if text:
            found[semconv.FILE_PATH] = self._redactor.shown(text)
        if target:
            found[semconv.FILE_TARGET_PATH] = self._redactor.shown(target)
        is_whole = (text or not file | path) and (target or not path2)
        return Segment(found) if is_whole else seg.Unknown(Segment(found))

    def _unix_segment(self, peer: int, local: int) -> Segment | seg.Unknown:
        names = [self.paths.raw(peer), self.paths.raw(local)]
        found = seg.unix_segment(*map(self._redactor.shown, names))
        is_whole = (names[0] or not peer) and (names[1] or not local)
        return found if is_whole else seg.Unknown(found)


def _ends(ops: np.ndarray) -> list[tuple[int, int, int, int, bytes, bytes]]:
    """Protocol, family, ports and addresses of each of these operations on internet sockets."""
    numbers = zip(*(ops[name].tolist() for name in ("protocol", "family", "local_port", "peer_port")), strict=True)
    local, peer = (ops[name].tobytes() for name in ("local_address", "peer_address"))
    begins = range(0, len(local), _ADDRESS_BYTES)
    return [
        (*each, local[begin : begin + _ADDRESS_BYTES], peer[begin : begin + _ADDRESS_BYTES])
        for each, begin in zip(numbers, begins, strict=True)
    ]


def _thread_segment(traced: TracedProcess, tid: int) -> Segment | None:
    name = traced.thread_name(tid)
    return Segment({semconv.THREAD_NAME: name}) if name else None


def _rows(ops: np.ndarray) -> np.ndarray:
    """SPAN rows with the integer attributes that the table of operations names."""
    rows = np.zeros(len(ops), SPAN)
    numbers = ops["op"]
    rows["values"][:, 0] = ops["arg"].astype(np.int64)
    rows["value_keys"][:, 0] = np.where(ops["flags"] & OperationFlag.NO_ARGUMENT, 0, _ARGUMENT_KEY[numbers])
    rows["values"][:, 1] = ops["ret"]
    has_result = (ops["ret"] >= 0) & (ops["flags"] & OperationFlag.NO_RESULT == 0)
    rows["value_keys"][:, 1] = np.where(has_result, _RESULT_KEY[numbers], 0)
    return rows
