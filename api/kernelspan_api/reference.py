# SPDX-License-Identifier: Apache-2.0
"""The reference page of the TraceProfile, written from its types: `python -m kernelspan_api.reference [FILE]`.

docs/reference/traceprofile.md is this module's output; a test compares them.
"""

from __future__ import annotations

import enum
import inspect as pyinspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from .reasons import Reason
from .resource import API_VERSION, ClusterSpec, ClusterTraceProfile, ObjectMeta, Spec, TraceProfile
from .rules import RULES
from .schema import allowed, members, struct_type, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAD = f"""<!-- Written by `python -m kernelspan_api.reference`. Edit the types in api/kernelspan_api instead. -->

# TraceProfile

`apiVersion: {API_VERSION}`. `TraceProfile` (short name `tprof`) belongs to a namespace; `ClusterTraceProfile` has the
same spec and a `namespaceSelector`. `kernelspan run -f FILE` takes either, with or without selectors of pods, which it
ignores; `kernelspan check -f FILE` names everything that is wrong with one. Fields without a default are required.
A field that is not listed, a value out of bounds and a null are refused. There are no fractions: the unit is in a
field's name.
"""


def page() -> str:
    """The page, as Markdown."""
    lines = [_HEAD]
    for cls in _order(TraceProfile):
        lines += _section(cls)
    extra = [one for one in struct_type(ClusterSpec).fields if one.name not in Spec.__struct_fields__]
    lines += ["## ClusterTraceProfile", "", _says(ClusterTraceProfile) + " In its spec, besides:", "", *_fields(extra)]
    lines += [
        "## Rules",
        "",
        "Beyond types and bounds, a profile keeps these.",
        "",
        "| Rule | On | It |",
        "| --- | --- | --- |",
    ]
    rows = dict.fromkeys(
        (rule.name, f"[{rule.on.__name__}](#{rule.on.__name__.lower()})", rule.message) for rule in RULES
    )
    lines += [_row(row) for row in rows]
    lines += ["", "## Status reasons", "", "| Reason | Means | What to do |", "| --- | --- | --- |"]
    lines += [_row((reason.value, reason.meaning, reason.remedy)) for reason in Reason]
    return "\n".join(lines) + "\n"


def _order(root: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """`root` and all objects below it, each once, outer before inner and in the order of fields."""
    waiting, seen = [root], {root}
    while waiting:
        cls = waiting.pop(0)
        yield cls
        below = [found for one in struct_type(cls).fields for found in _structs(one.type) if found not in seen]
        waiting[:0] = below = list(dict.fromkeys(below))
        seen.update(below)


def _structs(type_: inspect.Type) -> Iterator[type[msgspec.Struct]]:
    bare = unwrap(type_).type
    if isinstance(bare, inspect.StructType):
        yield bare.cls
    elif isinstance(bare, inspect.VarTupleType):
        yield from _structs(bare.item_type)


def _says(cls: type) -> str:
    return " ".join((pyinspect.getdoc(cls) or "").split())


def _section(cls: type[msgspec.Struct]) -> list[str]:
    fields: Iterable[inspect.Field] = struct_type(cls).fields
    if cls is ObjectMeta:
        fields = [one for one in fields if not isinstance(unwrap(one.type).type, inspect.AnyType)]
    return [f"## {cls.__name__}", "", _says(cls), "", *_fields(fields)]


def _fields(fields: Iterable[inspect.Field]) -> list[str]:
    rows = [
        _row((f"`{one.encode_name}`", _shape(one.type), _default(one), unwrap(one.type).description)) for one in fields
    ]
    return ["| Field | Is | Default | Meaning |", "| --- | --- | --- | --- |", *rows, ""]


def _shape(type_: inspect.Type) -> str:
    """What a value is, with links to the objects it holds."""
    kind = unwrap(type_)
    bare = kind.type
    if isinstance(bare, inspect.StructType):
        return f"[{bare.cls.__name__}](#{bare.cls.__name__.lower()})"
    if isinstance(bare, inspect.VarTupleType):
        unique = {"": "", "set": ", each once"}.get(kind.extra.get("list", ""), ", each `name` or `type` once")
        return f"{allowed(type_)}{unique}: {_shape(bare.item_type)}"
    if isinstance(bare, inspect.DictType):
        return f"{allowed(type_)}; a key is {_shape(bare.key_type)}; a value is {_shape(bare.value_type)}"
    if members(kind):
        return ", ".join(f"`{name}`" for name in members(kind))
    return allowed(type_)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    if says := unwrap(field.type).extra.get("default"):
        return f"`{says}`"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "absent"
    if isinstance(value, tuple) and value and value == members(unwrap(_item_type(field))):
        return "all"
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    return f"`{json.dumps(msgspec.to_builtins(value))}`"


def _item_type(field: inspect.Field) -> inspect.Type:
    bare = unwrap(field.type).type
    return bare.item_type if isinstance(bare, inspect.VarTupleType) else bare


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write the page to the file named, or to standard output."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
