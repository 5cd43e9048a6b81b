# SPDX-License-Identifier: Apache-2.0
"""What a profile traces out of the box: requests, and the four groups of kernel operations.

The operations' names come from `operations`, so a new operation needs no line here.
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from .fields import Cidr, Glob, Header, MinDuration, Part, PathGlob, Port, Route
from .operations import OPERATIONS, Group


def operation_names(group: Group) -> tuple[str, ...]:
    """Names of a group's operations, in the order of the table."""
    return tuple(op.name for op in OPERATIONS if op.group is group)


_FILES, _NETWORK = operation_names(Group.FILES), operation_names(Group.NETWORK)
_PROCESSES, _WAITS = operation_names(Group.PROCESSES), operation_names(Group.WAITS)
_FASTER = "Operations that took less, in microseconds, are filtered in the kernel."


def _names(members: tuple[str, ...]) -> Meta:
    return Meta(min_length=1, max_length=32, extra={"enum": members})


class Protocol(enum.Enum):
    """Protocols that requests are read from."""

    HTTP = "HTTP"
    GRPC = "GRPC"
    DNS = "DNS"
    POSTGRESQL = "PostgreSQL"
    MYSQL = "MySQL"
    REDIS = "Redis"
    KAFKA = "Kafka"
    MONGODB = "MongoDB"


class Role(enum.Enum):
    """Which end of an exchange the traced process is."""

    SERVER = "Server"
    CLIENT = "Client"


class Statement(enum.Enum):
    """How much of a database statement is kept."""

    SANITIZED = "Sanitized"
    RAW = "Raw"
    NONE = "None"


class RequestTLS(enum.Enum):
    """How the plain text of TLS traffic is had; UserProbes costs the traced program time at every call."""

    NONE = "None"
    USER_PROBES = "UserProbes"


class Request(Part, frozen=True, kw_only=True):
    """Spans of one protocol's requests; several entries of one protocol are allowed."""

    protocol: Annotated[Protocol, Meta(description="The protocol.")]
    roles: Annotated[
        tuple[Role, ...],
        Meta(min_length=1, max_length=2, extra={"list": "set"}, description="Requests received, sent, or both."),
    ] = (Role.SERVER, Role.CLIENT)
    ports: Annotated[
        tuple[Port, ...],
        Meta(max_length=64, extra={"list": "set"}, description="The server's TCP or UDP ports. Empty: any."),
    ] = ()
    capture_headers: Annotated[
        tuple[Header, ...], Meta(max_length=32, description="Headers kept as attributes, whatever their case.")
    ] = ()
    capture_query: Annotated[bool, Meta(description="Keep the query of a URL.")] = False
    statement: Annotated[Statement, Meta(description="How much of a database statement is kept.")] = Statement.SANITIZED
    ignore_paths: Annotated[
        tuple[Glob, ...], Meta(max_length=32, description="Globs of URL paths whose requests are filtered.")
    ] = ()
    routes: Annotated[
        tuple[Route, ...],
        Meta(max_length=32, description="Routes such as /orders/{id}. Empty: a guess of low cardinality."),
    ] = ()
    tls: Annotated[
        RequestTLS,
        Meta(
            description="How the plain text of TLS traffic is had. None: not; HTTP and GRPC have a span of each handshake."
        ),
    ] = RequestTLS.NONE


class Files(Part, frozen=True, kw_only=True):
    """Operations on files."""

    operations: Annotated[
        tuple[Annotated[str, _names(_FILES)], ...],
        Meta(min_length=1, max_length=64, extra={"list": "set"}, description="Which operations."),
    ] = _FILES
    paths: Annotated[
        tuple[PathGlob, ...], Meta(max_length=64, description="Globs of absolute paths. Empty: every file.")
    ] = ()
    min_duration_microseconds: Annotated[MinDuration, Meta(description=_FASTER)] = 0


class Network(Part, frozen=True, kw_only=True):
    """Operations on sockets."""

    operations: Annotated[
        tuple[Annotated[str, _names(_NETWORK)], ...],
        Meta(min_length=1, max_length=64, extra={"list": "set"}, description="Which operations."),
    ] = _NETWORK
    ports: Annotated[
        tuple[Port, ...],
        Meta(max_length=64, extra={"list": "set"}, description="Ports of either end. Empty: any."),
    ] = ()
    cidrs: Annotated[
        tuple[Cidr, ...],
        Meta(max_length=64, extra={"list": "set"}, description="Address ranges of the peer. Empty: any."),
    ] = ()
    min_duration_microseconds: Annotated[MinDuration, Meta(description=_FASTER)] = 0


class Processes(Part, frozen=True, kw_only=True):
    """The life of processes and what they do to each other."""

    operations: Annotated[
        tuple[Annotated[str, _names(_PROCESSES)], ...],
        Meta(min_length=1, max_length=64, extra={"list": "set"}, description="Which operations."),
    ] = _PROCESSES


class Waits(Part, frozen=True, kw_only=True):
    """Time in which a thread did nothing."""

    operations: Annotated[
        tuple[Annotated[str, _names(_WAITS)], ...],
        Meta(min_length=1, max_length=64, extra={"list": "set"}, description="Which operations."),
    ] = _WAITS
    min_duration_microseconds: Annotated[MinDuration, Meta(description=_FASTER)] = 0
