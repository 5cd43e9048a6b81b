# SPDX-License-Identifier: Apache-2.0
"""docs/reference/runtimes.md, from what tests found that held stacks against what programs said: written by `make matrix`.

Whoever judges stacks notes what came of it here. The page is written at the end of a run in which every test of
tests/kernel/runtimes was asked for and none failed.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kernelspan_api import semconv
from tests.support.otlp_json import ReceivedSpan

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "runtimes.md"
TESTS = Path(__file__).resolve().parents[1] / "kernel" / "runtimes"
_HEAD = """# Runtimes

Written by `make matrix` from what it saw; do not edit. Programs note their own stack on the line of each of thousands of
operations, by what their runtime itself says of it (`sys._getframe`, `Error.captureStackTrace`, `runtime.Callers`, `Throwable.getStackTrace`,
`debug_backtrace`, `caller_locations`); every frame of the span's stack is held against that: function, file and line. They
run on Linux {release}, {machine}. A version is Debian's of the suite or of npm that is named, or built from Debian's source on musl.

"wrong": stacks with a frame, or a line, that is not what the program said. "without": operations whose stack is not known, by the reason that the span
gives ([what they mean](../how-to/read-the-accounting.md)); programs that drop code or end threads as fast as they can are among
them. "cut": of those that are right, stacks whose outermost frames are missing, and which say so. What does not work is listed in
[status](../status.md#known-gaps).

| runtime | version | libc | programs | operations | wrong | without | cut |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
_ID = re.compile(r"::(\w+)(?:\[(.*)\])? \(\w+\)$")


class Verdict(Protocol):
    """What came of holding spans against what was said."""

    said: int
    wrong: list[str]
    missing: Counter[str]
    truncated: int  # of the right ones


@dataclass
class Found:
    """What came of the tests of one version."""

    programs: set[str] = field(default_factory=set)
    said: int = 0
    wrong: int = 0
    truncated: int = 0
    missing: Counter[str] = field(default_factory=Counter)


_found: dict[tuple[str, str, str], Found] = {}


def note(spans: Iterable[Sequence[ReceivedSpan]], verdict: Verdict, label: str = "") -> None:
    """Counts what was said by programs of one runtime, whose name and version are those of their spans' resources.

    `label`: of the interpreter, which says whether it is musl's; empty: the test's own name says so.
    """
    named = {
        (str(span.resource[semconv.PROCESS_RUNTIME_NAME]), str(span.resource[semconv.PROCESS_RUNTIME_VERSION]))
        for several in spans
        for span in several
        if semconv.PROCESS_RUNTIME_NAME in span.resource
    }
    if len(named) != 1:
        return  # several at once, or none that was recognised: whose they are is not known here
    test = _ID.search(os.environ.get("PYTEST_CURRENT_TEST", ""))
    identifier = test[2] or "" if test else ""
    name, version = named.pop()
    found = _found.setdefault((name, version, "musl" if "musl" in (label or identifier) else "glibc"), Found())
    found.programs.add(test[1].removeprefix("test_").replace("_", " ") if test else "")
    found.said += verdict.said
    found.wrong += len(verdict.wrong)
    found.truncated += verdict.truncated
    found.missing += verdict.missing


def _order(key: tuple[str, str, str]) -> tuple[str, list[int], str]:
    return key[0], [int(part) for part in re.findall(r"\d+", key[1])], key[2]


def page() -> str:
    """The whole page."""
    lines = []
    for key in sorted(_found, key=_order):
        found = _found[key]
        without = ", ".join(f"{count:,} {why}" for why, count in sorted(found.missing.items()) if count) or "0"
        cells = (*key, "; ".join(sorted(found.programs)), f"{found.said:,}", f"{found.wrong:,}", without)
        lines.append(f"| {' | '.join(cells)} | {found.truncated:,} |\n")
    return _HEAD.format(release=platform.release(), machine=platform.machine()) + "".join(lines)


def write(asked_for: set[Path]) -> None:
    """Writes the page, if these files of tests are all that there are."""
    if asked_for >= set(TESTS.glob("test_*.py")):
        PAGE.write_text(page(), "utf-8")
