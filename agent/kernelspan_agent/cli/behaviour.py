# SPDX-License-Identifier: Apache-2.0
"""What libraries did, as a report has it and as people read it: operations, failures, destinations, folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernelspan_agent.process.procfs import printable
from kernelspan_agent.resolve.acts import NOBODY, OTHER
from kernelspan_agent.resolve.touched import Places, destination_text, folder_text

if TYPE_CHECKING:
    from kernelspan_agent.app import App

SHOWN_LIBRARIES, SHOWN_PLACES = 20, 3
_UNNAMED = {NOBODY: "no library", OTHER: "other libraries"}


def report(app: App) -> dict[str, Any]:
    """The libraries of a run, those that did most first. Where they went is known only if the run has counted it."""
    acts, touched = app.acts, app.only.touched

    def row(number: int) -> dict[str, Any]:
        kinds, failures = acts.by_kind(number), acts.failures(number)
        return {
            "operations": sum(kinds.values()),
            "byKind": kinds,
            "failures": sum(failures.values()),
            "failuresByKind": failures,
            "inStack": acts.inside(number),
            "destinations": _places(touched.destinations.get(number), destination_text, "destination")
            if touched
            else [],
            "folders": _places(touched.folders.get(number), folder_text, "folder") if touched else [],
        }

    found = []
    for number in acts.rows():
        if (library := acts.library(number)) is not None:
            named = {"name": library.name, "version": library.version, "purl": library.purl}
            found.append({key: printable(text) for key, text in named.items()} | row(number))
    found.sort(key=lambda each: (-each["operations"], -each["inStack"], each["name"]))
    return {
        "operations": acts.total,
        "noLibrary": row(NOBODY),
        "otherLibraries": row(OTHER),
        "libraries": found,
    }


def _places(places: Places | None, text: Callable[[Sequence[str]], str], key: str) -> list[dict[str, Any]]:
    if places is None:
        return []
    return [{key: text(place), "operations": count} for place, count in places.most()]


def table(found: Mapping[str, Any]) -> str:
    """The same for people; empty: nobody acted."""
    if not found["operations"]:
        return ""
    rows = [each for each in found["libraries"] if each["operations"] or each["inStack"]]
    shown = rows[:SHOWN_LIBRARIES]
    lines = ["", f"{'libraries':<40}{'operations':>12}{'failed':>9}{'in stack':>11}"]
    for each in shown:
        lines += _lines(f"{each['name']} {each['version']}".rstrip(), each)
    if left := rows[SHOWN_LIBRARIES:]:
        lines.append(_head(f"{len(left)} more", _sum(left)))
    if found["otherLibraries"]["inStack"]:
        lines += _lines("other libraries", found["otherLibraries"])
    lines += _lines("no library", found["noLibrary"])
    return "\n".join(lines)


def _lines(name: str, each: Mapping[str, Any]) -> Iterator[str]:
    yield _head(name, each)
    if purl := each.get("purl"):
        yield f"    {purl}"
    if each["byKind"]:
        kinds = sorted(each["byKind"].items(), key=lambda item: (-item[1], item[0]))
        yield "    " + ", ".join(f"{kind} {count:,}" for kind, count in kinds)
    for key, word in (("destination", "to"), ("folder", "in")):
        places = each[f"{key}s"]
        if places:
            more = places[SHOWN_PLACES:]
            texts = [f"{one[key]} {one['operations']:,}" for one in places[:SHOWN_PLACES]]
            texts += [f"{len(more)} more {sum(one['operations'] for one in more):,}"] if more else []
            yield f"    {word} " + ", ".join(texts)


def _head(name: str, each: Mapping[str, Any]) -> str:
    inside = f"{each['inStack']:>11,}" if each["inStack"] else ""
    return f"  {name:<38}{each['operations']:>12,}{each['failures']:>9,}{inside}"


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {key: sum(each[key] for each in rows) for key in ("operations", "failures")} | {"inStack": 0}
