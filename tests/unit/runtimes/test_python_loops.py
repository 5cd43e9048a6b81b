# SPDX-License-Identifier: Apache-2.0
"""The words of asyncio that are looked for in a process: right in this very one, and none but that in memory of any kind."""

from __future__ import annotations

import _asyncio
import asyncio
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.memory import read_u64
from kernelspan_agent.runtimes.python.layout import Types
from kernelspan_agent.runtimes.python.loops import FEW, HANDING, MANY, Loops
from kernelspan_agent.runtimes.python.symbolise import PythonSymboliser
from kernelspan_agent.runtimes.python.versions import BY_MINOR
from tests.support.noise import Noise
from tests.support.own_python import own_python


@pytest.fixture(scope="module")
def own() -> Any:
    """This process, what was detected of it, its memory."""
    with own_python() as found:
        yield found


def name_tasks(count: int) -> int:
    """Makes tasks that asyncio names; the number of the last."""

    async def nothing() -> None:
        return

    async def several() -> str:
        tasks = [asyncio.create_task(nothing()) for _ in range(count)]
        await asyncio.gather(*tasks)
        return tasks[-1].get_name()

    return int(asyncio.run(several()).rpartition("-")[2])


def looked_at(own: Any, *, loops: bool = True) -> Loops:
    process, found, memory = own
    symboliser = PythonSymboliser(memory, found.details.offsets, found.details.types)
    symboliser.has_loops = loops
    return Loops(found, process, memory, symboliser, None)


def test_what_this_process_has(own: Any) -> None:
    """The dict of running tasks is asyncio's own; the count is one word, known once it was seen to rise above what else counts."""
    loops, memory = looked_at(own), own[2]
    name_tasks(FEW)
    first = loops.words()
    assert first[1:] == (0, 0)
    assert first[0] == (id(_asyncio._current_tasks) if sys.version_info < (3, 14) else 0)  # type: ignore[attr-defined]
    last = name_tasks(3)
    _, count, _ = loops.words()
    assert last < read_u64(memory, count) <= last + 2
    before, more = read_u64(memory, count), name_tasks(5)
    assert read_u64(memory, count) - before == more - last


def test_nothing_is_looked_for_without_a_loop(own: Any) -> None:
    """A program that runs no event loop."""
    assert looked_at(own, loops=False).words() == (0, 0, 0)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(BY_MINOR)),
    st.binary(min_size=1, max_size=600),
    st.integers(0, 5),
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2),
)
def test_random_memory_never_does_more_than_fail(
    own: Any, minor: int, data: bytes, holes: int, words: list[int]
) -> None:
    """Bounded reads, no exception, and words that fit into the kernel's map."""
    process, found, _ = own
    offsets, memory = BY_MINOR[minor], Noise(data, holes=holes)
    found = replace(found, address=words[0], details=replace(found.details, offsets=offsets, types=Types()))
    symboliser = PythonSymboliser(memory, offsets, Types())
    symboliser.has_loops = True
    symboliser.marked[HANDING] = words[1]
    loops = Loops(found, process, memory, symboliser, None)
    for module in (0, words[0]):
        loops._module = loops._module or module  # what a hostile list of modules may have led to
        for _ in range(3):
            running, count, handing = loops.words()
            assert running == 0
            assert 0 <= count < 1 << 64
            assert 0 <= handing < 1 << 64
            assert not count or FEW < read_u64(memory, count) < MANY
    assert memory.reads < 1000
