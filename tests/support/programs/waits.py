# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001 - a scenario is given its folder and may not need it
"""Every system call that waits, and what signals do to calls."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenarios import N, Said, call, libc, main, said_result, scenario

RESULT, REQUESTED, TRANSFERRED = "kernelspan.result", "kernelspan.io.requested", "kernelspan.io.transferred"
SHORT = struct.pack("<qq", 0, 2_000_000)  # struct timespec: 2 ms
LONG = struct.pack("<qq", 30, 0)
SA_RESTART = 0x10000000
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_calls_seen: list[int] = []


class _Action(ctypes.Structure):
    """glibc's struct sigaction on x86-64."""

    _fields_ = [
        ("handler", _HANDLER),
        ("mask", ctypes.c_char * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def handle(number: int, act: Callable[[int], None], *, restart: bool) -> Any:
    """Installs a C handler, which runs at once and not when the interpreter finds time. Keep what it gives."""
    made = _HANDLER(act)
    action = _Action(made, bytes(128), SA_RESTART if restart else 0, None)
    assert libc.sigaction(number, ctypes.byref(action), None) == 0
    return made


def when_waiting(pid: int, tid: int, act: Callable[[], None]) -> int:
    """A child that acts as soon as the thread sleeps in a system call; gives the child's pid."""
    child = os.fork()
    if child == 0:
        where = Path(f"/proc/{pid}/task/{tid}")
        for _ in range(20_000):
            if (where / "stat").read_text().rpartition(")")[2].split()[0] == "S" and "running" not in (
                where / "syscall"
            ).read_text():
                break
            time.sleep(0.0005)
        act()
        os._exit(0)
    return child


@scenario
def locks(folder: bytes, said: Said) -> dict[str, Any]:
    word = ctypes.c_uint32(7)
    address, now = ctypes.addressof(word), SHORT
    waitv = struct.pack("<QQII", 7, address, 2, 0)  # one struct futex_waitv: 32 bits, shared
    later = lambda clock: struct.pack("<qq", *divmod(time.clock_gettime_ns(clock) + 2_000_000, 10**9))  # noqa: E731
    makers: dict[str, Callable[[], int]] = {
        "futex": lambda: call("futex", address, 0, 7, now, 0, 0),
        "bitset": lambda: call("futex", address, 9 | 128, 7, later(time.CLOCK_MONOTONIC), 0, 0xFFFFFFFF),
        "futex_waitv": lambda: call("futex_waitv", waitv, 1, 0, later(time.CLOCK_MONOTONIC), 1),
        "futex_wait": lambda: call("futex_wait", address, 7, 0xFFFFFFFF, 2, later(time.CLOCK_MONOTONIC), 1),
    }
    for act in makers.values():
        for _ in range(N):
            result = act()
            assert result in (-110, -38)  # ETIMEDOUT; a kernel without futex_wait
            said("wait.lock", **({"kernelspan.result.name": "ETIMEDOUT"} if result == -110 else said_result(result)))
    for _ in range(N):
        assert call("futex", address, 0, 8, now, 0, 0) == -11
        said("wait.lock", **said_result(-11))
        assert call("futex", address, 1, 1, 0, 0, 0) == 0  # a wake is no wait
        free = ctypes.c_uint32(0)
        assert call("futex", ctypes.addressof(free), 6, 0, 0, 0, 0) == 0
        said("wait.lock")
        assert call("futex", ctypes.addressof(free), 7, 0, 0, 0, 0) == 0
    return {"calls": ["futex", "futex_waitv", "futex_wait"]}


@scenario
def sleeps(folder: bytes, said: Said) -> dict[str, Any]:
    kept = handle(signal.SIGUSR1, _calls_seen.append, restart=True)
    me = os.getpid()
    for _ in range(N):
        assert call("nanosleep", SHORT, 0) == 0
        said("wait.sleep")
        assert call("clock_nanosleep", 1, 0, SHORT, 0) == 0
        said("wait.sleep")
        child = when_waiting(me, me, lambda: os.kill(me, signal.SIGUSR1))
        assert call("pause") == -4  # whatever the handler asks for
        said("wait.sleep", **said_result(-4))
        os.waitpid(child, 0)
    assert kept
    return {"calls": ["nanosleep", "clock_nanosleep", "pause"]}


@scenario
def polls(folder: bytes, said: Said) -> dict[str, Any]:
    source, out = os.pipe()
    events = select.epoll()
    events.register(source, select.EPOLLIN)
    fd = events.fileno()
    poll = struct.pack("<ihh", source, 1, 0)
    bits = (1 << source).to_bytes(128, "little")
    micro = struct.pack("<qq", 0, 2000)
    found = ctypes.create_string_buffer(64)
    makers: dict[str, Callable[[], int]] = {
        "poll": lambda: call("poll", ctypes.create_string_buffer(poll), 1, 2),
        "ppoll": lambda: call("ppoll", ctypes.create_string_buffer(poll), 1, SHORT, 0, 8),
        "select": lambda: call("select", source + 1, ctypes.create_string_buffer(bits), 0, 0, micro),
        "pselect6": lambda: call("pselect6", source + 1, ctypes.create_string_buffer(bits), 0, 0, SHORT, 0),
        "epoll_wait": lambda: call("epoll_wait", fd, found, 4, 2),
        "epoll_pwait": lambda: call("epoll_pwait", fd, found, 4, 2, 0, 8),
        "epoll_pwait2": lambda: call("epoll_pwait2", fd, found, 4, SHORT, 0, 8),
    }
    for ready in (0, 1):
        for act in makers.values():
            for _ in range(N):
                assert act() == ready
                said("wait.poll", **{RESULT: ready})
        os.write(out, b"x")
    assert call("epoll_wait", 999, found, 4, 2) == -9
    said("wait.poll", **said_result(-9))
    return {"calls": list(makers)}


def _receive(sock: socket.socket, size: int = 100) -> int:
    return call("recvfrom", sock.fileno(), ctypes.create_string_buffer(size), size, 0, 0, 0)


def _received(said: Said, result: int, size: int = 100) -> None:
    said("unix.receive", **{REQUESTED: size, **({TRANSFERRED: result} if result >= 0 else {})}, **said_result(result))


@scenario
def stopped(folder: bytes, said: Said) -> None:
    """SIGSTOP and SIGCONT in the midst of a call: the kernel begins it anew, it is one operation."""
    a, b = socket.socketpair()
    me = os.getpid()

    def stop_and_go() -> None:
        for _ in range(3):
            os.kill(me, signal.SIGSTOP)
            while Path(f"/proc/{me}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.0005)
            os.kill(me, signal.SIGCONT)
            time.sleep(0.005)
        a.send(b"data")

    for _ in range(N):
        child = when_waiting(me, me, stop_and_go)
        result = _receive(b)
        assert result == 4
        _received(said, result)
        os.waitpid(child, 0)
    for _ in range(N):
        child = when_waiting(me, me, stop_and_go)
        assert call("nanosleep", struct.pack("<qq", 0, 60_000_000), 0) == 0  # goes on by restart_syscall
        said("wait.sleep")
        os.waitpid(child, 0)
        _received(said, _receive(b))


def _poll_in_handler(number: int) -> None:
    call("poll", 0, 0, 0)
    _calls_seen.append(number)


@scenario
def restarted(folder: bytes, said: Said) -> None:
    """A handler that lets calls be restarted, and makes calls itself: one operation, as long as it really took."""
    a, b = socket.socketpair()
    me = os.getpid()
    kept = handle(signal.SIGUSR1, _poll_in_handler, restart=True)

    def disturb() -> None:
        for index in range(3):
            os.kill(me, signal.SIGUSR1)
            time.sleep(0.003 * (index + 1))
        a.send(b"data")

    for _ in range(N):
        child = when_waiting(me, me, disturb)
        assert _receive(b) == 4
        _received(said, 4)
        for _ in range(3):
            said("wait.poll", **{RESULT: 0})
        os.waitpid(child, 0)
    assert kept
    assert len(_calls_seen) == 3 * N


@scenario
def interrupted(folder: bytes, said: Said) -> None:
    """A handler that does not: the call fails with EINTR, and the same call made again is another operation."""
    a, b = socket.socketpair()
    me = os.getpid()
    kept = handle(signal.SIGUSR1, _calls_seen.append, restart=False)
    buffer = ctypes.create_string_buffer(100)
    for index in range(2 * N):
        child = when_waiting(me, me, lambda: os.kill(me, signal.SIGUSR1))
        assert call("recvfrom", b.fileno(), buffer, 100, 0, 0, 0) == -4
        _received(said, -4)
        os.waitpid(child, 0)
        if index % 2:
            a.send(b"data")
            assert call("recvfrom", b.fileno(), buffer, 100, 0, 0, 0) == 4
            _received(said, 4)
    assert kept


@scenario
def naps(folder: bytes, said: Said) -> None:
    """Off the CPU for long enough, by whatever call."""
    for _ in range(N):
        assert call("nanosleep", struct.pack("<qq", 0, 120_000_000), 0) == 0
        said("wait.off_cpu")


@scenario
def threads_that_end(folder: bytes, said: Said) -> None:
    """What a thread waits for as it ends is no wait: it does not come back."""
    for _ in range(101):
        thread = threading.Thread(target=time.sleep, args=(0.0001,))
        thread.start()
        thread.join()


if __name__ == "__main__":
    main()
