# SPDX-License-Identifier: Apache-2.0
"""Where a probe on a function's return would break the program: Go code, and kernels whose uretprobes die under seccomp.

A uretprobe puts another return address on the stack. Go's runtime walks and moves its stacks and ends the program at an
address that it does not know. On x86-64 Linux 6.11 made the return a system call, which filters of seccomp did not know:
programs in containers were killed, until the kernel passed it by every filter (6.14, and stable kernels of then). Which
kernel it is, is found out by letting a program of our own (`specimen`) return under such a filter.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import specimen, uprobe
from kernelspan_agent.probes.proofs import counting
from kernelspan_agent.process.elf import MAX_NOTE_BYTES, read_at, read_elf
from kernelspan_agent.process.errors import ElfError

_GO_SECTIONS = (".go.buildinfo", ".gopclntab", ".note.go.buildid")
_GO_NOTE = b"\x04\x00\x00\x00Go\x00\x00"  # type and name of the build id's
_PT_NOTE = 4
_REASON = "UretprobeUnsafe"


def require_safe(file: int) -> None:
    """Raises MachineError (UretprobeUnsafe) where a uretprobe on the file open at `file` could break who runs it."""
    if is_go(file):
        raise MachineError(
            "the file is of Go: its runtime ends it when its return addresses are changed",
            reason=_REASON,
            hint="the agent probes a Go function's RET instructions instead; or use mode Event",
        )
    if survives_seccomp() is False:
        raise MachineError(
            "this kernel kills a program under seccomp at the return of a probed function",
            reason=_REASON,
            hint="use mode Event, or a kernel whose seccomp passes uretprobe (6.14, or a newer stable one of 6.12)",
        )


def is_go(file: int) -> bool:
    """Whether the file open at `file` (also O_PATH) says that Go made it; what says so stays when it is stripped.

    A file that cannot be read, or is no ELF file that we read, is none.
    """
    try:
        fd = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        elf = read_elf(fd)
        notes = (
            read_at(fd, each.offset, min(each.file_bytes, MAX_NOTE_BYTES))
            for each in elf.segments
            if each.kind == _PT_NOTE
        )
        return any(elf.section(name) for name in _GO_SECTIONS) or any(_GO_NOTE in note for note in notes)
    except ElfError:
        return False
    finally:
        os.close(fd)


@cache
def survives_seccomp() -> bool | None:
    """Whether a program under a filter of seccomp lives through a uretprobe; None where it could not be tried."""
    if not specimen.AVAILABLE:
        return None
    with (
        contextlib.suppress(OSError, MachineError),
        counting() as counter,
        counter.loaded(uprobe.KIND, uprobe.target()) as program,
    ):
        with specimen.file(filtered=True) as fd:
            if specimen.run(fd) != 0:
                return None  # it does not even run without a probe
            attachment = uprobe.uprobe(fd, specimen.FUNCTION, program, returns=True)
            try:
                status = specimen.run(fd)
            finally:
                attachment.close()
        return status == 0 and counter.value() == specimen.CALLS
    return None
