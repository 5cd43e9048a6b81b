# SPDX-License-Identifier: Apache-2.0
"""What a watch of pods selects, as the API server's query has it."""

from __future__ import annotations

import msgspec

from kernelspan_api.selectors import LabelSelector

from .objects import Selector

SILENCE_SECONDS = 120.0  # an API server sends a bookmark about once a minute (kube-apiserver: bookmarkFrequency)


class WatchKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """One watch: pods of a namespace (empty: of all) that a selector selects (empty: all)."""

    namespace: str
    selector: str


def query_of(selector: LabelSelector | Selector) -> str:
    """A labelSelector; two selectors that say the same in another order give the same text."""
    parts = {f"{key}={value}" for key, value in (selector.match_labels or {}).items()}
    for one in selector.match_expressions or ():
        operator = one.operator if isinstance(one.operator, str) else one.operator.value
        values = ",".join(sorted(set(one.values or ())))
        match operator:
            case "In":
                parts.add(f"{one.key} in ({values})")
            case "NotIn":
                parts.add(f"{one.key} notin ({values})")
            case "Exists":
                parts.add(one.key)
            case _:
                parts.add(f"!{one.key}")
    return ",".join(sorted(parts))


def matches(selector: LabelSelector, labels: dict[str, str]) -> bool:
    """What the API server would say of an object with these labels."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for one in selector.match_expressions:
        there, value = one.key in labels, labels.get(one.key)
        match one.operator.value:
            case "In":
                good = there and value in one.values
            case "NotIn":
                good = not there or value not in one.values
            case "Exists":
                good = there
            case _:
                good = not there
        if not good:
            return False
    return True
