# SPDX-License-Identifier: Apache-2.0
"""The profile's types as data: what the validator, the reference page and the CRD read of them.

The annotations of the types are the only source; `msgspec.inspect` reads them, and this module takes off the wrapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from .formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec


@dataclass(frozen=True, slots=True)
class Kind:
    """A field's type without its wrapping: `type` of msgspec.inspect, whether None may stand for absent, our extras."""

    type: inspect.Type
    extra: Mapping[str, Any]
    description: str


def unwrap(type_: inspect.Type) -> Kind:
    """`type_` without Metadata and `| None`."""
    extra: dict[str, Any] = {}
    description = ""
    while True:
        if isinstance(type_, inspect.Metadata):
            extra = {**(type_.extra or {}), **extra}
            description = description or (type_.extra_json_schema or {}).get("description", "")
            type_ = type_.type
        elif isinstance(type_, inspect.UnionType):
            (type_,) = (one for one in type_.types if not isinstance(one, inspect.NoneType))
        else:
            return Kind(type_, extra, description)


@cache
def struct_type(cls: type[msgspec.Struct]) -> inspect.StructType:
    """What msgspec knows of `cls`. Of a profile that takes 20 ms, once."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return info


def members(kind: Kind) -> tuple[str, ...]:
    """The strings an enumeration allows; empty if it is none."""
    if isinstance(kind.type, inspect.EnumType):
        return tuple(str(one.value) for one in kind.type.cls)
    return tuple(kind.extra.get("enum", ()))


def allowed(type_: inspect.Type) -> str:
    """What a value of this type must be, to follow "must be": `an integer from 1 to 127`."""
    kind = unwrap(type_)
    bare = kind.type
    if names := members(kind):
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if isinstance(bare, inspect.BoolType):
        return "true or false"
    if isinstance(bare, inspect.IntType):
        return f"an integer from {bare.ge} to {bare.le}"
    if isinstance(bare, inspect.StrType):
        says = FORMATS[kind.extra["format"]].says if "format" in kind.extra else "a string"
        shortest = f"{bare.min_length} to " if bare.min_length else "at most "
        return f"{says}, {shortest}{bare.max_length} characters"
    if isinstance(bare, inspect.VarTupleType):
        count = f"{bare.min_length} to {bare.max_length}" if bare.min_length else f"at most {bare.max_length}"
        return f"a list of {count} items"
    if isinstance(bare, inspect.DictType):
        return f"an object of at most {bare.max_length} entries"
    return "anything" if isinstance(bare, inspect.AnyType) else "an object"
