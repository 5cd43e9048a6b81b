# SPDX-License-Identifier: Apache-2.0
"""Plain values against the profile's types: every fault is found, none stops the search.

The types' own annotations are the only source of what is allowed. A null is always refused: what Kubernetes makes of
one depends on the field, and `files:` with nothing after it should not mean "no files" when `files: {}` means all.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

from .formats import FORMATS
from .problems import MISSING, UNREADABLE, Findings, item, member
from .resource import ClusterSpec, TraceProfile
from .rules import RULES, Rule
from .schema import Kind, allowed, members, struct_type, unwrap

_NAMES_SHOWN = 24


def check(document: object, cls: type[TraceProfile], findings: Findings, *, standalone: bool) -> None:
    """Hold `document` against `cls` and all rules; `standalone`: without those that are Kubernetes' affair."""
    rules: dict[type, list[Rule]] = {}
    for rule in RULES:
        if not (standalone and rule.kubernetes):
            rules.setdefault(rule.on, []).append(rule)
            if rule.on in ClusterSpec.__mro__:
                rules.setdefault(ClusterSpec, []).append(rule)
    _Check(findings, rules).value(document, struct_type(cls), "")


@dataclass(slots=True)
class _Check:
    """One validation."""

    findings: Findings
    rules: dict[type, list[Rule]]

    def value(self, value: object, type_: inspect.Type, path: str) -> bool:
        """Whether `value` is in order; if not, why is in the findings."""
        if value is UNREADABLE:
            return False  # said already
        kind = unwrap(type_)
        bare = kind.type
        if isinstance(bare, inspect.AnyType):
            return True
        if isinstance(bare, inspect.StructType) and isinstance(value, dict):
            return self._struct(value, bare, path)
        if isinstance(bare, inspect.DictType) and isinstance(value, dict):
            return self._map(value, bare, type_, path)
        if isinstance(bare, inspect.VarTupleType) and isinstance(value, (list, tuple)):
            return self._list(value, kind, type_, path)
        fault = self._scalar_fault(value, kind, type_)
        if fault:
            self.findings.add(path, value, fault)
        return not fault

    def _scalar_fault(self, value: object, kind: Kind, type_: inspect.Type) -> str:
        bare = kind.type
        if isinstance(bare, inspect.BoolType) and isinstance(value, bool):
            return ""
        if isinstance(bare, inspect.IntType) and isinstance(value, int) and not isinstance(value, bool):
            assert isinstance(bare.ge, int)
            assert isinstance(bare.le, int)
            return "" if bare.ge <= value <= bare.le else f"must be {allowed(type_)}"
        if isinstance(bare, (inspect.StrType, inspect.EnumType)) and isinstance(value, str):
            return _text_fault(value, kind, type_)
        return f"must be {allowed(type_)}{_hint(value, kind)}"

    def _list(self, value: list[object] | tuple[object, ...], kind: Kind, type_: inspect.Type, path: str) -> bool:
        bare = kind.type
        assert isinstance(bare, inspect.VarTupleType)
        good = (bare.min_length or 0) <= len(value) <= (bare.max_length or 0)
        if not good:
            self.findings.add(path, value, f"must be {allowed(type_)}")
        for index, one in enumerate(value[: bare.max_length]):
            good = self.value(one, bare.item_type, item(path, index)) and good
        return self._unique(value, kind.extra.get("list", ""), path) and good

    def _unique(self, value: list[object] | tuple[object, ...], policy: str, path: str) -> bool:
        """Kubernetes' list types: the items of a set, the keys of a list-map, are there once."""
        if not policy:
            return True
        key = policy.partition(":")[2]
        seen: dict[object, int] = {}
        good = True
        for index, one in enumerate(value):
            name = one.get(key) if key and isinstance(one, dict) else one
            if not isinstance(name, (str, int)):
                continue
            if name in seen:
                where = member(item(path, index), key) if key else item(path, index)
                self.findings.add(where, name, f"must be there once; it is item {seen[name]} already")
                good = False
            seen.setdefault(name, index)
        return good

    def _map(self, value: dict[object, object], bare: inspect.DictType, type_: inspect.Type, path: str) -> bool:
        good = len(value) <= (bare.max_length or 0)
        if not good:
            self.findings.add(path, value, f"must be {allowed(type_)}")
            return False
        for key, one in value.items():
            where = member(path, key)
            key_kind = unwrap(bare.key_type)
            fault = self._scalar_fault(key, key_kind, bare.key_type)
            if fault:
                self.findings.add(where, key, f"the key {fault}")
            good = self.value(one, bare.value_type, where) and not fault and good
        return good

    def _struct(self, value: dict[object, object], bare: inspect.StructType, path: str) -> bool:
        fields = {one.encode_name: one for one in bare.fields}
        bad: set[str] = set()
        good = True
        for key, one in value.items():
            if isinstance(key, str) and key in fields:
                if not self.value(one, fields[key].type, member(path, key)):
                    bad.add(key)
            else:
                good = False
                near = _nearest(key, list(fields))
                bad.update(near)  # what it was meant to be may be what a rule misses
                self.findings.add(member(path, key), MISSING, _unknown(key, near, bare, list(fields)))
        for name, one in fields.items():
            if one.required and name not in value and name not in bad:
                good = False
                self.findings.add(member(path, name), MISSING, f"must be given: {allowed(one.type)}")
                bad.add(name)
        return self._obeys(value, bare, bad, path) and good and not bad

    def _obeys(self, value: dict[Any, Any], bare: inspect.StructType, bad: set[str], path: str) -> bool:
        good = True
        for rule in self.rules.get(bare.cls, ()):
            if bad.isdisjoint(rule.fields):
                for below, offender in rule.broken(value):
                    where = f"{path}.{below}" if path and below else path or below
                    self.findings.add(where, offender, rule.message)
                    good = False
        return good


