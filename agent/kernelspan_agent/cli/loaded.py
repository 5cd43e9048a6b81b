# SPDX-License-Identifier: Apache-2.0
"""Which libraries processes have loaded, together with what they did: as an object, and as people read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernelspan_agent.cli import behaviour
from kernelspan_agent.cli.explain_pid import examine
from kernelspan_agent.cli.living import Living
from kernelspan_agent.errors import UsageError
from kernelspan_agent.libraries.base import Libraries
from kernelspan_agent.model import Library
from kernelspan_agent.process.procfs import printable
from kernelspan_agent.runtimes.registry import DetectedRuntime, Unsupported

if TYPE_CHECKING:
    from kernelspan_agent.process.procfs import Process

MAX_PROCESSES = 64  # looked at; each takes some tenths of a second
MAX_LIBRARIES = 4096
_WIDTH = 100
Key = tuple[str, str, str]


@dataclass(slots=True)
class Loaded:
    """What was found in processes, over several looks."""

    processes: dict[int, Living] = field(default_factory=dict)
    not_examined: int = 0
    libraries: dict[Library, set[str]] = field(default_factory=dict)
    sites: dict[str, int] = field(default_factory=dict)
    _index: Libraries = field(default_factory=Libraries)

    def look(self, processes: Sequence[Process], *, again: bool = False) -> None:
        """Looks at them; `again`: those that have ended stay as they were.

        Raises UsageError where all have ended, MachineError where one may not be read.
        """
        self.not_examined = max(0, len(processes) - MAX_PROCESSES)
        for process in processes[:MAX_PROCESSES]:
            try:
                found = examine(process.pid, modules=True, libraries=self._index)
            except UsageError:
                if not again and len(processes) == 1:
                    raise
                continue
            if found.process != process:  # another has its pid
                continue
            self.processes[process.pid] = found
            self.sites.update(found.sites)
            for library, places in found.libraries.items():
                if library in self.libraries or len(self.libraries) < MAX_LIBRARIES:
                    self.libraries.setdefault(library, set()).update(places)


def as_object(loaded: Loaded, done: Mapping[str, Any] | None) -> dict[str, Any]:
    """All of it, as --json shows it. `done`: what `watch` gave; None: nothing was traced."""
    idle = {"operations": 0, "byKind": {}, "failures": 0, "failuresByKind": {}, "inStack": 0}
    nothing = {**idle, "destinations": [], "folders": []}
    rows: dict[Key, dict[str, Any]] = {}
    for each in done["libraries"] if done else ():
        key = each["name"], each["version"], each["purl"]
        rows[key] = {**dict(zip(("name", "version", "purl"), key, strict=True)), "loaded": [], **each}
    for library, places in loaded.libraries.items():
        key = printable(library.name), printable(library.version), printable(library.purl)
        named = dict(zip(("name", "version", "purl"), key, strict=True))
        rows.setdefault(key, {**named, "loaded": [], **nothing})["loaded"] = sorted(places)
    return {
        "processes": [_process(found) for found in loaded.processes.values()],
        "notExamined": loaded.not_examined,
        "seconds": done["seconds"] if done else 0.0,
        "accounting": done["accounting"] if done else None,
        "operations": done["operations"] if done else 0,
        "noLibrary": done["noLibrary"] if done else nothing,
        "otherLibraries": done["otherLibraries"] if done else nothing,
        "libraries": sorted(
            rows.values(), key=lambda each: (-each["operations"], -each["inStack"], each["name"].lower())
        ),
        "sites": [{"directory": printable(path), "distributions": count} for path, count in loaded.sites.items()],
    }


def _process(found: Living) -> dict[str, Any]:
    detection = found.detection
    is_known = isinstance(detection, DetectedRuntime)
    return {
        "pid": found.process.pid,
        "executable": printable(found.executable),
        "runtime": f"{detection.implementation} {detection.version}".rstrip()
        if isinstance(detection, DetectedRuntime)
        else None,
        "unsupported": detection.reason if isinstance(detection, Unsupported) else None,
        "modules": found.modules if is_known else None,
    }


def page(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    lines = [_process_line(each) for each in found["processes"]]
    if found["notExamined"]:
        lines.append(f"  and {found['notExamined']} more that were not looked at")
    lines += [f"site        {each['directory']}: {each['distributions']} distributions" for each in found["sites"]]
    loaded = [each for each in found["libraries"] if each["loaded"]]
    acted = [each for each in found["libraries"] if each["operations"] or each["inStack"]]
    lines.append(f"libraries   {len(loaded)} loaded" + (f", {len(acted)} acted" if found["accounting"] else ""))
    if found["accounting"] is not None:
        lines += _traced(found)
    idle = [each for each in loaded if each not in acted]
    if idle:
        lines += ["", f"loaded, and not seen in any operation ({len(idle)})"] if found["accounting"] else [""]
        text = ", ".join(f"{each['name']} {each['version']}".rstrip() for each in idle)
        lines += textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _process_line(each: Mapping[str, Any]) -> str:
    runtime = each["runtime"] or each["unsupported"] or "no runtime that kernelspan knows"
    modules = "" if each["modules"] is None else f", {each['modules']} modules"
    return f"process     {each['pid']} {each['executable']}: {runtime}{modules}"


def _traced(found: Mapping[str, Any]) -> Iterator[str]:
    counted = found["accounting"]
    lost = counted["rateLimited"] + counted["inFlight"] + sum(counted["dropped"].values())
    missed = f"; {lost:,} more were not counted, being too many at once" if lost else ""
    yield f"traced      {found['seconds']:.1f} s, {found['operations']:,} operations{missed}"
    if table := behaviour.table(found):
        yield table
