# SPDX-License-Identifier: Apache-2.0
"""Batches of operations by libraries, as the resolver makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernelspan_agent.model import SPAN, Frame, Library, Origin, ResolvedBatch, Segment, Stack
from kernelspan_agent.resolve.segments import error_segment
from kernelspan_agent.ring.records import OPERATION, OWN_OPERATION


def library(name: str, version: str = "1") -> Library:
    """One of PyPI."""
    return Library(name, version, f"pkg:pypi/{name}@{version}")


def stack(*owners: str) -> Stack:
    """Frames from the innermost outwards: `app`, `runtime`, else the name of a library; `?` is one that is not known."""
    return Stack(tuple(_frame(owner) for owner in owners))


def _frame(owner: str) -> Frame:
    if owner in ("app", "runtime"):
        return Frame(f"{owner}.f", f"/{owner}.py", 1, Origin(owner.title() if owner == "runtime" else "App"))
    return Frame("f", f"/site/{owner}.py", 1, Origin.LIBRARY, None if owner == "?" else library(owner))


@dataclass(frozen=True)
class Act:
    """One operation. `segment`: of its object; of an own probe an error in it makes it a failure."""

    number: int
    stack: Stack
    ret: int = 0
    segment: Segment | None = None

    @property
    def failed(self) -> bool:
        """As its span would say."""
        if self.number >= OWN_OPERATION:
            return self.segment is not None and bool(self.segment.error)
        return -4096 < self.ret < 0 and bool(error_segment(self.number, -self.ret).error)


def batch(acts: Sequence[Act]) -> ResolvedBatch:
    """The operations, their stacks each once."""
    ops = np.zeros(len(acts), OPERATION)
    parts = np.full((len(acts), 5), None, object)
    distinct = list(dict.fromkeys(act.stack for act in acts))
    for row, act in enumerate(acts):
        ops[row]["op"], ops[row]["ret"] = act.number, act.ret
        parts[row, 2] = act.segment
    of = np.array([distinct.index(act.stack) for act in acts], np.intp)
    times = np.zeros(len(acts), np.uint64)
    stacks = [act.stack for act in acts]
    return ResolvedBatch(ops, times, times, stacks, [], parts, np.zeros(len(acts), SPAN), distinct, of)
