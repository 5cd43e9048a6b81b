# SPDX-License-Identifier: Apache-2.0
"""What the records of a session told: processes, stacks, paths. One for all profiles, each of which has a Resolver.

Records that carry names are taken in first, then the operations that refer to them by id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernelspan_agent.model import Origin
from kernelspan_agent.resolve.arguments import ArgumentTable
from kernelspan_agent.resolve.paths import PathTable
from kernelspan_agent.resolve.payloads import PayloadTable
from kernelspan_agent.resolve.stacks import StackTable
from kernelspan_agent.ring.records import (
    CODE_HEADER,
    HEADER,
    MAX_OWN_PROBES,
    OWN_OPERATION,
    STACK_HEADER,
    FrameState,
    RecordKind,
)
from kernelspan_agent.ring.sound import is_sound, sound_operations
from kernelspan_api.operations import OPERATIONS

if TYPE_CHECKING:
    from kernelspan_agent.libraries.base import Verdict
    from kernelspan_agent.resolve.clock import Clock
    from kernelspan_agent.resolve.processes import ProcessTable
    from kernelspan_agent.resolve.traced import TracedProcess

_KNOWN = np.zeros(OWN_OPERATION + MAX_OWN_PROBES, bool)
_KNOWN[[operation.number for operation in OPERATIONS]] = True
_KNOWN[OWN_OPERATION:] = True
_EXEC = next(operation.number for operation in OPERATIONS if operation.name == "Exec")
_NAMES_LAYOUT = {RecordKind.STACK: STACK_HEADER, RecordKind.CODE: CODE_HEADER}


class Kernel(Protocol):
    """What the kernel's side is told."""

    def forget_ids(self, *, stacks: list[int] | None = None, paths: list[int] | None = None) -> None:
        """These ids are no longer known here."""


@dataclass(frozen=True, slots=True)
class Taken:
    """n operations in the order of their end, each with its process. `ops`: OPERATION, shape (n,)."""

    ops: np.ndarray
    traced: list[TracedProcess]

    def of(self, wanted: np.ndarray) -> Taken:
        """Those of them that `wanted`, bool of shape (n,), says."""
        if wanted.all():
            return self
        return Taken(self.ops[wanted], [self.traced[row] for row in np.flatnonzero(wanted).tolist()])


