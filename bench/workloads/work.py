# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: UP031, PTH108, PTH123, SLF001 - what is measured is plain calls, in every Python from 3.8
"""The workloads in Python, for any CPython from 3.8: reads "NAME COUNT" a line, answers "OPERATIONS NANOSECONDS CPU_NANOSECONDS".

Every timed loop runs in a frame that is exactly FRAMES deep: the same stack for every workload, of that many functions from
five modules, as in an application; code that calls itself would be read from one place. Standard library alone.
"""

from __future__ import annotations

import importlib
import json
import os
import py_compile
import socket
import sqlite3
import sys
import tempfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES = 16
MEMORY, DISK = sys.argv[1:3]
ECHO_PORT, ACCEPT_PORT, HTTP_PORT = map(int, sys.argv[3:6])
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
NULL = os.open("/dev/null", os.O_WRONLY)
PAGE = os.open(MEMORY + "/page-py%d" % os.getpid(), os.O_RDWR | os.O_CREAT)
os.pwrite(PAGE, bytes(4096), 0)
_sockets: dict[int, socket.socket] = {}


def dial(port: int) -> socket.socket:
    """A connection to the peer."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def kept(port: int) -> socket.socket:
    """The one connection to a peer that is kept."""
    if port not in _sockets:
        _sockets[port] = dial(port)
    return _sockets[port]


def getppid(count: int) -> None:
    """One system call that is nobody's operation."""
    call = os.getppid
    for _ in range(count):
        call()


def write1(count: int) -> None:
    """One byte to /dev/null."""
    write, fd = os.write, NULL
    for _ in range(count):
        write(fd, b"x")


def pread4k(count: int) -> None:
    """A page of the page cache."""
    pread, fd = os.pread, PAGE
    for _ in range(count):
        pread(fd, 4096, 0)


def _files(folder: str, count: int) -> None:
    data = bytes(1024)
    for number in range(count):
        path = "%s/p%d-%d" % (folder, os.getpid(), number % 64)
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 1024)
        os.close(fd)
        os.unlink(path)


def files_memory(count: int) -> None:
    """A file's life in memory."""
    _files(MEMORY, count)


def files_disk(count: int) -> None:
    """A file's life on disk."""
    _files(DISK, count)


def sqlite(count: int) -> None:
    """Two rows inserted and read back, one transaction each, in a database file in memory."""
    path = "%s/py%d.db" % (MEMORY, os.getpid())
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("create table if not exists t (k integer primary key, v text)")
    for number in range(count):
        base.execute("insert or replace into t values (?, ?)", (number % 100, "value"))
        base.execute("select v from t where k = ?", (number % 100,)).fetchall()
    base.close()


def pingpong(count: int) -> None:
    """A message and its echo."""
    connection, message = kept(ECHO_PORT), bytes(64)
    for _ in range(count):
        connection.send(message)
        left = 64
        while left:
            left -= len(connection.recv(left))


def connect(count: int) -> None:
    """A connection, one byte, and its end."""
    for _ in range(count):
        connection = dial(ACCEPT_PORT)
        connection.recv(1)
        connection.close()


def http(count: int) -> None:
    """A request over a connection that is kept."""
    connection = kept(HTTP_PORT)
    for _ in range(count):
        connection.send(REQUEST)
        answer = b""
        while len(answer) < 1024:
            part = connection.recv(4096)
            if not part:
                raise ConnectionError("the peer is gone")
            answer += part


def job(count: int) -> None:
    """What programs do: some JSON, a file, a row. About 1 ms of its own work each."""
    path = "%s/job%d" % (MEMORY, os.getpid())
    base = sqlite3.connect(path + ".db", isolation_level=None)
    base.execute("create table if not exists t (k integer primary key, v text)")
    document = {"items": [{"name": "item %d" % i, "price": i * 1.5, "tags": ["a", "b", str(i)]} for i in range(60)]}
    for number in range(count):
        text = ""
        for _ in range(8):
            text = json.dumps(json.loads(json.dumps(document)), sort_keys=True)
        with open(path, "w") as file:
            file.write(text)
        with open(path) as file:
            json.loads(file.read())
        base.execute("insert or replace into t values (?, ?)", (number % 50, text[:100]))
        base.execute("select count(*) from t").fetchall()
    base.close()


WORKLOADS = {
    "getppid": getppid,
    "write1": write1,
    "pread4k": pread4k,
    "files-memory": files_memory,
    "files-disk": files_disk,
    "sqlite": sqlite,
    "pingpong": pingpong,
    "connect": connect,
    "http": http,
    "job": job,
}


def timed(work: Callable[[int], None], count: int) -> tuple[int, int]:
    """Nanoseconds of one run, and of CPU; the frame of `work` is number FRAMES of the stack."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return CHAIN[FRAMES - depth - 1](work, count)


def bottom(work: Callable[[int], None], count: int) -> tuple[int, int]:
    """Runs `work`, timed."""
    began, cpu = time.perf_counter_ns(), time.process_time_ns()
    work(count)
    return time.perf_counter_ns() - began, time.process_time_ns() - cpu


def chain() -> list[Callable[[Callable[[int], None], int], tuple[int, int]]]:
    """Functions that each call the one before, the first of them `bottom`: four to a module."""
    found = [bottom]
    folder = tempfile.mkdtemp(dir=MEMORY)
    sys.path.insert(0, folder)
    for layer in range((FRAMES + 3) // 4):
        name = "layer%d" % layer
        path = "%s/%s.py" % (folder, name)
        with open(path, "w") as file:
            file.writelines(
                "def call%d(work, count):\n    return below%d(work, count)\n\n\n" % (number, number)
                for number in range(4)
            )
        py_compile.compile(path)  # imported from there, as modules mostly are
        module = importlib.import_module(name)
        for number in range(4):
            setattr(module, "below%d" % number, found[-1])
            found.append(getattr(module, "call%d" % number))
    return found


CHAIN = chain()


def main() -> None:
    """Answers one line after the other."""
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()[:2]
        if name not in WORKLOADS:
            print("? " + name, flush=True)
            continue
        print(int(count), *timed(WORKLOADS[name], int(count)), flush=True)


if __name__ == "__main__":
    main()
