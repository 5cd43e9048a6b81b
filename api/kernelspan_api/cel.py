# SPDX-License-Identifier: Apache-2.0
"""The rules of `rules` and the formats as the API server asks them: expressions in CEL, true where all is well.

They see an object after its defaults are filled in. What has no default is asked for by `has` first; an empty list, map
or text is never filled in (see `crd`), so it may be missing as well. Names come from the same constants as the checks
of `rulechecks`; that both say the same of the same objects is held by tests/cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .formats import FORMATS
from .rulechecks import (
    BATCH_KINDS,
    CIDR_OPERATORS,
    CONDITIONS,
    MAX_CONDITIONS,
    NUMERIC,
    PORT_OPERATORS,
    PROBE_KINDS,
    RATES,
    SOCKET_OPERATORS,
    SUBJECTS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Cel:
    """`text` is true of an object that keeps the rule; `field`: the part of the object that a breach is shown at."""

    text: str
    field: str = ""


def fits(form: str, value: str = "self") -> str:
    """Whether the text `value` is of the format; "" where CEL cannot say it."""
    found = FORMATS[form]
    if found.pattern:
        assert '"' not in found.pattern
        return f'{value}.matches(r"{found.pattern}")'
    return found.cel.format(value)


def _some(name: str, of: str = "self") -> str:
    return f"(has({of}.{name}) && {of}.{name}.size() > 0)"


def _none(name: str, of: str = "self") -> str:
    return f"(!has({of}.{name}) || {of}.{name}.size() == 0)"


def _among(names: Iterable[str], value: str = "self.operator") -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"{value} in [{quoted}]"


def _one_of(*names: str) -> str:
    present = ", ".join(f"has(self.{name})" for name in names)
    return f"[{present}].exists_one(present, present)"


def _each(name: str, condition: str) -> str:
    return f"!has(self.{name}) || self.{name}.all(one, {condition})"


def _sum(names: Iterable[str]) -> str:
    return " + ".join(f"(has(self.{name}) ? self.{name}.size() : 0)" for name in names)


_LISTS = ("requests", "probes")  # of nothing, they trace nothing; a group of operations is all of them
SOMETHING_TO_TRACE = (Cel(" || ".join(_some(one) if one in _LISTS else f"has(self.{one})" for one in SUBJECTS)),)
ONE_SELECTOR = (Cel(_one_of("podSelector", "workloadRef")),)
WORKLOAD_VERSION = (
    Cel(f"self.apiVersion == ({_among(BATCH_KINDS, 'self.kind')} ? 'batch/v1' : 'apps/v1')", "apiVersion"),
)
LABEL_VALUES = (Cel(f"{_some('values')} == ({_among(('In', 'NotIn'))})", "values"),)
ONE_PROBE_KIND = (Cel(_one_of(*PROBE_KINDS)),)
SPAN_ONLY = (
    Cel("self.mode == 'Span' || !has(self.returns)", "returns"),
    Cel("self.mode == 'Span' || !has(self.errorWhen)", "errorWhen"),
    Cel("self.mode == 'Span' || self.minDurationMicroseconds == 0", "minDurationMicroseconds"),
    Cel(f"self.mode == 'Span' || {_each('match', _none('returns', 'one'))}", "match"),
)
TRACEPOINT_END = (
    Cel(f"self.mode != 'Span' || !has(self.tracepoint) || {_some('exitEvent', 'self.tracepoint')}", "tracepoint"),
)
USDT_END = (Cel(f"self.mode != 'Span' || !has(self.usdt) || {_some('endProbe', 'self.usdt')}", "usdt"),)
RAW_FIELDS = (Cel(f"!has(self.tracepoint) || !self.tracepoint.raw || {_each('args', '!has(one.field)')}", "args"),)
FIELDS_OF_TRACEPOINTS = (
    Cel(f"has(self.tracepoint) || !{_one_of(*PROBE_KINDS)} || {_each('args', '!has(one.field)')}", "args"),
)
INDEX_OR_FIELD = (Cel(_one_of("index", "field")),)
ONE_RATE = (Cel(_one_of(*RATES)),)
UPROBE_TARGET = (Cel(f"{_some('symbols')} || {_some('offsets')}"),)
CONDITION_COUNT = (Cel(f"[{_sum(CONDITIONS)}].all(sum, 1 <= sum && sum <= {MAX_CONDITIONS})"),)
NUMBERS = (Cel(f"!({_among(NUMERIC)}) || (self.values.size() == 1 && {fits('number', 'self.values[0]')})", "values"),)
ADDRESSES = (Cel(f"!({_among(CIDR_OPERATORS)}) || self.values.all(one, {fits('cidr', 'one')})", "values"),)
PORTS = (Cel(f"!({_among(PORT_OPERATORS)}) || self.values.all(one, {fits('port', 'one')})", "values"),)
SOCKET_OPERATOR = (Cel(f"!({_among(SOCKET_OPERATORS)})", "operator"),)