def _text_fault(value: str, kind: Kind, type_: inspect.Type) -> str:
    names = members(kind)
    if names:
        near = _nearest(value, list(names))
        return "" if value in names else f"must be {allowed(type_)}" + (f"; did you mean {near[0]}?" if near else "")
    bare = kind.type
    assert isinstance(bare, inspect.StrType)
    assert bare.max_length is not None
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return "must not contain NUL or half of a surrogate pair"
    if not (bare.min_length or 0) <= len(value) <= bare.max_length:
        return f"must be {allowed(type_)}; this has {len(value)}"
    detail = FORMATS[kind.extra["format"]].check(value) if "format" in kind.extra else None
    return "" if detail is None else f"must be {allowed(type_)}" + (f": {detail}" if detail else "")


def _hint(value: object, kind: Kind) -> str:
    """What to do about a value of the wrong type."""
    if value is None:
        empty = {inspect.StructType: "{}", inspect.DictType: "{}", inspect.VarTupleType: "[]"}.get(type(kind.type), "")
        return f"; write {empty}, or leave it out" if empty else "; leave it out for the default"
    if isinstance(kind.type, inspect.StrType) and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    if isinstance(kind.type, inspect.IntType) and isinstance(value, float):
        return "; there are no fractions here"
    if isinstance(kind.type, (inspect.IntType, inspect.BoolType)) and isinstance(value, str):
        return "; without quotes or units"
    return ""


def _nearest(name: object, names: list[str]) -> list[str]:
    """The one of `names` that `name` may be meant to be, if any; case does not count."""
    if not isinstance(name, str) or len(name) > 64:
        return []
    by_lower = {one.lower(): one for one in names}
    return [by_lower[one] for one in difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)]


def _unknown(key: object, near: list[str], bare: inspect.StructType, names: list[str]) -> str:
    if not isinstance(key, str):
        return "must not be there: keys are strings"
    if key == "namespaceSelector" and bare.cls is not ClusterSpec:
        return "must not be there: only a ClusterTraceProfile has it"
    if near:
        return f"must not be there: there is no such field; did you mean {near[0]}?"
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    return f"must not be there: there is no such field; there are {shown}"
