# SPDX-License-Identifier: Apache-2.0
"""docs/reference/kernels.md, from what the guests found: written by `make matrix`, never by hand."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.probing import MECHANISMS, SLEEPERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "kernels.md"
_HEAD = """# Kernels

Written by `make matrix` from what it saw; do not edit. Each kernel is Debian's, booted by qemu on this machine's files.
There programs are loaded and attached by each mechanism (Fentry: those of a profile of eight calls; else all), and one Python
program is traced: "same spans" says that its operations have the names, functions, files, lines, paths, peers and results that they have on the machine that ran
the tests ({here}), and as many of each.

"instructions" is what the kernel's verifier follows to accept the program that costs it most; it gives up at 1,000,000.
"skipped" is how often the kernel left out a program of ours because another thread was interrupted in the middle of it
on the same CPU (its accounting: reason Skipped): 7.2 runs programs of system calls with preemption on. One emulated CPU
shows far more of it than a real one.

| kernel | Debian | mechanism | programs | instructions | attached | operations | same spans | skipped |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


_PROBING_TITLE = "\n## Probes of the user's own\n"
_PROBING_HEAD = """
Each mechanism as `kernelspan check` proves it: a program that counts is attached, what it is attached to is called, and the
count is read. "returns" is how many of {sleepers} returns are seen where that many threads are inside one function at
once (one CPU): kretprobes keep room for a few, and say since Linux 6.7 how many they left out.

"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel with one mechanism. `report`: of `kernelspan run`; `same`: whether its spans are those seen here."""

    release: str
    suite: str
    mechanism: str
    costs: Mapping[str, Any]
    attached: Sequence[str]
    report: Mapping[str, Any]
    same: bool

    def line(self) -> str:
        """Its line in the table."""
        dearest = max(self.costs, key=lambda name: self.costs[name])
        cells = (
            self.release,
            self.suite,
            self.mechanism,
            f"{len(self.costs)}",
            f"{self.costs[dearest]:,} ({dearest})",
            f"{len(self.attached)}",
            f"{self.report['operations']['seen']}",
            "yes" if self.same else "no",
            f"{self.report.get('skipped', 0)}" if _counts_skips(self.release) else "not counted by this kernel",
        )
        return f"| {' | '.join(cells)} |\n"


def _counts_skips(release: str) -> bool:
    """bpf_prog_info has had recursion_misses since 5.12."""
    major, minor = (int(part) for part in release.split(".")[:2])
    return (major, minor) >= (5, 12)


def write_tracing(rows: Sequence[Row]) -> None:
    """The page's first part."""
    here = f"Linux {platform.release().split('-')[0]}"
    _, title, rest = PAGE.read_text().partition(_PROBING_TITLE)
    PAGE.write_text(_HEAD.format(here=here) + "".join(row.line() for row in rows) + title + rest)


def write_probing(found: Mapping[str, Any]) -> None:
    """Its second part. `found`: what each kernel's guest found (tests.vm.probing.survey), by release."""
    before, _, _ = PAGE.read_text().partition(_PROBING_TITLE)
    PAGE.write_text(before + _PROBING_TITLE + _probing(found))


def _probing(found: Mapping[str, Any]) -> str:
    names = list(next(iter(found.values()))["checks"])
    table = [["mechanism", *found], ["---"] * (len(found) + 1)]
    table += [[name, *(_state(each["checks"][name]) for each in found.values())] for name in names]
    table += [
        [f"returns by {mechanism.value}", *(_returns(each["blocked"].get(mechanism.value)) for each in found.values())]
        for mechanism in MECHANISMS
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return _PROBING_HEAD.format(sleepers=SLEEPERS) + "\n".join(lines) + "\n"


def _state(check: Mapping[str, str]) -> str:
    return {"ok": "yes", "no": "no"}.get(check["state"], "not known")


def _returns(blocked: Mapping[str, Any] | None) -> str:
    if blocked is None:
        return "-"
    missed = blocked["missed"][1]
    return f"{blocked['left']}" + (f", {missed} told as missed" if missed else "")
