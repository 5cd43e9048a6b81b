# SPDX-License-Identifier: Apache-2.0
"""What the kernel is to look at of asyncio in one process, beyond what a thread's own state leads to: three words.

1. RUNNING_TASKS: the address of `_asyncio._current_tasks`, which says for each loop which task it is in the step of. It is
   needed where no Handle of asyncio's runs the step (uvloop), and where a task begins in the midst of another's step (3.12).
   From 3.14 on the thread's state says it.
2. TASK_COUNT: the address of the count that asyncio names its tasks by. It is a word of the module's own: of its state since
   3.12, before of what the linker fills with zeros. That it is this one is known by what it holds, since nothing else there
   counts so far: the one word between FEW and MANY, which is higher at another look. So it is found once that many tasks were.
3. HANDING: the code object of the function that the threads of a pool run, and above its address the number of the local
   variable that holds the future of who waits for the work.

Where something is not as expected the word stays 0, and what depends on it is not claimed. Read are Modules/_asynciomodule.c,
Include/internal/pycore_moduleobject.h, Include/moduleobject.h (m_size), Include/cpython/code.h; anyio's backend for asyncio.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kernelspan_agent.process import files, procfs
from kernelspan_agent.process.elf import PT_LOAD, load_bias, read_elf
from kernelspan_agent.process.errors import MemoryReadError, ProcessError
from kernelspan_agent.process.memory import read_u64

from .layout import ABSENT
from .modules import find_module, find_variable
from .objects import CorruptObjectError, is_alive, is_text

if TYPE_CHECKING:
    from kernelspan_agent.process.memory import Memory
    from kernelspan_agent.process.procfs import Process
    from kernelspan_agent.runtimes.registry import DetectedRuntime

    from .layout import Offsets
    from .symbolise import PythonSymboliser

FEW, MANY = 256, 1 << 40  # 255 is what a list of free objects may count to; beyond 2^40 begin addresses
HANDING = "anyio._backends._asyncio.WorkerThread.run"  # known by its name since 3.11, where names are qualified
MAX_TRIES = 16
MAX_STATE_BYTES = 1 << 14
MAX_LOCALS = 64
_FIRST_WITH_STATE = 12
_MODULE_DEFINITION, _MODULE_STATE, _STATE_SIZE = 24, 32, 56
_LIBRARY = "/_asyncio."
_TUPLE_LENGTH = 16
_UNSOUND = (MemoryReadError, CorruptObjectError, ProcessError)


class Loops:
    """Of one process; asked again and again, as long as it lives."""

    waits = False

    def __init__(
        self, found: DetectedRuntime, process: Process, memory: Memory, symboliser: PythonSymboliser, tables: object
    ) -> None:
        del tables  # its walker has none
        self._found, self._process, self._memory, self._symboliser = found, process, memory, symboliser
        self._offsets: Offsets = found.details.offsets
        self._module = self._running = self._count = self._handing = self._tries = 0
        self._candidate: tuple[int, int] | None = None  # that may be the count, and what it was

    def unmapped(self) -> None:
        """Nothing: its walks do not go by what is mapped."""

    def words(self) -> tuple[int, int, int]:
        """As far as they are known by now."""
        if self._symboliser.has_loops:
            try:
                if not self._module and self._tries < MAX_TRIES:
                    self._tries += 1
                    self._find()
                if self._module and not self._count:
                    self._look_for_count()
                if not self._handing:
                    self._look_for_pool()
            except _UNSOUND:
                pass
        return self._running, self._count, self._handing

    def _find(self) -> None:
        types = self._found.details.types
        module = find_module(self._found, self._memory, b"_asyncio")
        if module is None:
            return
        if self._offsets.ts_running_task == ABSENT:
            tasks = find_variable(self._found, self._memory, module, b"_current_tasks")
            if tasks is not None and is_alive(self._memory, tasks, types.dict, self._offsets):
                self._running = tasks
        self._module = module

    def _look_for_count(self) -> None:
        start, size = self._own_words()
        if not 0 < size <= MAX_STATE_BYTES:
            return
        words = struct.unpack(f"<{size // 8}Q", self._memory.read(start, size // 8 * 8))
        found = [(start + 8 * at, word) for at, word in enumerate(words) if FEW < word < MANY]
        if len(found) != 1:
            self._candidate = None
            return
        before, self._candidate = self._candidate, found[0]
        if before is not None and before[0] == found[0][0] and before[1] < found[0][1]:
            self._count = found[0][0]

    def _own_words(self) -> tuple[int, int]:
        """Where what the module keeps for itself begins, a multiple of 8, and its length; 0: not known."""
        if self._offsets.minor >= _FIRST_WITH_STATE:
            definition = read_u64(self._memory, self._module + _MODULE_DEFINITION)
            return read_u64(self._memory, self._module + _MODULE_STATE), read_u64(
                self._memory, definition + _STATE_SIZE
            )
        mappings = [each for each in procfs.read_maps(self._process) if _LIBRARY in each.path]
        if not mappings:
            return 0, 0
        with files.open_mapping(self._process, mappings[0]) as fd:
            elf = read_elf(fd)
            bias = load_bias(elf, mappings)
        for segment in elf.segments:
            if segment.kind == PT_LOAD and segment.memory_bytes > segment.file_bytes:
                start = (segment.address + segment.file_bytes + 7) // 8 * 8
                return start + bias, segment.address + segment.memory_bytes - start
        return 0, 0

    def _look_for_pool(self) -> None:
        code = self._symboliser.marked.get(HANDING, 0)
        if not code:
            return
        offsets, memory = self._offsets, self._memory
        names = read_u64(memory, code + offsets.code_file - 16)
        length = read_u64(memory, names + _TUPLE_LENGTH)
        if not 0 < length <= MAX_LOCALS:
            return
        for slot, (name,) in enumerate(struct.iter_unpack("<Q", memory.read(names + offsets.tuple_items, length * 8))):
            if is_text(memory, name, b"future", offsets):
                self._handing = code | slot << 48
                return
