# SPDX-License-Identifier: Apache-2.0
"""Conditions on paths that user space decides: what is known, what has no path, and what was lost on the way."""

from __future__ import annotations

import msgspec
import pytest

from kernelspan_agent.resolve.judging import Judge
from kernelspan_api.userprobes import UserProbe

NUMBER, AT = 3, 0
MATCH = [
    {"args": [{"index": 0, "operator": "Prefix", "values": ["/secret/"]}]},
    {"args": [{"index": 0, "operator": "NotPrefix", "values": ["/secret/"]}]},
    {"returns": [{"operator": "GreaterThan", "values": ["0"]}]},
]
PROBE = {"name": "p", "kprobe": {"call": "vfs_read"}, "args": [{"index": 0, "type": "File", "attribute": "file.path"}]}


@pytest.fixture
def told() -> list[tuple[int, int, int, int]]:
    return []


@pytest.fixture
def judge(told: list[tuple[int, int, int, int]]) -> Judge:
    """One that knows the probe."""
    spec = msgspec.convert(PROBE | {"match": MATCH}, UserProbe)
    made = Judge([spec], lambda *words: told.append(words))
    assert made.judged(spec, NUMBER).arguments == (AT,)
    return made


@pytest.mark.parametrize(
    ("path_id", "text", "entries"),
    [(7, "/secret/key", 0b101), (7, "/etc/hosts", 0b110), (0, "", 0b110), (7, "", 0b100)],
    ids=["meets it", "does not", "no path", "lost"],
)
def test_a_path(judge: Judge, path_id: int, text: str, entries: int) -> None:
    """What has no path is not below the folder; of what was lost nobody knows it: neither the condition nor its opposite holds."""
    assert judge.path(NUMBER, AT, path_id, text) == entries


def test_what_was_lost_is_not_the_kernels_to_decide(judge: Judge, told: list[tuple[int, int, int, int]]) -> None:
    """It may be known of the next operation with that path."""
    judge.path(NUMBER, AT, 7, "")
    assert told == []
    judge.path(NUMBER, AT, 7, "/secret/key")
    assert told == [(7, NUMBER, AT, 0b101)]
