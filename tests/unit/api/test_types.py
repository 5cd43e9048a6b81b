# SPDX-License-Identifier: Apache-2.0
"""The types keep the conventions of Kubernetes' API: bounded, described, no floats, no reserved words."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import inspect

from kernelspan_api.formats import FORMATS
from kernelspan_api.problems import Findings
from kernelspan_api.resource import ClusterTraceProfile, ObjectMeta
from kernelspan_api.rules import RULES
from kernelspan_api.schema import members, struct_type, unwrap
from kernelspan_api.validation import _Check

# Identifiers that the CEL specification reserves, and those Kubernetes escapes besides.
CEL_RESERVED = set(
    """true false null in as break const continue else for function if import let loop package namespace return var
    void while""".split()  # noqa: SIM905  # a list of words
)


def structs(info: inspect.Type, seen: set[type]) -> Iterator[inspect.StructType]:
    """All objects below `info`."""
    bare = unwrap(info).type
    if isinstance(bare, inspect.VarTupleType):
        yield from structs(bare.item_type, seen)
    elif isinstance(bare, inspect.StructType) and bare.cls not in seen:
        seen.add(bare.cls)
        yield bare
        for field in bare.fields:
            yield from structs(field.type, seen)


STRUCTS = list(structs(struct_type(ClusterTraceProfile), set()))
FIELDS = [
    pytest.param(one.cls, field, id=f"{one.cls.__name__}.{field.encode_name}")
    for one in STRUCTS
    for field in one.fields
]


def leaves(info: inspect.Type) -> Iterator[inspect.Type]:
    """`info` and the types of what it holds, down to the next object."""
    yield info
    bare = unwrap(info).type
    if isinstance(bare, inspect.VarTupleType):
        yield from leaves(bare.item_type)
    elif isinstance(bare, inspect.DictType):
        yield from leaves(bare.key_type)
        yield from leaves(bare.value_type)


@pytest.mark.parametrize(("cls", "field"), FIELDS)
def test_field_is_described_and_bounded(cls: type, field: inspect.Field) -> None:
    """Every field has a description; every string, list, map and number in it has bounds; nothing is a float."""
    assert unwrap(field.type).description
    assert field.encode_name not in CEL_RESERVED - {"namespace"} or cls is ObjectMeta
    assert re.fullmatch(r"[a-z][A-Za-z0-9]*", field.encode_name)
    for info in leaves(field.type):
        kind = unwrap(info)
        bare = kind.type
        if isinstance(bare, inspect.AnyType):
            assert cls is ObjectMeta
        elif isinstance(bare, inspect.IntType):
            assert isinstance(bare.ge, int)
            assert isinstance(bare.le, int)
        elif isinstance(bare, inspect.EnumType):
            assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) for name in members(kind))
        elif isinstance(bare, (inspect.StrType, inspect.VarTupleType, inspect.DictType)):
            assert bare.max_length
        else:
            assert isinstance(bare, (inspect.BoolType, inspect.StructType))
        assert kind.extra.get("format", "glob") in FORMATS


@pytest.mark.parametrize(
    "field", [pytest.param(one.values[1], id=one.id) for one in FIELDS if not one.values[1].required]
)  # type: ignore[attr-defined]
def test_default_is_allowed(field: inspect.Field) -> None:
    """A default keeps the field's own bounds, and the rules of what it is."""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return
    findings = Findings()
    plain = value.value if isinstance(value, enum.Enum) else msgspec.to_builtins(value)
    rules = {rule.on: [rule] for rule in RULES}
    assert _Check(findings, rules).value(plain, field.type, "")
    assert findings.problems == []


def test_structs_refuse_what_they_do_not_know() -> None:
    """Every object is immutable and closed."""
    assert len(STRUCTS) > 40
    for one in STRUCTS:
        assert one.cls.__struct_config__.frozen
        assert one.cls.__struct_config__.forbid_unknown_fields


def test_rules_are_named_and_begin_with_must() -> None:
    """A rule's message reads after the field's path; its name is unique on its type; it reads fields that exist."""
    assert len({(rule.on, rule.name) for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.message.startswith("must ")
        assert set(rule.fields) <= {field.encode_name for field in struct_type(rule.on).fields}


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.pattern])
def test_patterns_are_anchored(name: str) -> None:
    """A schema's pattern is searched for, so it must say where it begins and ends."""
    assert FORMATS[name].pattern.startswith("^")
    assert FORMATS[name].pattern.endswith("$")


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.pattern])
@given(text=st.text(st.sampled_from("aZ09[]!^/.*:-_ é\n\x00%{}@?#\\x"), max_size=12) | st.text(max_size=12))
@example("[!]")
@example("[]")
@example("[]]/[^]]")
@example("/..")
@example("/.../..a/.a")
@example("http://c:65535/x")
@example("https://[::1]:65536")
@example("[::1]:4317")
@example("c:1\n")
@example("0x" + "f" * 16)
@example("-0x" + "f" * 16)
@example("9" * 20)
def test_pattern_and_check_agree(name: str, text: str) -> None:
    """The schema's pattern takes what the check takes and, unless it is called partial, nothing else.

    $ is the end of the text to RE2; to Python it is also the place before a last line feed.
    """
    form = FORMATS[name]
    matches = re.search(form.pattern[:-1] + r"\Z", text) is not None
    good = form.check(text) is None
    assert matches == good or (matches and form.partial)
