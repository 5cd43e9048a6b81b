# SPDX-License-Identifier: Apache-2.0
"""Calls that the kernel did not show the programs of a probe, by reason. They are calls of any process: nobody has asked yet
whose they are, so they are told beside a profile's balance and not in it.

Source: struct bpf_link_info (`missed`, Linux 6.7), struct bpf_prog_info (`recursion_misses`: Linux 5.12 for fentry and raw
tracepoints, 6.7 for tracepoints and kprobes).
"""

from __future__ import annotations

import platform
from collections import Counter as Sums
from collections.abc import Iterable
from dataclasses import dataclass, field

from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.probes.build import kernel_version_code

RECURSION = "Recursion"  # the CPU was in the midst of another program, or of a probe
TOO_MANY = "TooManyInside"  # returns: more calls under way at once than the kernel keeps room for
_TRACEPOINTS_COUNT = kernel_version_code("6.7.0")


@dataclass(slots=True)
class Missed:
    """What one probe has missed since it was first attached. `sums`: by reason; None: nobody counts that."""

    sums: Sums[str] | None = None
    _before: Sums[str] = field(default_factory=Sums)  # by attachments that are closed
    _links: Sums[str] = field(default_factory=Sums)  # by those that are open, when last looked at

    def look(self, kind: int, attachments: Iterable[Attachment], programs: Iterable[int]) -> None:
        """Asks the kernel. `kind`: of the probe's programs, one of bpf.PROG_*; `programs`: their descriptors."""
        found = [(each.returns, each.missed()) for each in attachments]
        by_programs = [bpf.prog_missed(fd) for fd in programs]
        if not found or not _is_counted(kind, found, by_programs):
            return
        self._links = Sums[str]()
        for returns, missed in found:
            self._links[TOO_MANY if returns else RECURSION] += missed or 0
        recursion = Sums({RECURSION: sum(each or 0 for each in by_programs)})
        self.sums = self._before + self._links + recursion

    def close(self) -> None:
        """The attachments that were looked at are closed now."""
        self._before += self._links
        self._links = Sums[str]()


def _is_counted(kind: int, links: list[tuple[bool, int | None]], programs: list[int | None]) -> bool:
    if kind == bpf.PROG_KPROBE:
        return all(missed is not None for _, missed in links)
    if kind == bpf.PROG_TRACEPOINT:
        return kernel_version_code(platform.release()) >= _TRACEPOINTS_COUNT
    return None not in programs
