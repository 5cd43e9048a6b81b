# SPDX-License-Identifier: Apache-2.0
"""Probes of the user's own: where they attach, what they read, when they fire, what span they make."""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta, field

from .conditions import (
    ArgumentCondition,
    ArgumentIndex,
    ArgumentType,
    BinaryCondition,
    CapabilityCondition,
    NamespaceCondition,
    ResultCondition,
)
from .fields import (
    AttributeName,
    AttributeText,
    DnsLabel,
    Identifier,
    KernelSymbol,
    MinDuration,
    Offset,
    OptionalIdentifier,
    Part,
    ProbePath,
    Rate,
    Symbol,
)


class Mechanism(enum.Enum):
    """How a kernel function is probed; Auto takes the best that this kernel really attaches."""

    AUTO = "Auto"
    FENTRY = "Fentry"
    KPROBE = "Kprobe"
    KPROBE_MULTI = "KprobeMulti"


class ABI(enum.Enum):
    """How a user function takes its arguments; Auto looks at the executable."""

    AUTO = "Auto"
    C = "C"
    GO = "Go"


class SpanKind(enum.Enum):
    """OpenTelemetry's kinds of span."""

    INTERNAL = "Internal"
    SERVER = "Server"
    CLIENT = "Client"
    PRODUCER = "Producer"
    CONSUMER = "Consumer"


class Mode(enum.Enum):
    """Span: from entry to return. Event: an instant."""

    SPAN = "Span"
    EVENT = "Event"


class RateScope(enum.Enum):
    """What a rate limit is counted for."""

    PROCESS = "Process"
    POD = "Pod"
    NODE = "Node"


class Kprobe(Part, frozen=True, kw_only=True):
    """A function of the kernel."""

    call: Annotated[KernelSymbol, Meta(description="The function; with `syscall`, the system call's name.")]
    syscall: Annotated[bool, Meta(description="`call` is a system call, without the architecture's prefix.")] = False
    mechanism: Annotated[Mechanism, Meta(description="How it is probed.")] = Mechanism.AUTO


class Tracepoint(Part, frozen=True, kw_only=True):
    """A tracepoint of the kernel."""

    category: Annotated[Identifier, Meta(description="The folder under tracefs' events, such as sched.")]
    event: Annotated[Identifier, Meta(description="The tracepoint.")]
    exit_event: Annotated[
        OptionalIdentifier, Meta(description="The tracepoint of the same category that ends the span; for mode Span.")
    ] = ""
    raw: Annotated[bool, Meta(description="Attach to the raw tracepoint: arguments by index only.")] = False


class Uprobe(Part, frozen=True, kw_only=True):
    """A function of an executable or a library. The traced program pays for each call."""

    path: Annotated[ProbePath, Meta(description="The file inside the container; Auto: the process's executable.")]
    symbols: Annotated[tuple[Symbol, ...], Meta(max_length=16, description="Functions by name.")] = ()
    offsets: Annotated[tuple[Offset, ...], Meta(max_length=16, description="Instructions by offset in the file.")] = ()
    abi: Annotated[ABI, Meta(description="How arguments are passed.")] = ABI.AUTO


class Usdt(Part, frozen=True, kw_only=True):
    """A user-level statically defined tracepoint."""

    path: Annotated[ProbePath, Meta(description="The file inside the container; Auto: executable, then libraries.")]
    provider: Annotated[Identifier, Meta(description="The provider, such as python.")]
    probe: Annotated[Identifier, Meta(description="The probe, such as gc__start.")]
    end_probe: Annotated[
        OptionalIdentifier, Meta(description="The probe of the same provider that ends the span; for mode Span.")
    ] = ""


class ProbeSpan(Part, frozen=True, kw_only=True):
    """How the spans of a probe look."""

    name: Annotated[str, Meta(max_length=128, description="The span's name. Empty: the probe's name.")] = ""
    kind: Annotated[SpanKind, Meta(description="The span's kind.")] = SpanKind.INTERNAL
    attributes: Annotated[
        dict[AttributeName, AttributeText], Meta(max_length=16, description="Attributes every span of it gets.")
    ] = field(default_factory=dict)


