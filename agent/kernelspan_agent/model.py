# SPDX-License-Identifier: Apache-2.0
"""What flows between the stages: frames and stacks (resolve -> trace), spans as columns (trace -> export).

Every stage knows only the types of this module and of `ring.records`; none of them reaches into another stage.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

AttributeValue = str | bool | int | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]


class Origin(enum.Enum):
    """Whose code a frame is (value: `kernelspan.code.origin`)."""

    APP = "App"
    LIBRARY = "Library"
    RUNTIME = "Runtime"
    NATIVE = "Native"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Library:
    """A third-party library as its own package manager names it; `purl` is its package URL."""

    name: str
    version: str
    purl: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One level of a stack. `function` is `module.qualname` as far as the runtime tells; `line` 0 is not known."""

    function: str
    file: str
    line: int
    origin: Origin
    library: Library | None = None
    call_site: int = 0  # the instruction the frame stands at: two calls on one line differ
    code: int = 0  # identity of the code in its process: the same for every line of one function
    loaded: str = ""  # the file that the runtime has loaded, where that was made of `file`


class StackState(enum.Enum):
    """How complete a stack is; anything but COMPLETE is counted by its name."""

    COMPLETE = "Complete"
    TRUNCATED = "Truncated"  # deeper than maxDepth, or a page was not resident: the outermost frames are missing
    RUNTIME_PENDING = "RuntimePending"  # the process's runtime was not yet known
    UNRESOLVED = "Unresolved"  # the walk or the symbols failed: no frame is claimed
    NONE = "None"  # no frames were asked for, or the thread has none


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames of one thread at one moment, innermost first. Compared by identity: the same id is the same object."""

    frames: tuple[Frame, ...]
    state: StackState = StackState.COMPLETE
    reason: str = ""  # why, where the state is not COMPLETE


class Kind(enum.IntEnum):
    """OTLP's Span.SpanKind."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A part of a span that many spans share: encoded once, then copied.

    A span is the concatenation of its segments: at most one gives `name` and `kind`, at most one gives `error`.
    """

    attributes: Attributes = field(default_factory=dict)
    name: str = ""
    kind: Kind | None = None
    error: str = ""  # not empty: status ERROR with this description ("" for the description is never sent)
    wire: bytes | None = field(default=None, init=False, repr=False)  # OTLP bytes: the export stage's cache


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """What made the spans: one per process (and container)."""

    attributes: Attributes
    wire: bytes | None = field(default=None, init=False, repr=False)  # OTLP bytes: the export stage's cache


# One row a span. Ids are big-endian so that their bytes are those of the wire; parent 0: the span is a root.
SPAN = np.dtype(
    [
        ("trace_id", ">u8", (2,)),
        ("span_id", ">u8"),
        ("parent_id", ">u8"),
        ("start_ns", "<u8"),  # Unix epoch
        ("end_ns", "<u8"),
        ("resource", "<u4"),  # index into SpanBatch.resources
        ("values", "<i8", (2,)),  # integer attributes that differ in every span; SpanBatch.value_keys names them
        ("value_keys", "u1", (2,)),  # index into VALUE_KEYS; 0: absent
    ]
)

# Names of SPAN["values"] by SPAN["value_keys"]; api/kernelspan_api/semconv.py says what they mean.
VALUE_KEYS = (
    "",
    "kernelspan.io.requested",
    "kernelspan.io.transferred",
    "kernelspan.operations",
    "kernelspan.result",
    "kernelspan.argument",
    "process.exit.code",
    "kernelspan.signal.number",
    "kernelspan.child.pid",
)


@dataclass(slots=True)
class SpanBatch:
    """n spans. `rows`: SPAN, shape (n,). `segments`: object array of shape (n, k), each a Segment or None."""

    rows: np.ndarray
    segments: np.ndarray
    resources: list[Resource]
    operations: int = 0  # how many of the spans are operations: the unit of accounting
    operation_rows: np.ndarray | None = None  # which they are: bool, shape (n,). None: the first `operations` rows

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(slots=True, eq=False)
class ProcessInfo:
    """A traced program: one process from one exec to the next or to its end. Compared by identity, never by pid."""

    tgid: int
    started_ns: int  # Unix epoch: the exec, or the fork of a child that did not exec
    observed_from_start: bool  # we saw that exec or fork: all its operations are known
    name: str  # executable's base name
    resource: Resource
    parent: ProcessInfo | None = None  # the traced process that forked it
    ended_ns: int = 0  # 0: alive


class WireProtocol(enum.IntEnum):
    """What a connection carries, by its first bytes. The kernel has the same numbers."""

    UNKNOWN = 0
    HTTP = 1
    REDIS = 2
    POSTGRESQL = 3
    MYSQL = 4
    HTTP2 = 5
    DNS = 6
    TLS = 7  # whatever it hides
    MONGODB = 8
    KAFKA = 9


def carriers(protocol: str) -> tuple[WireProtocol, ...]:
    """What the requests of a protocol, as the api calls it, are carried by."""
    found = {
        "HTTP": (WireProtocol.HTTP, WireProtocol.HTTP2, WireProtocol.TLS),
        "GRPC": (WireProtocol.HTTP2, WireProtocol.TLS),
    }
    return found.get(protocol) or (WireProtocol[protocol],)


Peer = tuple[int, bytes]
"""A port, and an IPv4 or IPv6 address; one of IPv4 that is mapped into IPv6 is one of IPv4."""


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """How long a thread was off the CPU, up to the moment `when_ns` (CLOCK_MONOTONIC).

    `away_ns`: since it began, but for switches that were not timed. `untimed`: how many these are, modulo 2^32: between two
    moments at which they are as many, each was timed.
    """

    tid: int
    when_ns: int
    away_ns: int
    untimed: int

    def since(self, begin: ThreadTime) -> tuple[int, int] | None:
        """Times on and off the CPU since an earlier moment, ns; None: another thread's, or not all of it is known."""
        if (self.tid, self.untimed) != (begin.tid, begin.untimed):
            return None
        away_ns, whole_ns = self.away_ns - begin.away_ns, self.when_ns - begin.when_ns
        return (whole_ns - away_ns, away_ns) if 0 <= away_ns <= whole_ns else None


