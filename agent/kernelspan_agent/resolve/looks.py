# SPDX-License-Identifier: Apache-2.0
"""When a process whose runtime is not known yet is looked at again."""

from __future__ import annotations

# A loader maps a libpython within milliseconds; a program that embeds one may do so at any time later.
RETRY_NS = (1_000_000, 2_000_000, 5_000_000, 10_000_000, 50_000_000, 200_000_000, 1_000_000_000, 5_000_000_000)
AFTER_FORK_NS = 200_000_000  # a fallback that it has from its parent was right a moment ago; most end soon, or become another program
SOON = len(RETRY_NS) - 2  # after so many looks there is no hurry
_SLOW_NS, _SHARE_OF_AGE = 200_000_000, 8


def pause_ns(tries: int, age_ns: int, *, waits: bool) -> int | None:
    """The time until the next look after so many; None: it was the last.

    `waits`: the process has begun with a runtime that is not there yet. That takes as long as the machine lets it take: looks go on, the
    later the fewer, so that what it does before one is a small part of what it took to begin.
    """
    if not waits:
        return RETRY_NS[tries] if tries < len(RETRY_NS) else None
    return min(RETRY_NS[min(tries, len(RETRY_NS) - 1)], max(_SLOW_NS, age_ns // _SHARE_OF_AGE))
