# SPDX-License-Identifier: Apache-2.0
"""Where a request's time went: on the CPU, or off it.

The kernel sums up how long each thread is off the CPU, and counts how often it was. Where one thread has received the request,
worked on it alone and sent the answer, and none of its switches between these two calls is missing from the sum, the
difference of both sums is the request's. Of several threads, of tasks, of goroutines and of threads that a runtime may run in
turn on one of the kernel's (Ruby's) nothing is said: others ran between.
"""

from __future__ import annotations

from dataclasses import replace

from kernelspan_agent.model import Segment
from kernelspan_agent.ring.records import ContextKind
from kernelspan_agent.trace.claims import Followed
from kernelspan_agent.trace.segments import CORRELATION
from kernelspan_api import semconv


def with_times(told: Segment, followed: Followed) -> Segment:
    """What the request's span says, with its times in ns where they are known."""
    first, last = followed.first, followed.last
    is_thread = followed.correlation == CORRELATION[ContextKind.THREAD] and not followed.own
    if first is None or last is None or not is_thread:
        return told
    found = last.since(first)
    if found is None:
        return told
    times = dict(zip((semconv.TIME_ON_CPU, semconv.TIME_OFF_CPU), found, strict=True))
    return replace(told, attributes={**told.attributes, **times})
