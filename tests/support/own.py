# SPDX-License-Identifier: Apache-2.0
"""Runs with probes of one's own: what a profile's entry looks like, and what came of it, by probe."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

from kernelspan_api import semconv
from tests.support import runs
from tests.support.generators import compiled
from tests.support.otlp_json import ReceivedSpan


def targets() -> Path:
    """programs/own_targets.c: calls and returns that are hard to tell, tail calls among them."""
    return compiled("own_targets", "-foptimize-sibling-calls")


def argument(index: int, kind: str, attribute: str = "", **more: Any) -> dict[str, Any]:
    """An entry of `args`; its attribute is aN unless it has another."""
    return {"index": index, "type": kind, "attribute": attribute or f"a{index}", **more}


def function(
    name: str, path: Path, *args: dict[str, Any], symbols: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """A probe on a user function of that name, a span unless it says otherwise."""
    return {
        "name": name,
        "uprobe": {"path": str(path), "symbols": list(symbols or (name,))},
        "args": list(args),
        **more,
    }


def returned(kind: str = "Int64") -> dict[str, Any]:
    """An entry of `returns`."""
    return {"type": kind, "attribute": "r"}


def run(folder: Path, probes: list[dict[str, Any]], *command: str | Path, **spec: Any) -> runs.Run:
    """A run of a command with these probes and nothing else."""
    return runs.run(folder, runs.profile(folder, probes=probes, **spec), *command)


class HasSpans(Protocol):
    """What a run left."""

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All of them."""


def by_probe(ran: HasSpans) -> dict[str, list[ReceivedSpan]]:
    """The spans of probes, in the order in which they began."""
    found: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in sorted(ran.spans, key=lambda span: (span.start_ns, -span.end_ns)):
        name = span.attributes.get(semconv.PROBE_NAME)
        if isinstance(name, str):
            found[name].append(span)
    return found


def values(spans: list[ReceivedSpan], *attributes: str) -> list[Any]:
    """An attribute of each, or a tuple of several."""
    if len(attributes) == 1:
        return [span.attributes.get(attributes[0]) for span in spans]
    return [tuple(span.attributes.get(each) for each in attributes) for span in spans]
