# SPDX-License-Identifier: Apache-2.0
"""How a profile traces: application context, correlation, sampling, limits, redaction, export."""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from .fields import Glob, NameRef, Part, PathGlob, Rate, Regex


class Stacks(enum.Enum):
    """Managed: frames of the interpreter or JIT, native as a fallback."""

    MANAGED = "Managed"
    NATIVE = "Native"
    NONE = "None"


class StackTrace(enum.Enum):
    """Whether spans carry the whole stack."""

    NONE = "None"
    ATTRIBUTE = "Attribute"


class Traceparent(enum.Enum):
    """What a traceparent header seen on the wire does."""

    READ = "Read"
    IGNORE = "Ignore"


class Orphans(enum.Enum):
    """What becomes of operations that belong to no request."""

    ACTIVITY = "Activity"
    ROOT = "Root"
    DROP = "Drop"


class OnExceed(enum.Enum):
    """What happens to a profile beyond its limits."""

    THROTTLE = "Throttle"
    DETACH = "Detach"


class CommandLine(enum.Enum):
    """What becomes of command lines."""

    KEEP = "Keep"
    HASH = "Hash"
    DROP = "Drop"


class ExportProtocol(enum.Enum):
    """OTLP's transports."""

    GRPC = "GRPC"
    HTTP = "HTTP"


class Compression(enum.Enum):
    """Compression of what is sent."""

    GZIP = "Gzip"
    NONE = "None"


class Code(Part, frozen=True, kw_only=True):
    """Application context: function, file, line, library."""

    stacks: Annotated[Stacks, Meta(description="Which frames are read.")] = Stacks.MANAGED
    max_depth: Annotated[Annotated[int, Meta(ge=1, le=127)], Meta(description="The most frames of a stack.")] = 64
    app_paths: Annotated[
        tuple[PathGlob, ...],
        Meta(
            max_length=64,
            description="Globs of files that are the user's own code. Empty: all that no library manager owns.",
        ),
    ] = ()
    library_paths: Annotated[
        tuple[PathGlob, ...], Meta(max_length=64, description="Globs of files that are library code.")
    ] = ()
    functions: Annotated[bool, Meta(description="Infer spans of functions from stacks.")] = True
    stack_trace: Annotated[StackTrace, Meta(description="Attribute: every operation carries code.stacktrace.")] = (
        StackTrace.NONE
    )
    kernel_stack: Annotated[bool, Meta(description="Read the kernel's own stack as well.")] = False


class Correlation(Part, frozen=True, kw_only=True):
    """Which spans belong together."""

    traceparent: Annotated[
        Traceparent,
        Meta(
            description="What a traceparent header seen on the wire does. Read: a request that is received or sent is below the"
            " span that it names. Ignore: nothing, where the spans that headers name are kept elsewhere."
        ),
    ] = Traceparent.READ
    across_services: Annotated[
        bool | None,
        Meta(
            extra={"default": "true"},
            description="Join both ends of a request without a header. None where the profile does not say.",
        ),
    ] = None
    orphans: Annotated[Orphans, Meta(description="What becomes of operations that belong to no request.")] = (
        Orphans.ACTIVITY
    )


class Sampling(Part, frozen=True, kw_only=True):
    """Which traces are kept: decided once for a trace, by its id; or by what came of a request that was received."""

    percent: Annotated[Annotated[int, Meta(ge=0, le=100)], Meta(description="Share of traces kept.")] = 100
    parent_based: Annotated[bool, Meta(description="A parent's decision is stronger than `percent`.")] = True
    keep_errors: Annotated[
        bool,
        Meta(
            description="Keep received requests that failed with all that was done for them on their node, sampled or not."
        ),
    ] = False
    keep_slower_than_milliseconds: Annotated[
        Annotated[int, Meta(ge=0, le=3_600_000)],
        Meta(description="The same of received requests that took longer. 0: off."),
    ] = 0


class Limits(Part, frozen=True, kw_only=True):
    """What the profile may cost on one node."""

    events_per_second: Annotated[Rate, Meta(description="Kernel events a second on a node.")] = 10_000
    spans_per_second: Annotated[Rate, Meta(description="Spans a second from a node.")] = 5_000
    cpu_millicores: Annotated[
        Annotated[int, Meta(ge=1, le=64_000)], Meta(description="Thousandths of a CPU of a node.")
    ] = 200
    on_exceed: Annotated[OnExceed, Meta(description="What happens beyond a limit.")] = OnExceed.THROTTLE


class Redaction(Part, frozen=True, kw_only=True):
    """What never leaves the node."""

    headers: Annotated[
        tuple[Glob, ...], Meta(max_length=64, description="Globs of headers whose values are removed.")
    ] = ()
    arguments: Annotated[
        tuple[Regex, ...], Meta(max_length=32, description="What matches is removed from captured arguments.")
    ] = ()
    paths: Annotated[
        tuple[Regex, ...], Meta(max_length=32, description="What matches is removed from file paths.")
    ] = ()
    command_line: Annotated[CommandLine, Meta(description="What becomes of command lines.")] = CommandLine.DROP


class ExportTLS(Part, frozen=True, kw_only=True):
    """TLS towards the collector."""

    insecure_skip_verify: Annotated[
        bool, Meta(description="Do not verify the collector's certificate; with protocol HTTP only.")
    ] = False
    server_name: Annotated[
        str,
        Meta(
            max_length=253,
            extra={"format": "serverName"},
            description="Name in the certificate. Empty: the endpoint's.",
        ),
    ] = ""
    ca_secret_ref: Annotated[
        NameRef | None, Meta(description="Secret with ca.crt. Absent: the system's authorities.")
    ] = None
    certificate_secret_ref: Annotated[
        NameRef | None, Meta(description="Secret with tls.crt and tls.key, for mutual TLS.")
    ] = None


class Otlp(Part, frozen=True, kw_only=True):
    """An OTLP receiver."""

    endpoint: Annotated[
        str,
        Meta(
            max_length=512,
            extra={"format": "endpoint"},
            description="Where spans are sent. Empty: the chart's, by its protocol and compression.",
        ),
    ] = ""
    protocol: Annotated[ExportProtocol, Meta(description="OTLP/gRPC or OTLP/HTTP.")] = ExportProtocol.GRPC
    tls: Annotated[ExportTLS | None, Meta(description="TLS; absent: as the endpoint's scheme says.")] = None
    headers_secret_ref: Annotated[
        NameRef | None,
        Meta(description="Secret whose entries are sent as headers, after the chart's where its endpoint is used."),
    ] = None
    compression: Annotated[Compression, Meta(description="Compression of what is sent.")] = Compression.GZIP


class Export(Part, frozen=True, kw_only=True):
    """Where spans go."""

    otlp: Annotated[Otlp, Meta(description="An OTLP receiver.")] = Otlp()
