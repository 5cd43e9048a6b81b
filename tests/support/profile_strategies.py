# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies of profiles, made from the types: within types and bounds, with rules kept or broken."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from kernelspan_api.profile import ClusterTraceProfile, TraceProfile
from kernelspan_api.resource import ObjectMeta
from kernelspan_api.schema import members, struct_type, unwrap

EXAMPLES = {  # texts of each format, good ones
    "dnsLabel": ["a", "a-1", "x" * 63],
    "dnsSubdomain": ["a", "a.b-c"],
    "serverName": ["", "collector.example.com", "10.0.0.1", "fd00::1"],
    "labelKey": ["a", "example.com/A_b.c"],
    "labelValue": ["", "A_b.c"],
    "glob": ["*", "a[!x]?", "/a/**"],
    "pathGlob": ["/", "/a b\n/**", "*.é"],
    "regex": ["a*", "^x{2,3}$", "(?i)[^/]+|b"],
    "cidr": ["0.0.0.0/0", "fd00::/8", "10.1.0.0/16"],
    "header": ["x-request-id", "*"],
    "route": ["/", "/orders/{id}"],
    "probePath": ["Auto", "/usr/bin/x"],
    "kernelSymbol": ["tcp_sendmsg", "f.constprop.0"],
    "identifier": ["sched", "gc__start"],
    "optionalIdentifier": ["", "x"],
    "memberPath": ["", "a.b", "[0].a[1].(struct b *).c"],
    "symbol": ["main.(*Engine).Quote", "operator new"],
    "attribute": ["a", "a.b-c/d"],
    "apiVersion": ["apps/v1", "batch/v1"],
    "endpoint": ["", "c:1", "https://c/x"],
}

# What conditions compare with, good and bad: texts that a rule could take for a number, a port, an address range.
COMPARED = [
    "0",
    "-1",
    "0x1F",
    "9" * 19,
    "9" * 20,
    "80",
    "080",
    "65536",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "fd00::/8",
    "::/129",
]


def plain(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Values within the types and bounds of `info`, in wire form; rules between fields may be broken."""
    kind = unwrap(info)
    bare = kind.type
    if names := members(kind):
        return st.sampled_from(names)
    if isinstance(bare, inspect.BoolType):
        return st.booleans()
    if isinstance(bare, inspect.IntType):
        return st.integers(bare.ge, bare.le)
    if isinstance(bare, inspect.StrType):
        if form := kind.extra.get("format"):
            return st.sampled_from(EXAMPLES[form])
        anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
        return anything | st.sampled_from(COMPARED)
    if isinstance(bare, inspect.VarTupleType):
        unique = (lambda one: one["name"]) if kind.extra.get("list") == "map:name" else None
        return st.lists(
            plain(bare.item_type),
            min_size=bare.min_length or 0,
            max_size=3,
            unique_by=unique or (repr if "list" in kind.extra else None),
        )
    if isinstance(bare, inspect.DictType):
        return st.dictionaries(plain(bare.key_type), plain(bare.value_type), max_size=3)
    assert isinstance(bare, inspect.StructType)
    return st.deferred(lambda: objects(bare.cls))


@functools.cache
def objects(cls: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of that type, with some of their optional fields."""
    info = struct_type(cls)
    fields = [one for one in info.fields if one.name != "status"]
    if cls is ObjectMeta:
        fields = [one for one in fields if not isinstance(unwrap(one.type).type, inspect.AnyType)]
    required = {one.encode_name: plain(one.type) for one in fields if one.required}
    optional = {one.encode_name: plain(one.type) for one in fields if not one.required}
    return st.fixed_dictionaries(required, optional=optional)


PROFILES = st.sampled_from([TraceProfile, ClusterTraceProfile]).flatmap(objects)
