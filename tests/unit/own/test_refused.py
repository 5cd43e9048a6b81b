# SPDX-License-Identifier: Apache-2.0
"""What a probe asks for that cannot be had, or would never hold, is refused with words that say so."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from kernelspan_agent.probes.own.located import Places
from kernelspan_agent.probes.own.sources import (
    ArgumentError,
    SystemCallFunction,
    TracepointRecord,
    Trampoline,
    UserFunction,
)
from kernelspan_agent.probes.tracefs import Tracepoint
from kernelspan_api.userprobes import UserProbe
from tests.support.own_generation import fields, generated, places_of, random_probe

_FUNCTION = Places([UserFunction()], [UserFunction(at_ret=True)])
_CALL = Places([SystemCallFunction(168)], [SystemCallFunction(168)])
_KERNEL = Places([Trampoline(3)], [Trampoline(3)])


def _probe(**more: Any) -> UserProbe:
    return msgspec.convert({"name": "x", "uprobe": {"path": "/x", "symbols": ["x"]}, **more}, UserProbe)


def _on(kind: str, operator: str, *values: str, **more: Any) -> dict[str, Any]:
    return {
        "args": [{"index": 0, "type": kind, "attribute": "a", **more}],
        "match": [{"args": [{"index": 0, "operator": operator, "values": list(values)}]}],
    }


def _result(operator: str, *values: str) -> dict[str, Any]:
    return {"errorWhen": {"operator": operator, "values": list(values)}}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (_on("Int8", "Equal", "128"), "128 is no Int8"),
        (_on("Int32", "LessThan", "0x80000000"), "is no Int32"),
        (_on("UInt64", "GreaterThan", "-1"), "-1 is no UInt64"),
        (_on("UInt16", "In", "1", "65536"), "65536 is no UInt16"),
        (_on("Bool", "Equal", "2"), "2 is no Bool"),
        (_on("Int32", "Equal", "many"), "no whole number"),
        (_on("Int32", "InRange", "5"), "no range"),
        (_on("Int32", "InRange", "0:4294967296"), "is no Int32"),
        (_on("Int32", "Prefix", "1"), "a number"),
        (_on("String", "Mask", "1"), "a text"),
        (_on("String", "Equal", "x" * 9, maxBytes=8), "raise maxBytes"),
        (_on("SockAddr", "Protocol", "6"), "cannot be compared"),
        (_on("SockAddr", "Family", "AF_BANANA"), "none of"),
        (_result("Equal", "ENOENT"), "no whole number"),
        (_result("InRange", "0:x"), "no whole number"),
        (_result("Prefix", "0"), "a number"),
        ({"returns": {"type": "UInt8", "attribute": "r"}, **_result("LessThan", "-1")}, "is no UInt8"),
        ({"returns": {"type": "File", "attribute": "r"}}, "File"),
        ({"returns": {"type": "GoString", "attribute": "r"}}, "several registers"),
        (
            {"args": [{"index": index, "type": "Bytes", "attribute": "a", "maxBytes": 4096} for index in range(3)]},
            "at most",
        ),
    ],
)
def test_refused(more: dict[str, Any], says: str) -> None:
    """Before anything is compiled."""
    with pytest.raises(ArgumentError, match=says):
        generated(_probe(**more), _FUNCTION)


@pytest.mark.parametrize("kind", ["File", "Path", "Sock", "Cred"])
@pytest.mark.parametrize("places", [_FUNCTION, _CALL], ids=["function", "call"])
def test_what_a_program_passes_is_none_of_the_kernels(kind: str, places: Places) -> None:
    """Else a program could name any address of the kernel's, and have it read."""
    probe = _probe(args=[{"index": 0, "type": kind, "attribute": "a"}])
    with pytest.raises(ArgumentError, match="struct of the kernel"):
        generated(probe, places)
    assert generated(probe, _KERNEL).text


def test_an_array_is_no_length() -> None:
    """A Go string's length is the field behind it: where that is an array the verifier would refuse its address as one."""
    record = TracepointRecord(Tracepoint("syscalls", "sys_enter_x", 1, fields()), is_call=True)
    event = {"category": "syscalls", "event": "sys_enter_x"}

    def made(index: int) -> str:
        of = [{"index": index, "type": "GoString", "attribute": "a"}]
        probe = msgspec.convert({"name": "x", "mode": "Event", "tracepoint": event, "args": of}, UserProbe)
        return generated(probe, Places([record])).text

    assert [each.name for each in record.fields[6:9]] == ["s64", "pointer", "comm"]
    assert made(6)
    with pytest.raises(ArgumentError, match="an array"):
        made(7)


def test_the_same_shape_is_the_same_text() -> None:
    """Names, attributes and limits are no part of the text: such probes share one compile."""
    chance = random.Random(7)
    for _ in range(50):
        document = random_probe(chance)
        probe = msgspec.convert(document, UserProbe)
        try:
            places = places_of(probe, random.Random(1))
            text = generated(probe, places).text
        except ArgumentError:
            continue
        other = {
            **document,
            "name": "other",
            "span": {"name": "else", "kind": "Server", "attributes": {"a": '"'}},
            "rateLimit": {"eventsPerSecond": 3},
            "args": [{**each, "attribute": f"other.{index}"} for index, each in enumerate(document.get("args", []))],
        }
        assert generated(msgspec.convert(other, UserProbe), places).text == text
