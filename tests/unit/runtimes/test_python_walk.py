# SPDX-License-Identifier: Apache-2.0
"""Stacks read from outside: of this very process, and of memory that is made to mislead."""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.process.memory import ProcessMemory
from kernelspan_agent.process.procfs import open_process
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.python import walk
from kernelspan_agent.runtimes.python.versions import BY_MINOR
from kernelspan_agent.runtimes.registry import COMPLETE, RUNNING, TRUNCATED, UNREADABLE, LiveStack
from tests.support.noise import Noise


class Words:
    """Memory of 8-byte words by address; everything else is a hole. Every `read` may be followed by a change."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words
        self.reads = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        found = b""
        at = address - address % 8
        while at < address + size:
            if at not in self.words:
                raise MemoryReadError(address, size, "a hole")
            found += struct.pack("<Q", self.words[at])
            at += 8
        return found[address % 8 :][:size]


@pytest.fixture
def parked() -> Iterator[int]:
    """A thread that waits below two functions of its own; its native id."""
    ready, done, ids = threading.Event(), threading.Event(), []

    def outer() -> None:
        inner()

    def inner() -> None:
        ids.append(threading.get_native_id())
        ready.set()
        done.wait()

    thread = threading.Thread(target=outer)
    thread.start()
    ready.wait()
    yield ids[0]
    done.set()
    thread.join()


def test_a_parked_thread_of_this_process(parked: int) -> None:
    """Its frames in order, complete, under its own id where the runtime tells it."""
    process = open_process(os.getpid())
    found = registry.detect(process)
    assert isinstance(found, registry.DetectedRuntime)
    with ProcessMemory(process) as memory:
        stacks = registry.walk(found, memory)
        symboliser = registry.symboliser(found, memory)
        named = [[frame.qualname.rpartition(".")[2] for frame in symboliser.frames(stack.rows)] for stack in stacks]
    mine = next(index for index, names in enumerate(named) if "inner" in names and "outer" in names)
    assert named[mine].index("inner") + 1 == named[mine].index("outer")
    assert stacks[mine].state == COMPLETE
    assert stacks[mine].native_id == (parked if sys.version_info >= (3, 11) else 0)


HEAD, INTERPRETER, THREAD, CODE = 0x1000, 0x2000, 0x10000, 0x20000
FRAMES = 0x100000
OFFSETS = BY_MINOR[13]


def process_with(count: int) -> Words:
    """A 3.13 with one thread of so many frames, each 0x100 bytes."""
    words = dict.fromkeys(range(INTERPRETER, INTERPRETER + 8192, 8), 0)
    words |= dict.fromkeys(range(THREAD, THREAD + 512, 8), 0) | dict.fromkeys(range(CODE, CODE + 512, 8), 7)
    words |= dict.fromkeys(range(FRAMES, FRAMES + 0x100 * (count + 1), 8), 0)
    words[HEAD] = INTERPRETER
    words[INTERPRETER + OFFSETS.interp_threads_head] = THREAD
    words[THREAD + OFFSETS.ts_thread_id], words[THREAD + OFFSETS.ts_thread_id + 8] = 0xABC, 42
    words[THREAD + OFFSETS.ts_frame] = FRAMES if count else 0
    for index in range(count):
        at = FRAMES + 0x100 * index
        words[at + OFFSETS.frame_code], words[at + OFFSETS.frame_pc] = CODE, index
        words[at + OFFSETS.frame_previous] = at + 0x100 if index + 1 < count else 0
    return Words(words)


def walked(memory: Words | Noise, minor: int = 13, address: int = HEAD) -> list[LiveStack]:
    found = SimpleNamespace(details=SimpleNamespace(offsets=BY_MINOR[minor]), address=address)
    return walk.read_stacks(found, memory)  # type: ignore[arg-type]


def test_a_made_up_thread() -> None:
    """What the words say; no frames at all is complete, too."""
    (stack,) = walked(process_with(3))
    assert (stack.key, stack.native_id, stack.state) == (0xABC, 42, COMPLETE)
    assert stack.rows["pc"].tolist() == [0, 1, 2]
    (empty,) = walked(process_with(0))
    assert (empty.state, len(empty.rows)) == (COMPLETE, 0)


def test_a_thread_that_runs_gives_the_outer_frames_it_keeps() -> None:
    """The innermost changes between any two readings: it is left out."""

    class Changing(Words):
        def read(self, address: int, size: int) -> bytes:
            if address == THREAD + OFFSETS.ts_frame:
                self.words[FRAMES + OFFSETS.frame_pc] += 1
            return super().read(address, size)

    (stack,) = walked(Changing(process_with(3).words))
    assert (stack.state, stack.rows["pc"].tolist()) == (RUNNING, [1, 2])


def test_endless_lists_end() -> None:
    """Frames, threads and interpreters that lead back to themselves."""
    memory = process_with(2)
    memory.words[FRAMES + 0x100 + OFFSETS.frame_previous] = FRAMES
    memory.words[THREAD + OFFSETS.ts_next] = THREAD
    memory.words[INTERPRETER + OFFSETS.interp_next] = INTERPRETER
    (stack,) = walked(memory)
    assert (stack.state, len(stack.rows)) == (TRUNCATED, walk.MAX_FRAMES)


def test_a_hole_in_the_chain_is_no_stack() -> None:
    """Nothing is claimed of frames whose callers cannot be read."""
    memory = process_with(3)
    del memory.words[FRAMES + 0x100 + OFFSETS.frame_previous]
    (stack,) = walked(memory)
    assert (stack.state, len(stack.rows)) == (UNREADABLE, 0)


def test_a_process_that_is_gone_raises() -> None:
    """There is no list of threads at all."""
    with pytest.raises(MemoryReadError):
        walked(Words({}))


@settings(max_examples=60)
@given(
    st.binary(min_size=64, max_size=512),
    st.sampled_from(sorted(BY_MINOR)),
    st.sampled_from([0, 3, 7, 64]),
    st.integers(0, 2**64 - 1),
)
def test_any_memory_ends_bounded(data: bytes, minor: int, holes: int, address: int) -> None:
    """Whatever the words are: stacks within bounds or an error of ours, after a bounded number of reads."""
    memory = Noise(data, holes=holes)
    limit = walk.MAX_THREADS
    walk.MAX_THREADS = 5  # time, not truth: each thread costs the same
    try:
        stacks = walked(memory, minor, address)
    except MemoryReadError:
        return
    finally:
        walk.MAX_THREADS = limit
    assert len(stacks) <= 5
    assert all(len(stack.rows) <= walk.MAX_FRAMES and isinstance(stack.rows, np.ndarray) for stack in stacks)
