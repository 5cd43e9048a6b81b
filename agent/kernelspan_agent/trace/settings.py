# SPDX-License-Identifier: Apache-2.0
"""What a profile decides about traces, and the bounds that keep the tracer's memory finite."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kernelspan_api.subjects import Request

SECOND_NS = 1_000_000_000


class Orphans(enum.Enum):
    """`correlation.orphans`: what becomes of an operation that belongs to no request."""

    ACTIVITY = "Activity"
    ROOT = "Root"
    DROP = "Drop"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Settings of one tracer. Raises ValueError for a value out of its range."""

    functions: bool = True
    orphans: Orphans = Orphans.ACTIVITY
    percent: int = 100
    # 0 to 100. The tracer takes 0 (everything is sampled out and counted); whether a profile may say so is api's affair.
    requests: tuple[Request, ...] = ()
    traceparent: bool = True  # of a request is its parent
    parent_based: bool = True  # and says whether it is sampled
    hidden_headers: tuple[str, ...] = ()  # globs, besides those that are always
    times: bool = False  # on and off the CPU, of requests
    idle_ns: int = SECOND_NS
    # Longer than a pause between two statements, shorter than a user's patience for a trace to appear.
    max_length_ns: int = 60 * SECOND_NS
    # Of an activity, and the age up to which a process is one activity: a cron job fits, a server's life does not.
    max_contexts: int = 16_384
    # More than the 10,000 threads a process may well have; at 1.2 kB each about 20 MB when all are open.
    max_depth: int = 16
    # Function spans below one another. A new stack opens at most so many, which bounds spans per operation.
    max_process_depth: int = 32
    # Processes joined in one trace below one another: without it a daemon that re-forks for ever has an endless trace.

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent is {self.percent}, must be 0 to 100")
        for name in ("idle_ns", "max_length_ns", "max_contexts", "max_depth", "max_process_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
