# SPDX-License-Identifier: Apache-2.0
"""uprobes, uretprobes and semaphores on a real program: every call counted, nothing left, what would break it refused."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import uprobe as user
from kernelspan_agent.probes import uretprobe
from kernelspan_agent.probes.uprobe import open_file, uprobe
from kernelspan_agent.process.elf import PT_LOAD, read_elf, symbol_addresses
from tests.support.binaries import tool
from tests.support.generators import compiled
from tests.support.observing import Observed, Observer, observer, register

N = 1009
SECONDS = 30.0
WITHOUT_ADMIN = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--")


@dataclass(frozen=True, slots=True)
class Places:
    """Offsets in the program's file, and the function's first byte."""

    path: Path
    function: int
    semaphore: int
    byte: bytes


class Program:
    """The running C program."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.process = subprocess.Popen([path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, times: int = N) -> tuple[int, int]:
        """Has it call its function; the sum it got, and its semaphore."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{times}\n".encode())
        self.process.stdin.flush()
        first, second = self.process.stdout.readline().split()
        return int(first), int(second)


@contextlib.contextmanager
def running(path: Path, *arguments: str) -> Iterator[Program]:
    program = Program(path, *arguments)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


def sums(times: int = N) -> tuple[int, int]:
    """Of the arguments of so many calls, and of their results."""
    arguments = sum(range(times))
    return arguments, 3 * arguments + times


@pytest.fixture(scope="module")
def places() -> Places:
    return _places(compiled("probed"))


def _places(path: Path) -> Places:
    with path.open("rb") as file:
        elf = read_elf(file.fileno())
        found = symbol_addresses(elf, ("probed", "semaphore"))
        offsets = [
            address - segment.address + segment.offset
            for address in (found["probed"], found["semaphore"])
            for segment in elf.segments
            if segment.kind == PT_LOAD and segment.address <= address < segment.address + segment.file_bytes
        ]
        return Places(path, *offsets, os.pread(file.fileno(), 1, offsets[0]))


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[int]:
    fd = open_file(str(path))
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def observing(what: str) -> Iterator[tuple[Observer, int]]:
    """An observer of a register, and its program."""
    with observer() as found, found.loaded(user.KIND, register(what), user.target()) as program:
        yield found, program


def first_byte(program: Program, places: Places) -> bytes:
    """Of the function, in the program's memory: a breakpoint while something is attached."""
    pid = program.process.pid
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split()
        begin, end = (int(part, 16) for part in span.split("-"))
        at = begin + places.function - int(offset, 16)
        if path[:1] == [str(places.path)] and begin <= at < end:
            with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(at)
                return memory.read(1)
    raise AssertionError("the program's file is not mapped")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("returns", "what"), [(False, "di"), (True, "ax")])
def test_every_call_is_counted(places: Places, returns: bool, what: str) -> None:
    """N calls, N runs, with the arguments or the results that the program had; none before, none after."""
    with running(places.path) as program, observing(what) as (seen, fd), opened(places.path) as file:
        program.call()
        attachment = uprobe(file, places.function, fd, returns=returns)
        assert program.call()[0] == sums()[1]
        attachment.close()
        program.call()
        assert seen.seen() == Observed(N, sums()[returns])


def test_processes_that_start_later(places: Places) -> None:
    """One attachment serves all that run the file, then and later."""
    with observing("di") as (seen, fd), opened(places.path) as file:
        attachment = uprobe(file, places.function, fd)
        try:
            for _ in range(3):
                with running(places.path) as program:
                    program.call(7)
        finally:
            attachment.close()
        assert seen.seen() == Observed(21, 3 * sums(7)[0])


def test_one_process_alone(places: Places) -> None:
    """With a pid the others are not counted, and not even slowed: their function has no breakpoint."""
    with running(places.path) as one, running(places.path) as other:
        with observing("di") as (seen, fd), opened(places.path) as file:
            attachment = uprobe(file, places.function, fd, pid=one.process.pid)
            one.call()
            other.call(13)
            assert first_byte(other, places) == places.byte
            assert first_byte(one, places) != places.byte
            attachment.close()
            one.call(5)
            assert seen.seen() == Observed(N, sums()[0])
        assert first_byte(one, places) == places.byte


def test_the_semaphore_is_raised_and_lowered(places: Places) -> None:
    """By the kernel, in processes that run already and in those that start later, for as long as anybody listens."""
    with running(places.path) as program, observing("di") as (_, fd), observing("di") as (_, other):
        assert program.call(1)[1] == 0
        with opened(places.path) as file:
            attachments = [uprobe(file, places.function, each, semaphore=places.semaphore) for each in (fd, other)]
        assert program.call(1)[1] == 1
        with running(places.path) as later:
            assert later.call(1)[1] == 1
            attachments[0].close()
            assert (program.call(1)[1], later.call(1)[1]) == (1, 1)
            attachments[1].close()
            assert (program.call(1)[1], later.call(1)[1]) == (0, 0)


