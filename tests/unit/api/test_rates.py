# SPDX-License-Identifier: Apache-2.0
"""Rates of a probe: a second's or a minute's, as the kernel counts them."""

from __future__ import annotations

import pytest

from kernelspan_api.userprobes import RateLimit

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("limit", "interval", "burst"),
    [
        (RateLimit(events_per_second=500), SECOND // 500, SECOND),
        (RateLimit(events_per_second=500, burst=1000), SECOND // 500, 2 * SECOND),
        (RateLimit(events_per_second=10_000_000), 100, SECOND),
        (RateLimit(events_per_minute=6), 10 * SECOND, 60 * SECOND),
        (RateLimit(events_per_minute=1), 60 * SECOND, 60 * SECOND),
        (RateLimit(events_per_minute=12, burst=1), 5 * SECOND, 5 * SECOND),
        (RateLimit(events_per_minute=90), SECOND * 60 // 90, SECOND * 60 // 90 * 90),
    ],
)
def test_from_one_token_to_the_next_and_until_the_bucket_is_full(limit: RateLimit, interval: int, burst: int) -> None:
    """Whole nanoseconds; without burst as many as the rate says."""
    assert (limit.interval_ns, limit.burst_ns) == (interval, burst)


def test_the_slowest_with_the_largest_bucket_is_still_a_number_of_the_kernels() -> None:
    """64 bits without a sign."""
    assert RateLimit(events_per_minute=1, burst=10_000_000).burst_ns < 1 << 64