class Argument(Part, frozen=True, kw_only=True):
    """An argument that becomes an attribute."""

    index: Annotated[ArgumentIndex | None, Meta(description="Its position, from 0.")] = None
    field: Annotated[Identifier | None, Meta(description="Its name; of a tracepoint that is not raw.")] = None
    type: Annotated[ArgumentType, Meta(description="How it is read.")]
    attribute: Annotated[
        AttributeName, Meta(description="The attribute, or the prefix of the attributes that a Sock or Cred gives.")
    ]
    max_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=4096)],
        Meta(description="The most that is read of a String, Bytes, IOVec or Go type. 0: a default for the type."),
    ] = 0
    resolve: Annotated[
        str,
        Meta(
            max_length=256,
            extra={"format": "memberPath"},
            description="Struct members to follow from the argument, joined by dots, as this node's kernel has them; [2] is an "
            "element, (struct name *) takes what is there for another type. Empty: the argument itself.",
        ),
    ] = ""


class Returns(Part, frozen=True, kw_only=True):
    """The returned value as an attribute."""

    type: Annotated[ArgumentType, Meta(description="How it is read.")]
    attribute: Annotated[AttributeName, Meta(description="The attribute.")]


class Match(Part, frozen=True, kw_only=True):
    """Conditions that must all hold; at most 8 together."""

    args: Annotated[tuple[ArgumentCondition, ...], Meta(max_length=8, description="On arguments.")] = ()
    returns: Annotated[
        tuple[ResultCondition, ...], Meta(max_length=8, description="On the returned value; mode Span.")
    ] = ()
    binaries: Annotated[tuple[BinaryCondition, ...], Meta(max_length=8, description="On the executable's path.")] = ()
    capabilities: Annotated[tuple[CapabilityCondition, ...], Meta(max_length=8, description="On capabilities.")] = ()
    namespaces: Annotated[tuple[NamespaceCondition, ...], Meta(max_length=8, description="On namespaces.")] = ()


class RateLimit(Part, frozen=True, kw_only=True):
    """A token bucket in the kernel; what it refuses is counted as rateLimited. Exactly one of the two rates."""

    events_per_second: Annotated[Rate | None, Meta(description="Tokens a second.")] = None
    events_per_minute: Annotated[Rate | None, Meta(description="Tokens a minute, for fewer than one a second.")] = None
    burst: Annotated[Rate | None, Meta(description="The bucket's size. Default: as many as the rate says.")] = None
    scope: Annotated[RateScope, Meta(description="What has a bucket of its own.")] = RateScope.POD

    @property
    def interval_ns(self) -> int:
        """From one token to the next."""
        each_minute = self.events_per_minute or 60 * (self.events_per_second or 1)
        return 60_000_000_000 // each_minute

    @property
    def burst_ns(self) -> int:
        """In how long the bucket fills."""
        return self.interval_ns * (self.burst or self.events_per_minute or self.events_per_second or 1)


class UserProbe(Part, frozen=True, kw_only=True):
    """One probe of the user's own: exactly one of kprobe, tracepoint, uprobe, usdt."""

    name: Annotated[DnsLabel, Meta(description="Unique in the profile; status and attributes name it.")]
    kprobe: Annotated[Kprobe | None, Meta(description="A function of the kernel.")] = None
    tracepoint: Annotated[Tracepoint | None, Meta(description="A tracepoint of the kernel.")] = None
    uprobe: Annotated[Uprobe | None, Meta(description="A function of an executable or library.")] = None
    usdt: Annotated[Usdt | None, Meta(description="A static probe of an executable or library.")] = None
    span: Annotated[ProbeSpan, Meta(description="How its spans look.")] = ProbeSpan()
    mode: Annotated[Mode, Meta(description="From entry to return, or an instant.")] = Mode.SPAN
    args: Annotated[tuple[Argument, ...], Meta(max_length=8, description="Arguments that become attributes.")] = ()
    returns: Annotated[Returns | None, Meta(description="The returned value as an attribute; mode Span.")] = None
    match: Annotated[
        tuple[Match, ...], Meta(max_length=8, description="It fires where any entry holds. Empty: always.")
    ] = ()
    min_duration_microseconds: Annotated[
        MinDuration, Meta(description="Calls that took less, in microseconds, are filtered; mode Span.")
    ] = 0
    error_when: Annotated[
        ResultCondition | None, Meta(description="Returned values that make the span an error; mode Span.")
    ] = None
    rate_limit: Annotated[RateLimit | None, Meta(description="Absent: only the profile's limits.")] = None

    @property
    def file(self) -> str | None:
        """The path of the file that is probed, or Auto; None: it is the kernel."""
        in_user = self.uprobe or self.usdt
        return in_user.path if in_user is not None else None
