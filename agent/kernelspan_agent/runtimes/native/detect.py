# SPDX-License-Identifier: Apache-2.0
"""Whether a process is a program for x86-64: asked of those that no runtime claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernelspan_agent.process.elf import EM_X86_64, read_elf
from kernelspan_agent.process.errors import ElfError
from kernelspan_agent.runtimes.registry import DetectedRuntime, Detection

if TYPE_CHECKING:
    from kernelspan_agent.runtimes.look import Look

NAME, NUMBER = "native", 7
_ROW = np.zeros(1, np.dtype([("reserved", "<u8")]))  # there is one layout: the processor's


def detect(look: Look) -> Detection:
    """The process's program. Raises ProcessError where the process cannot be read."""
    for file in look.own:
        if file.ask(NAME, inspect):
            return DetectedRuntime(NAME, NUMBER, NAME, "", file.path, _ROW, 0)
    return None


def inspect(fd: int, name: str) -> bool | None:
    """Whether an open file is such a program; None: it is none."""
    del name
    try:
        return True if read_elf(fd).machine == EM_X86_64 else None
    except ElfError:
        return None
