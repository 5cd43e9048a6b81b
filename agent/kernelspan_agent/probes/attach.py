# SPDX-License-Identifier: Apache-2.0
"""Attaching: tracepoints by perf_event_open, raw tracepoints by bpf(2). An attachment is a descriptor; closing detaches.

Source: perf_event_open(2); tracepoint ids are in tracefs.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import bpf, perf

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached program."""

    name: str
    fd: int

    def missed(self) -> int | None:
        """Calls that the kernel left out, as more of them were under way than it keeps; None where it does not tell."""
        return bpf.link_missed(self.fd)

    def close(self) -> None:
        """Detaches."""
        os.close(self.fd)


class Tracefs:
    """Where the kernel lists its tracepoints."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def mounted(cls, candidates: tuple[Path, ...] = TRACEFS) -> Tracefs | None:
        """The mounted one, None where there is none. Raises PermissionError where we may not even look."""
        for root in candidates:
            try:
                (root / "events").stat()
            except FileNotFoundError:
                continue
            return cls(root)
        return None

    @classmethod
    def find(cls) -> Tracefs:
        """The mounted one; MachineError with the remedy where there is none, or none that we may read."""
        with contextlib.suppress(PermissionError):
            if (found := cls.mounted()) is not None:
                return found
            raise MachineError(
                "tracefs is not mounted",
                reason="TracepointNotFound",
                hint="mount it: mount -t tracefs tracefs /sys/kernel/tracing",
            )
        raise MachineError("tracefs may not be read", reason="PermissionDenied", hint="grant CAP_DAC_READ_SEARCH")

    def event_id(self, category: str, event: str) -> int | None:
        """A tracepoint's number; None where this kernel has no such tracepoint."""
        try:
            return int((self.root / "events" / category / event / "id").read_text())
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise MachineError(f"{self.root} may not be read", reason="PermissionDenied", hint="run as root") from error

    def field_offset(self, category: str, event: str, field: str) -> int:
        """Offset of a tracepoint's field in its record."""
        for line in (self.root / "events" / category / event / "format").read_text().splitlines():
            if f" {field};" in line and "offset:" in line:
                return int(line.split("offset:")[1].split(";")[0])
        raise MachineError(f"tracepoint {category}:{event} has no field {field}", reason="TracepointNotFound")


def tracepoint(tracefs: Tracefs, category: str, event: str, program_fd: int) -> Attachment | None:
    """Attaches a tracepoint program for all processes; None where the kernel has no such tracepoint."""
    number = tracefs.event_id(category, event)
    if number is None:
        return None
    try:
        fd = perf.attached(perf.TRACEPOINT_TYPE, number, program_fd)
    except OSError as error:
        raise _refused(f"{category}:{event}", error.errno or 0) from error
    return Attachment(f"{category}:{event}", fd)


def raw_tracepoint(name: str, program_fd: int) -> Attachment:
    """Attaches a raw tracepoint program."""
    try:
        return Attachment(name, bpf.raw_tracepoint_open(program_fd, name))
    except OSError as error:
        raise _refused(name, error.errno or 0) from error


def _refused(name: str, number: int) -> MachineError:
    reason = "PermissionDenied" if number in (1, 13) else "MechanismUnsupported"
    hint = "run as root, or grant CAP_PERFMON" if reason == "PermissionDenied" else ""
    return MachineError(f"tracepoint {name}: {os.strerror(number)}", reason=reason, hint=hint)
