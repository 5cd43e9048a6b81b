# SPDX-License-Identifier: Apache-2.0
"""What is kept of a call is as large as what it reads: room behind it is there only for texts compared by their ends."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.sources import Trampoline
from kernelspan_agent.ring.records import ARGUMENT, ARGUMENTS_HEADER, SLOT
from kernelspan_api.userprobes import UserProbe
from tests.support.own_generation import generated

_KERNEL = Places([Trampoline(3)], [Trampoline(3)])
_ARGS = [
    {"index": 0, "type": "String", "attribute": "a", "maxBytes": 62},
    {"index": 1, "type": "File", "attribute": "b"},
    {"index": 2, "type": "Int32", "attribute": "c"},
]
_HEAD = ARGUMENTS_HEADER.itemsize + len(_ARGS) * ARGUMENT.itemsize


def _data_bytes(*conditions: dict[str, Any]) -> int:
    spec = {"name": "x", "kprobe": {"call": "x"}, "args": _ARGS, "match": [{"args": [each]} for each in conditions]}
    found = re.search(r"u8 data\[(\d+)\]", generated(msgspec.convert(spec, UserProbe), _KERNEL).text)
    assert found
    return int(found[1])


def _on(index: int, operator: str, value: str) -> dict[str, Any]:
    return {"index": index, "operator": operator, "values": [value]}


@pytest.mark.parametrize(
    "conditions",
    [
        [],
        [_on(0, "Prefix", "/etc/")],
        [_on(0, "Equal", "/etc/passwd"), _on(2, "Equal", "1")],
        [_on(1, "Suffix", ".so")],  # decided in user space
    ],
)
def test_no_more_than_is_sent(conditions: list[dict[str, Any]]) -> None:
    """The data, up to the end of the ring's slot that the record ends in."""
    assert 64 <= _data_bytes(*conditions) < 64 + SLOT + 8
    assert (_HEAD + 64) % SLOT  # else there is no such end to see


@pytest.mark.parametrize("operator", ["Suffix", "NotSuffix"])
def test_room_for_a_text_that_is_compared_by_its_end(operator: str) -> None:
    """From wherever its length may point to, all that is compared lies in the value."""
    compared = "x" * 62
    assert _data_bytes(_on(0, operator, compared)) >= 63 + len(compared)
    assert _data_bytes(_on(0, operator, compared)) > _data_bytes(_on(0, "Prefix", compared))
