# SPDX-License-Identifier: Apache-2.0
"""Rules between fields: what types and bounds alone cannot say.

One table, RULES. A rule stands on one type and reads some of its fields in their wire form (as a schema's own rules
would), so that it can be asked of a document that has other faults: it is asked only where all it reads is in order.
Every message begins with "must". The API server enforces the same rules with the same messages, by their `cel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import cel
from .conditions import ArgumentCondition, ResultCondition
from .formats import FORMATS
from .resource import Spec
from .rulechecks import (
    CONDITIONS,
    MAX_CONDITIONS,
    NUMERIC,
    PROBE_KINDS,
    RATES,
    SUBJECTS,
    Doc,
    Fault,
    bad_addresses,
    bad_numbers,
    bad_ports,
    condition_count,
    field_without_tracepoint,
    label_values,
    needs_end,
    no_target,
    nothing_to_trace,
    one_of,
    raw_fields,
    selectors,
    socket_operator,
    span_only,
    workload_version,
)
from .selectors import LabelExpression, WorkloadRef
from .userprobes import Argument, Match, RateLimit, Uprobe, UserProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .fields import Part


@dataclass(frozen=True, slots=True)
class Rule:
    """`broken` yields a fault for each place that breaks the rule; `fields` are the wire names of what it reads.

    `cel`: the same for the API server, all of it true where the rule is kept.
    """

    name: str
    on: type[Part]
    fields: tuple[str, ...]
    message: str
    broken: Callable[[Doc], Iterable[Fault]]
    cel: tuple[cel.Cel, ...]
    kubernetes: bool = False  # of no concern without Kubernetes


_COMPARED = ("operator", "values")
RULES = (
    Rule(
        "something-to-trace",
        Spec,
        SUBJECTS,
        f"must trace something: at least one of {', '.join(SUBJECTS)}",
        nothing_to_trace,
        cel.SOMETHING_TO_TRACE,
    ),
    Rule(
        "one-selector",
        Spec,
        ("podSelector", "workloadRef"),
        "must have exactly one of podSelector, workloadRef",
        selectors,
        cel.ONE_SELECTOR,
        kubernetes=True,
    ),
    Rule(
        "workload-version",
        WorkloadRef,
        ("apiVersion", "kind"),
        "must be apps/v1, or batch/v1 for Job and CronJob",
        workload_version,
        cel.WORKLOAD_VERSION,
    ),
    Rule(
        "label-values",
        LabelExpression,
        _COMPARED,
        "must hold values for In and NotIn, and none for Exists and DoesNotExist",
        label_values,
        cel.LABEL_VALUES,
    ),
    Rule(
        "one-probe-kind",
        UserProbe,
        PROBE_KINDS,
        f"must have exactly one of {', '.join(PROBE_KINDS)}",
        one_of(*PROBE_KINDS),
        cel.ONE_PROBE_KIND,
    ),
    Rule(
        "span-only",
        UserProbe,
        ("mode", "returns", "errorWhen", "minDurationMicroseconds", "match"),
        "must be left out in mode Event, as returns, errorWhen, minDurationMicroseconds and match[].returns: "
        "only mode Span sees the return",
        span_only,
        cel.SPAN_ONLY,
    ),
    Rule(
        "tracepoint-end",
        UserProbe,
        ("mode", "tracepoint"),
        "must be the exitEvent that ends the span in mode Span (the default); mode Event needs none",
        needs_end("tracepoint", "exitEvent"),
        cel.TRACEPOINT_END,
    ),
    Rule(
        "usdt-end",
        UserProbe,
        ("mode", "usdt"),
        "must be the endProbe that ends the span in mode Span (the default); mode Event needs none",
        needs_end("usdt", "endProbe"),
        cel.USDT_END,
    ),
    Rule(
        "raw-fields",
        UserProbe,
        ("tracepoint", "args"),
        "must be an index: a raw tracepoint has no named fields",
        raw_fields,
        cel.RAW_FIELDS,
    ),
    Rule(
        "fields-of-tracepoints",
        UserProbe,
        (*PROBE_KINDS, "args"),
        "must be an index: only a tracepoint has named fields",
        field_without_tracepoint,
        cel.FIELDS_OF_TRACEPOINTS,
    ),
    Rule(
        "index-or-field",
        Argument,
        ("index", "field"),
        "must have exactly one of index, field",
        one_of("index", "field"),
        cel.INDEX_OR_FIELD,
    ),
    Rule(
        "one-rate",
        RateLimit,
        RATES,
        f"must have exactly one of {', '.join(RATES)}",
        one_of(*RATES),
        cel.ONE_RATE,
    ),
    Rule(
        "uprobe-target",
        Uprobe,
        ("symbols", "offsets"),
        "must name at least one of symbols, offsets",
        no_target,
        cel.UPROBE_TARGET,
    ),
    Rule(
        "condition-count",
        Match,
        CONDITIONS,
        f"must hold 1 to {MAX_CONDITIONS} conditions in all",
        condition_count,
        cel.CONDITION_COUNT,
    ),
    *(
        rule
        for on in (ArgumentCondition, ResultCondition)
        for rule in (
            Rule(
                "numbers", on, _COMPARED, f"must be one whole number for {', '.join(NUMERIC)}", bad_numbers, cel.NUMBERS
            ),
        )
    ),
    Rule("addresses", ArgumentCondition, _COMPARED, f"must be {FORMATS['cidr'].says}", bad_addresses, cel.ADDRESSES),
    Rule("ports", ArgumentCondition, _COMPARED, "must be a port, 1 to 65535", bad_ports, cel.PORTS),
    Rule(
        "socket-operators",
        ResultCondition,
        ("operator",),
        "must not be an operator of sockets here",
        socket_operator,
        cel.SOCKET_OPERATOR,
    ),
)
