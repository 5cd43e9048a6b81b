# SPDX-License-Identifier: Apache-2.0
"""What libraries did, for people: the most first, a bounded page, and what was left out said with its sum."""

from __future__ import annotations

from typing import Any

from kernelspan_agent.cli import behaviour
from kernelspan_agent.cli.behaviour import SHOWN_LIBRARIES, SHOWN_PLACES
from kernelspan_agent.cli.loaded import Loaded, as_object, page
from kernelspan_agent.model import Library


def row(operations: int, **more: Any) -> dict[str, Any]:
    found = {"operations": operations, "byKind": {"file.open": operations} if operations else {}, "failures": 0}
    return {**found, "failuresByKind": {}, "inStack": operations, "destinations": [], "folders": [], **more}


def library(name: str, operations: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "purl": f"pkg:pypi/{name}@1.0", **row(operations, **more)}


def report(*libraries: dict[str, Any], nobody: int = 0, other: int = 0) -> dict[str, Any]:
    total = nobody + other + sum(each["operations"] for each in libraries)
    named = {"noLibrary": row(nobody, inStack=0), "otherLibraries": row(other)}
    return {"operations": total, **named, "libraries": list(libraries)}


def test_a_library() -> None:
    """Numbers, package URL, kinds by their number, where it went; of many places the rest is summed."""
    places = [{"folder": f"/{at}/", "operations": 10 - at} for at in range(SHOWN_PLACES + 2)]
    peers = [{"destination": "192.0.2.1:80", "operations": 4}]
    kinds = {"file.open": 2, "socket.connect": 1200}
    one = library("redis", 1202, byKind=kinds, failures=3, inStack=2000, folders=places, destinations=peers)
    lines = behaviour.table(report(one, nobody=7)).splitlines()
    assert lines[1].split() == ["libraries", "operations", "failed", "in", "stack"]
    assert lines[2].split() == ["redis", "1.0", "1,202", "3", "2,000"]
    assert [line.strip() for line in lines[3:7]] == [
        "pkg:pypi/redis@1.0",
        "socket.connect 1,200, file.open 2",
        "to 192.0.2.1:80 4",
        "in /0/ 10, /1/ 9, /2/ 8, 2 more 13",
    ]
    assert lines[7].split() == ["no", "library", "7", "0"]


def test_many_libraries() -> None:
    """Those that did most are shown; of the others how many there are and what they did."""
    many = [library(f"lib{at}", 100 - at) for at in range(SHOWN_LIBRARIES + 5)]
    text = behaviour.table(report(*many, other=9))
    assert "lib19 1.0" in text
    assert "lib20" not in text
    assert f"5 more{sum(100 - at for at in range(20, 25)):>44,}" in text
    assert "other libraries" in text


def test_nothing_happened() -> None:
    """No table for nothing; a library that only stands in stacks is there."""
    assert behaviour.table(report()) == ""
    assert "requests 1.0" in behaviour.table(report(library("requests", 0, inStack=3), nobody=3))


def test_loaded_and_acted_are_joined() -> None:
    """By name, version and package URL; what acted and is gone has no place, what is loaded and idle is listed."""
    loaded = Loaded(
        libraries={Library("a", "1.0", "pkg:pypi/a@1.0"): {"stack", "module"}, Library("b", "", ""): {"mapped"}}
    )
    done = {**report(library("a", 5), library("c", 2), nobody=1), "seconds": 2.0}
    counts = {"rateLimited": 4, "inFlight": 0, "dropped": {"RingFull": 2}}
    found = as_object(loaded, {**done, "accounting": counts})
    assert [(each["name"], each["operations"], each["loaded"]) for each in found["libraries"]] == [
        ("a", 5, ["module", "stack"]),
        ("c", 2, []),
        ("b", 0, ["mapped"]),
    ]
    text = "\n".join(page(found))
    assert "2 loaded, 2 acted" in text
    assert "traced      2.0 s, 8 operations; 6 more were not counted" in text
    assert "not seen in any operation (1)\n  b" in text
