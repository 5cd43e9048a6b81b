# SPDX-License-Identifier: Apache-2.0
"""What a user's probe reads, and on which values it fires: argument types, operators, conditions.

Conditions are decided in the kernel. Values are strings whatever their type: the API has one type for a list.
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from .fields import Part, Value

ArgumentIndex = Annotated[
    int, Meta(ge=0, le=11)
]  # 12 arguments: the most of a raw tracepoint (linux/trace/bpf_probe.h)


class ArgumentType(enum.Enum):
    """How an argument is read."""

    INT8 = "Int8"
    INT16 = "Int16"
    INT32 = "Int32"
    INT64 = "Int64"
    UINT8 = "UInt8"
    UINT16 = "UInt16"
    UINT32 = "UInt32"
    UINT64 = "UInt64"
    SIZE = "Size"
    BOOL = "Bool"
    POINTER = "Pointer"
    STRING = "String"
    BYTES = "Bytes"
    FD = "FD"
    FILE = "File"
    PATH = "Path"
    SOCK = "Sock"
    SOCK_ADDR = "SockAddr"
    UID = "UID"
    GID = "GID"
    CRED = "Cred"
    IO_VEC = "IOVec"
    GO_STRING = "GoString"
    GO_SLICE = "GoSlice"


class Operator(enum.Enum):
    """How an argument or a result is compared. The last ten are for Sock and SockAddr."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"
    PREFIX = "Prefix"
    NOT_PREFIX = "NotPrefix"
    SUFFIX = "Suffix"
    NOT_SUFFIX = "NotSuffix"
    GREATER_THAN = "GreaterThan"
    LESS_THAN = "LessThan"
    IN_RANGE = "InRange"
    MASK = "Mask"
    SOURCE_CIDR = "SourceCIDR"
    NOT_SOURCE_CIDR = "NotSourceCIDR"
    DESTINATION_CIDR = "DestinationCIDR"
    NOT_DESTINATION_CIDR = "NotDestinationCIDR"
    SOURCE_PORT = "SourcePort"
    NOT_SOURCE_PORT = "NotSourcePort"
    DESTINATION_PORT = "DestinationPort"
    NOT_DESTINATION_PORT = "NotDestinationPort"
    FAMILY = "Family"
    PROTOCOL = "Protocol"


class TextOperator(enum.Enum):
    """How a path is compared."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"
    PREFIX = "Prefix"
    NOT_PREFIX = "NotPrefix"
    SUFFIX = "Suffix"
    NOT_SUFFIX = "NotSuffix"


class SetOperator(enum.Enum):
    """How a member of a small set is compared."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


class CapabilitySet(enum.Enum):
    """A task's sets of capabilities (capabilities(7))."""

    EFFECTIVE = "Effective"
    INHERITABLE = "Inheritable"
    PERMITTED = "Permitted"


class NamespaceType(enum.Enum):
    """Kinds of Linux namespaces (namespaces(7))."""

    CGROUP = "Cgroup"
    IPC = "Ipc"
    MNT = "Mnt"
    NET = "Net"
    PID = "Pid"
    TIME = "Time"
    USER = "User"
    UTS = "Uts"


Values = Annotated[tuple[Value, ...], Meta(min_length=1, max_length=16)]
_VALUES = "What to compare with; numbers as decimal or 0x text."
Capability = Annotated[str, Meta(min_length=1, max_length=32, extra={"format": "identifier"})]


class ArgumentCondition(Part, frozen=True, kw_only=True):
    """A condition on an argument."""

    index: Annotated[ArgumentIndex, Meta(description="The argument's position, from 0.")]
    resolve: Annotated[
        str,
        Meta(
            max_length=192,
            extra={"format": "memberPath"},
            description="Of several entries of args at that position, the one with this resolve. Empty: the first.",
        ),
    ] = ""
    operator: Annotated[Operator, Meta(description="How it is compared.")]
    values: Annotated[Values, Meta(description=_VALUES)]


class ResultCondition(Part, frozen=True, kw_only=True):
    """A condition on what the probed function returned."""

    operator: Annotated[Operator, Meta(description="How it is compared.")]
    values: Annotated[Values, Meta(description=_VALUES)]


class BinaryCondition(Part, frozen=True, kw_only=True):
    """A condition on the path of the process's executable, from the process's root. One that is not known meets none."""

    operator: Annotated[TextOperator, Meta(description="How it is compared.")]
    values: Annotated[Values, Meta(description="Paths, or parts of one.")]


class CapabilityCondition(Part, frozen=True, kw_only=True):
    """A condition on the capabilities of the thread."""

    set: Annotated[CapabilitySet, Meta(description="Which of the thread's sets.")]
    operator: Annotated[SetOperator, Meta(description="How it is compared.")]
    values: Annotated[
        tuple[Capability, ...], Meta(min_length=1, max_length=16, description="Capabilities such as CAP_SYS_ADMIN.")
    ]


class NamespaceCondition(Part, frozen=True, kw_only=True):
    """A condition on a namespace of the thread."""

    type: Annotated[NamespaceType, Meta(description="Which kind of namespace.")]
    operator: Annotated[SetOperator, Meta(description="How it is compared.")]
    values: Annotated[Values, Meta(description="Host, or inode numbers of namespaces.")]
