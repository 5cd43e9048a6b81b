# SPDX-License-Identifier: Apache-2.0
"""What each rule of `rules` looks for: functions from an object in its wire form to the places that break the rule.

They may rely on the types and bounds of the fields that their rule says it reads, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .formats import FORMATS
from .problems import MISSING, item, member

Doc = Mapping[str, Any]
Fault = tuple[str, object]  # path below the object ("": itself), offending value

SUBJECTS = ("requests", "files", "network", "processes", "waits", "probes")
PROBE_KINDS = ("kprobe", "tracepoint", "uprobe", "usdt")
RATES = ("eventsPerSecond", "eventsPerMinute")
CONDITIONS = ("args", "returns", "binaries", "capabilities", "namespaces")
MAX_CONDITIONS = 8
NUMERIC = ("GreaterThan", "LessThan", "Mask")
CIDR_OPERATORS = ("SourceCIDR", "NotSourceCIDR", "DestinationCIDR", "NotDestinationCIDR")
PORT_OPERATORS = ("SourcePort", "NotSourcePort", "DestinationPort", "NotDestinationPort")
SOCKET_OPERATORS = (*CIDR_OPERATORS, *PORT_OPERATORS, "Family", "Protocol")
BATCH_KINDS = ("Job", "CronJob")


def _present(doc: Doc, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in doc]


def nothing_to_trace(doc: Doc) -> Iterator[Fault]:
    """Neither a group of operations nor a request nor a probe."""
    if not any(doc[name] not in ([], ()) for name in _present(doc, SUBJECTS)):
        yield "", MISSING


def selectors(doc: Doc) -> Iterator[Fault]:
    """No selector of pods, or two."""
    present = _present(doc, ("podSelector", "workloadRef"))
    if not present:
        yield "", MISSING
    if len(present) > 1:
        yield "workloadRef", doc["workloadRef"]


def one_of(*names: str) -> Callable[[Doc], Iterator[Fault]]:
    """None or several of `names`."""

    def broken(doc: Doc) -> Iterator[Fault]:
        present = _present(doc, names)
        if not present:
            yield "", MISSING
        for extra in present[1:]:
            yield extra, doc[extra]

    return broken


def _is_span(doc: Doc) -> bool:
    return bool(doc.get("mode", "Span") == "Span")


def span_only(doc: Doc) -> Iterator[Fault]:
    """What looks at the return, where there is none."""
    if _is_span(doc):
        return
    for name in _present(doc, ("returns", "errorWhen")):
        yield name, doc[name]
    if doc.get("minDurationMicroseconds", 0) > 0:
        yield "minDurationMicroseconds", doc["minDurationMicroseconds"]
    for index, entry in enumerate(doc.get("match", [])):
        if entry.get("returns"):
            yield member(item("match", index), "returns"), entry["returns"]


def needs_end(kind: str, field: str) -> Callable[[Doc], Iterator[Fault]]:
    """A span of `kind` without the `field` that ends it."""

    def broken(doc: Doc) -> Iterator[Fault]:
        if kind in doc and _is_span(doc) and not doc[kind].get(field, ""):
            yield member(kind, field), MISSING

    return broken


def raw_fields(doc: Doc) -> Iterator[Fault]:
    """Fields of a raw tracepoint by name."""
    if doc.get("tracepoint", {}).get("raw", False):
        for index, argument in enumerate(doc.get("args", [])):
            if "field" in argument:
                yield member(item("args", index), "field"), argument["field"]


def field_without_tracepoint(doc: Doc) -> Iterator[Fault]:
    """Fields by name of what has only positions."""
    if "tracepoint" not in doc and len(_present(doc, PROBE_KINDS)) == 1:
        for index, argument in enumerate(doc.get("args", [])):
            if "field" in argument:
                yield member(item("args", index), "field"), argument["field"]


def no_target(doc: Doc) -> Iterator[Fault]:
    """An executable without a place to probe."""
    if not doc.get("symbols") and not doc.get("offsets"):
        yield "", MISSING


def condition_count(doc: Doc) -> Iterator[Fault]:
    """No condition, or too many of all kinds together."""
    if not 1 <= sum(len(doc.get(name, [])) for name in CONDITIONS) <= MAX_CONDITIONS:
        yield "", MISSING


def _misfits(doc: Doc, form: str) -> Iterator[Fault]:
    for index, value in enumerate(doc["values"]):
        if FORMATS[form].check(value) is not None:
            yield item("values", index), value


def bad_numbers(doc: Doc) -> Iterator[Fault]:
    """What a comparison of numbers cannot use."""
    if doc["operator"] in NUMERIC:
        yield from _misfits(doc, "number")
        if len(doc["values"]) > 1:
            yield "values", doc["values"]


def bad_addresses(doc: Doc) -> Iterator[Fault]:
    """Values that are no address range."""
    if doc["operator"] in CIDR_OPERATORS:
        yield from _misfits(doc, "cidr")


def bad_ports(doc: Doc) -> Iterator[Fault]:
    """Values that are no port."""
    if doc["operator"] in PORT_OPERATORS:
        yield from _misfits(doc, "port")


def socket_operator(doc: Doc) -> Iterator[Fault]:
    """An operator of sockets on a number."""
    if doc["operator"] in SOCKET_OPERATORS:
        yield "operator", doc["operator"]


def label_values(doc: Doc) -> Iterator[Fault]:
    """Values where none belong, or none where some do."""
    values = doc.get("values", [])
    if bool(values) != (doc["operator"] in ("In", "NotIn")):
        yield "values", values if "values" in doc else MISSING


def workload_version(doc: Doc) -> Iterator[Fault]:
    """An API group that does not have that kind."""
    if doc["apiVersion"] != ("batch/v1" if doc["kind"] in BATCH_KINDS else "apps/v1"):
        yield "apiVersion", doc["apiVersion"]
