# SPDX-License-Identifier: Apache-2.0
"""What keeps spans of own probes few: durations, rates by process and node; and what makes one an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import own
from tests.support.otlp_json import ReceivedSpan
from tests.support.own import argument, function, returned

N = 97
BURST = 5


@pytest.fixture
def program() -> Path:
    return own.targets()


@pytest.mark.parametrize(
    ("scope", "buckets", "rate", "seconds_each"),
    [
        ("Process", 2, {"eventsPerSecond": 1}, 1),
        ("Pod", 1, {"eventsPerSecond": 1}, 1),
        ("Node", 1, {"eventsPerMinute": 60}, 1),
        ("Process", 2, {"eventsPerMinute": 6}, 10),
    ],
)
def test_rate_limits(
    program: Path, tmp_path: Path, scope: str, buckets: int, rate: dict[str, int], seconds_each: int
) -> None:
    """As many as the bucket holds and one for each interval that passes; the rest is counted. Outside pods all are one."""
    limit = {**rate, "burst": BURST, "scope": scope}
    probe = function("hidden", program, argument(0, "Int32"), mode="Event", rateLimit=limit)
    ran = own.run(tmp_path, [probe], "/bin/sh", "-c", f"{program} in-order {N} & {program} in-order {N}; wait")
    assert ran.status == 0, ran.stderr
    found = own.by_probe(ran)["hidden"]
    seconds = (max(span.start_ns for span in found) - min(span.start_ns for span in found)) / 1e9
    assert BURST * buckets <= len(found) <= (BURST + seconds / seconds_each) * buckets
    assert ran.balance["seen"] == 2 * N
    assert ran.balance["rateLimited"] == 2 * N - len(found)


def test_short_calls(program: Path, tmp_path: Path) -> None:
    """Those that took less are filtered, and nothing else is: the program sleeps in each tenth."""
    probe = function("plain", program, argument(0, "Int32"), minDurationMicroseconds=200)
    ran = own.run(tmp_path, [probe], program, "in-order", str(N))
    assert ran.status == 0, ran.stderr
    found = own.by_probe(ran)["plain"]
    assert all(span.end_ns - span.start_ns >= 200_000 for span in found)
    assert set(own.values(found, "a0")) >= {-i for i in range(0, N, 10)}
    assert (ran.balance["seen"], ran.balance["filtered"]) == (N, N - len(found))


ERRORS: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("range", {"operator": "InRange", "values": ["10:20"]}, "Int32", [str(each) for each in range(10, 21)]),
    ("equal", {"operator": "In", "values": ["7", "0x67"]}, "UInt8", ["7", "103"]),
    (
        "not-equal",
        {"operator": "NotEqual", "values": ["8"]},
        "Int64",
        [str(each + 7) for each in range(N) if each != 1],
    ),
    ("mask", {"operator": "Mask", "values": ["64"]}, "Size", [str(each) for each in range(64, 104)]),
    ("more", {"operator": "GreaterThan", "values": ["100"]}, "UInt64", ["101", "102", "103"]),
]


def test_errors(program: Path, tmp_path: Path) -> None:
    """Those results and no others make the span an error, of that type."""
    probes = [
        function(name, program, symbols=("hidden",), returns=returned(kind), errorWhen=when)
        for name, when, kind, _ in ERRORS
    ]
    ran = own.run(tmp_path, probes, program, "in-order", str(N))
    assert ran.status == 0, ran.stderr
    found = own.by_probe(ran)
    for name, _, _, wanted in ERRORS:
        failed = [span for span in found[name] if span.status == "ERROR"]
        assert len(found[name]) == N
        assert [_error(span) for span in failed] == wanted
        assert all("error.type" not in span.attributes for span in found[name] if span.status != "ERROR")


def _error(span: ReceivedSpan) -> str:
    assert str(span.attributes["r"]) == span.attributes["error.type"]
    return str(span.attributes["error.type"])
