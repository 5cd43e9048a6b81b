# SPDX-License-Identifier: Apache-2.0
"""What must hold of many operations together, where tests/support/truth.py holds each alone against what was said of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kernelspan_api import semconv

if TYPE_CHECKING:
    from tests.support.otlp_json import ReceivedSpan
    from tests.support.truth import Said

PENDING = "RuntimePending"


def pending_late(said: Iterable[Said], spans: dict[str, list[ReceivedSpan]]) -> list[str]:
    """Keys of operations that were pending though their process's runtime was known when they began.

    The kernel looks it up between an operation's beginning and its end. So one that began after the end of another of the
    same process that was not pending must not be pending. What two threads did at once is not judged.
    """
    pending: dict[str, list[tuple[int, str]]] = defaultdict(list)
    known: dict[str, int] = {}  # token of a process -> the first end of an operation whose runtime was known
    for key in {each.key for each in said}:
        token = key.split("/")[0]
        for span in spans.get(key, []):
            if span.attributes.get(semconv.CODE_MISSING) == PENDING:
                pending[token].append((span.start_ns, key))
            else:
                known[token] = min(known.get(token, span.end_ns), span.end_ns)
    return [
        key for token in pending.keys() & known for start_ns, key in sorted(pending[token]) if start_ns >= known[token]
    ]


def contexts(said: Iterable[Said], spans: dict[str, list[ReceivedSpan]]) -> tuple[list[str], dict[str, int], int]:
    """(traces that hold operations of more than one context, context -> number of its traces, operations without)."""
    in_trace: dict[str, set[str]] = defaultdict(set)
    of_context: dict[str, set[str]] = defaultdict(set)
    nowhere = 0
    for each in said:
        for span in spans.get(each.key, []):
            in_trace[span.trace_id].add(each.context)
            of_context[each.context].add(span.trace_id)
        nowhere += not spans.get(each.key)
    mixed = [f"{sorted(names)[:5]}" for names in in_trace.values() if len(names) > 1]
    return mixed, {name: len(traces) for name, traces in of_context.items()}, nowhere