class Tables:
    """Takes in records. Not for several threads."""

    def __init__(self, processes: ProcessTable, clock: Clock, kernel: Kernel) -> None:
        self.processes, self._clock = processes, clock
        self.stacks = StackTable(lambda ids: kernel.forget_ids(stacks=ids))
        self.paths = PathTable(lambda ids: kernel.forget_ids(paths=ids))
        self.arguments = ArgumentTable()
        self.payloads = PayloadTable()
        self.dropped: dict[str, Counter[int]] = {}  # operations by reason, then by class
        self.unsound = 0  # records, no operations, that are none of ours

    def learn(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Takes in records that are no operations.

        Processes first, with the paths of their files, since every millisecond until a new program's runtime is known is one
        without frames; all others name the instant they belong to.
        """
        rest = []
        for kind, record in records:
            if not is_sound(kind, record):
                self.unsound += 1
            elif kind == RecordKind.PATH:
                self.paths.learn(record)
            elif kind == RecordKind.PROCESS:
                self.processes.learn(record, self.paths.rooted)
                self.processes.detect_pending(self._clock.monotonic_now_ns())
            else:
                rest.append((kind, record))
        for kind, record in rest:
            if kind == RecordKind.ARGUMENTS:
                self.arguments.learn(record)
            elif kind == RecordKind.BYTES:
                self.payloads.learn(record)
            elif kind == RecordKind.CODE:
                self._learn_code(record)
            elif kind == RecordKind.STACK:
                self._learn_stack(record)

    def learn_ahead(
        self, records: Iterable[tuple[int, bytes]], held: frozenset[int]
    ) -> tuple[list[tuple[int, bytes]], set[int]]:
        """Takes in what names stacks, ahead of its turn; gives the other records in their order, and whose names are among them.

        `held`: processes of which records that still wait tell what they became, or have names: theirs wait behind these.
        """
        rest, waiting = [], set()
        for kind, record in records:
            if kind not in _NAMES_LAYOUT or not is_sound(kind, record):
                rest.append((kind, record))
            elif (tgid := _tgid_of(record)) in held:
                rest.append((kind, record))
                waiting.add(tgid)
            elif kind == RecordKind.CODE:
                self._learn_code(record)
            else:
                self._learn_stack(record)
        return rest, waiting

    def _learn_code(self, record: bytes) -> None:
        traced = self._walked(record)
        if traced is not None and traced.symboliser is not None:
            traced.symboliser.learn(record)

    def _walked(self, record: bytes) -> TracedProcess | None:
        """The process whose frames a record is about."""
        header = np.frombuffer(record, HEADER, 1)[0]
        traced = self.processes.find(int(header["tgid"]), int(header["time"]))
        if traced is not None and traced.symboliser is None:  # the kernel knew the program before we looked
            named = np.frombuffer(record, _NAMES_LAYOUT[RecordKind(int(header["kind"]))], 1)[0]
            self.processes.walked(traced, int(named["layout"]))
        return traced

    def _learn_stack(self, record: bytes) -> None:
        traced = self._walked(record)
        if traced is None or traced.symboliser is None:
            self.stacks.learn(record, None, _nobody)
            return
        self.stacks.learn(record, traced.symbolise, lambda file: self.processes.classify(traced, file))

    def take(self, operations: np.ndarray) -> Taken:
        """The operations that are ours and whose process is known; the others are counted.

        `operations`: OPERATION, shape (n,), as drained.
        """
        sound = sound_operations(operations, _KNOWN)
        if not sound.all():
            self._drop("Unsound", operations[~sound])
            operations = operations[sound]
        ops = operations[np.argsort(operations["time"], kind="stable")]
        traced = self._processes_of(ops)
        for row in np.flatnonzero(ops["frame_state"] == FrameState.TRUNCATED_UNMAPPED).tolist():
            if (each := traced[row]) is not None:
                self.processes.besides.met_unmapped(each)
        keep = np.fromiter((each is not None for each in traced), bool, len(ops))
        if not keep.all():
            self._drop("TargetGone", ops[~keep])
            ops = ops[keep]
        return Taken(ops, [each for each in traced if each is not None])

    def _drop(self, reason: str, ops: np.ndarray) -> None:
        self.dropped.setdefault(reason, Counter()).update(ops["cls"].tolist())

    def _processes_of(self, ops: np.ndarray) -> list[TracedProcess | None]:
        # a successful exec is the first act of the image that it starts
        at = np.where((ops["op"] == _EXEC) & (ops["ret"] == 0), ops["time"], ops["start"])
        for_all = {tgid: self._one_image(tgid, at[ops["tgid"] == tgid]) for tgid in set(ops["tgid"].tolist())}
        return [
            for_all[tgid] or self.processes.find(tgid, when)
            for tgid, when in zip(ops["tgid"].tolist(), at.tolist(), strict=True)
        ]

    def _one_image(self, tgid: int, at: np.ndarray) -> TracedProcess | None:
        """The image that a tgid stood for at all of these instants; None: there were several, or none is known."""
        first, last = int(at.min()), int(at.max())
        if self.processes.find(tgid, last) is None:
            self.processes.recover(tgid)
        found = self.processes.find(tgid, last)
        return found if found is self.processes.find(tgid, first) else None


def _tgid_of(record: bytes) -> int:
    return int(np.frombuffer(record, HEADER, 1)[0]["tgid"])


def _nobody(_file: str) -> Verdict:
    return Origin.UNKNOWN, None