_ATTACHER = """
import os, sys, time
from kernelspan_agent.probes import bpf, uprobe
file, function, semaphore = uprobe.open_file(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
program = bpf.prog_load(uprobe.KIND, bpf.NOTHING, "ks_killed", uprobe.target())
kept = [uprobe.uprobe(file, function, program, returns=returns, semaphore=semaphore) for returns in (False, True)]
print("attached", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("under", [(), WITHOUT_ADMIN], ids=["root", "no CAP_SYS_ADMIN"])
def test_a_killed_agent_leaves_nothing(places: Places, under: tuple[str, ...]) -> None:
    """kill -9: no breakpoint in the running program, its semaphore down, and it goes on as before."""
    with running(places.path) as program:
        command = [*under, sys.executable, "-c", _ATTACHER, places.path, str(places.function), str(places.semaphore)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            try:
                assert agent.stdout is not None
                assert agent.stdout.readline() == "attached\n"
                assert program.call(3) == (sums(3)[1], 1)
                assert first_byte(program, places) != places.byte
            finally:
                agent.send_signal(signal.SIGKILL)
        eventually(lambda: program.call(1)[1] == 0)
        eventually(lambda: first_byte(program, places) == places.byte)
        assert program.call()[0] == sums()[1]


def test_a_program_that_is_replaced(places: Places, tmp_path: Path) -> None:
    """As an upgrade does: what runs the old file is counted on, what runs the new one is not, until it is attached to."""
    path = tmp_path / "program"
    shutil.copy(places.path, path)
    with observing("di") as (seen, fd), contextlib.ExitStack() as stack:

        def attach() -> None:
            with opened(path) as file:
                stack.callback(uprobe(file, places.function, fd).close)

        attach()
        with running(path) as old:
            shutil.copy(places.path, tmp_path / "newer")
            (tmp_path / "newer").replace(path)
            with running(path) as new:
                old.call(17)
                new.call(19)
                assert seen.seen().runs == 17
                attach()
                old.call(23)
                new.call(29)
                assert seen.seen().runs == 17 + 23 + 29


def test_the_semaphore_of_one_process(places: Places) -> None:
    """With a pid it is raised there alone."""
    with running(places.path) as one, running(places.path) as other, observing("di") as (_, fd):
        with opened(places.path) as file:
            attachment = uprobe(file, places.function, fd, semaphore=places.semaphore, pid=one.process.pid)
        assert (one.call(1)[1], other.call(1)[1]) == (1, 0)
        attachment.close()
        assert (one.call(1)[1], other.call(1)[1]) == (0, 0)


def test_under_seccomp(places: Places) -> None:
    """This kernel lets a program that may do next to nothing return from a probed function, or says that it does not."""
    assert uretprobe.survives_seccomp() is True
    with running(places.path, "seccomp") as program, observing("ax") as (seen, fd), opened(places.path) as file:
        attachment = uprobe(file, places.function, fd, returns=True)
        try:
            assert program.call()[0] == sums()[1]
        finally:
            attachment.close()
        assert seen.seen() == Observed(N, sums()[1])


def test_go_is_refused() -> None:
    """Its runtime ends a program whose return addresses are changed. A C program is none."""
    with opened(tool("etcd", "kernel", print)) as file:
        assert uretprobe.is_go(file)
        with pytest.raises(MachineError, match="Go") as refused:
            uretprobe.require_safe(file)
        assert refused.value.reason == "UretprobeUnsafe"
    with opened(compiled("probed")) as file:
        assert not uretprobe.is_go(file)
        uretprobe.require_safe(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A FIFO does not block, a device is not opened, a missing file, a folder, a socket, a name with a NUL: BinaryNotFound."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    names = [str(tmp_path / name) for name in ("fifo", "socket", "missing", ".", "fifo/below")]
    for name in (*names, "/dev/null", "/proc/self/fd/999", "nul\0in it", "x" * 5000):
        with pytest.raises(MachineError) as refused:
            open_file(name)
        assert refused.value.reason == "BinaryNotFound", name


def test_places_that_are_none(places: Places, tmp_path: Path) -> None:
    """Beyond the file, in a huge hole, at a semaphore that is nowhere: refused with a reason, and nothing stays."""
    hole = tmp_path / "hole"
    with hole.open("wb") as file:
        file.truncate(1 << 40)
    with observing("di") as (_, fd), opened(places.path) as file, opened(hole) as empty:
        for where, offset, semaphore, reason in (
            (file, 1 << 40, 0, "SymbolNotFound"),
            (file, (1 << 64) - 1, 0, "SymbolNotFound"),
            (file, 1 << 63, 0, "SymbolNotFound"),
            (file, -1, 0, "SymbolNotFound"),
            (file, places.path.stat().st_size, 0, "SymbolNotFound"),
            (file, places.function, 1 << 32, "UsdtNotFound"),
            (file, places.function, -1, "UsdtNotFound"),
            (empty, 1 << 41, 0, "SymbolNotFound"),
        ):
            with pytest.raises(MachineError) as refused:
                uprobe(where, offset, fd, semaphore=semaphore).close()
            assert refused.value.reason == reason, (offset, semaphore)


def test_a_process_that_has_ended(places: Places) -> None:
    """Said as that."""
    with running(places.path) as program:
        pid = program.process.pid
    with observing("di") as (_, fd), opened(places.path) as file, pytest.raises(MachineError) as refused:
        uprobe(file, places.function, fd, pid=pid).close()
    assert refused.value.reason == "NoMatchingProcesses"
