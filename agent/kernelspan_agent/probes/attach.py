# SPDX-License-Identifier: Apache-2.0
"""Attaching: tracepoints by perf_event_open, raw tracepoints by bpf(2). An attachment is a descriptor; closing detaches.

Source: perf_event_open(2); the numbers of tracepoints are in tracefs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kernelspan_agent.probes import bpf, perf
from kernelspan_agent.probes.refusals import refused
from kernelspan_agent.probes.tracefs import Tracefs


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached program. `returns`: where functions end."""

    name: str
    fd: int
    returns: bool = False

    def missed(self) -> int | None:
        """Calls that the kernel left out, as more of them were under way than it keeps; None where it does not tell."""
        return bpf.link_missed(self.fd)

    def close(self) -> None:
        """Detaches."""
        os.close(self.fd)


def tracepoint(tracefs: Tracefs, category: str, event: str, program_fd: int) -> Attachment | None:
    """Attaches a tracepoint program for all processes; None where the kernel has no such tracepoint."""
    number = tracefs.event_id(category, event)
    if number is None:
        return None
    try:
        fd = perf.attached(perf.TRACEPOINT_TYPE, number, program_fd)
    except OSError as error:
        raise refused(f"tracepoint {category}:{event}", error) from error
    return Attachment(f"{category}:{event}", fd)


def raw_tracepoint(name: str, program_fd: int) -> Attachment:
    """Attaches a raw tracepoint program."""
    try:
        return Attachment(name, bpf.raw_tracepoint_open(program_fd, name))
    except OSError as error:
        raise refused(f"tracepoint {name}", error) from error