@dataclass(frozen=True, slots=True)
class Payload:
    """What one call sent or received on a connection. `data`: the first of `moved` bytes, `tail`: the last, if others.

    `is_first`: nothing was sent or received on it before; else that is not known. `position`: on the connection, in this
    direction, of the last byte, modulo 2^32; `other`: in the other direction, of the last that was moved; None: not known.
    `is_framed`: `data` is all that was moved but for the bodies in frames of HTTP/2; `at_frame`: and begins with a frame.
    `peer`: of a datagram, whom it was sent to or came from. `is_many`: they were several, and `data` is a length of each, how
    much of it was copied (16 bits, little-endian), and that much of it. `thread`: that made the call, at its end.
    """

    connection: int
    sends: bool
    moved: int
    data: bytes
    tail: bytes = b""
    protocol: WireProtocol = WireProtocol.UNKNOWN
    is_first: bool = False
    position: int | None = None
    other: int | None = None
    is_framed: bool = False
    at_frame: bool = False
    is_datagram: bool = False
    is_many: bool = False
    peer: Peer | None = None
    thread: ThreadTime | None = None

    @property
    def exchange_id(self) -> int:
        """Both ends' name for an exchange whose request begins with these bytes; 0: not known.

        Where they begin, and where the other direction of the connection is. Each byte has one number at both ends
        (RFC 9293), and what answered earlier requests has been read by who asks and written by who answers before the next
        one is sent, but where requests are pipelined: then they differ.
        """
        if self.position is None or self.other is None:
            return 0
        return (self.position - self.moved & 0xFFFFFFFF) << 32 | self.other


@dataclass(slots=True)
class ResolvedBatch:
    """n operations in the order of their end, with everything looked up.

    `ops`: ring.records.OPERATION, shape (n,). `start_ns`, `end_ns`: uint64, Unix epoch, shape (n,).
    `stacks`, `processes`: n entries; the same id or process is the very same object.
    `segments`: object array of shape (n, k): Segments of the operation span (name, code, file or peer, error), or None.
    `rows`: SPAN, shape (n,), with `values` and `value_keys` filled; ids, times and resource are the tracer's to fill.
    `payloads`: row to what it moved. `hidden`: bool, shape (n,): seen for the requests only, and no spans; None: none is.
    `distinct`: stacks, each once; `stack_of`: the place in it of each operation's, intp, shape (n,). None: no stacks were
    asked for.
    """

    ops: np.ndarray
    start_ns: np.ndarray
    end_ns: np.ndarray
    stacks: list[Stack]
    processes: list[ProcessInfo]
    segments: np.ndarray
    rows: np.ndarray
    distinct: list[Stack] = field(default_factory=list)
    stack_of: np.ndarray | None = None
    payloads: dict[int, Payload] = field(default_factory=dict)
    hidden: np.ndarray | None = None

    def only(self, kept: np.ndarray) -> ResolvedBatch:
        """Some of the operations, without their payloads. `kept`: bool, shape (n,)."""
        rows = np.flatnonzero(kept).tolist()
        return ResolvedBatch(
            self.ops[kept],
            self.start_ns[kept],
            self.end_ns[kept],
            [self.stacks[row] for row in rows],
            [self.processes[row] for row in rows],
            self.segments[kept],
            self.rows[kept],
            hidden=None if self.hidden is None else self.hidden[kept],
            distinct=self.distinct,
            stack_of=None if self.stack_of is None else self.stack_of[kept],
        )
