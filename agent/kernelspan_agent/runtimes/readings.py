# SPDX-License-Identifier: Apache-2.0
"""A stack read from outside, whose thread nothing stops meanwhile.

It is read until two readings in a row agree. A thread that runs on changes its innermost frames all the time: then the
outer frames that two readings have in common are given and the stack is RUNNING.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE

MAX_FRAMES = 512
READINGS = 8
_Frame = TypeVar("_Frame")


def agreed(read: Callable[[], Iterator[_Frame]], corrupt: tuple[type[Exception], ...] = ()) -> tuple[list[_Frame], str]:
    """Frames, innermost first, and the state of their stack.

    `read` gives those of one reading, as many as it likes beyond MAX_FRAMES; it may raise MemoryReadError and `corrupt`.
    """
    unread: tuple[type[Exception], ...] = (MemoryReadError, *corrupt)
    before: list[_Frame] | None = None
    common: list[_Frame] = []
    for _ in range(READINGS):
        try:
            now = list(read())
        except unread:
            before = None
            continue
        if now == before:
            return now[:MAX_FRAMES], TRUNCATED if len(now) > MAX_FRAMES else COMPLETE
        if before is not None and len(now) <= MAX_FRAMES:
            common = max(common, _outer(before, now), key=len)
        before = now
    return common, RUNNING if common else UNREADABLE


def _outer(one: Sequence[_Frame], other: list[_Frame]) -> list[_Frame]:
    """The frames from the outermost inwards that two readings share."""
    count = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        count += 1
    return other[len(other) - count :]
