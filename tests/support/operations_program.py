# SPDX-License-Identifier: Apache-2.0
"""A program that does each operation of every group once or more, each in the function that bears its name.

Run with a folder as its argument. What would change the machine (mounts, modules, tracing others) is asked for in a way
that fails: a refused system call is an operation too.
"""

import ctypes
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

WAIT_SECONDS = 0.03
NAME_SERVER = ("127.77.0.53", 53)  # on loopback, and where no resolver listens
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01"
DELETE_MODULE = {"x86_64": 176, "aarch64": 106}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


def Open(folder: Path) -> int:  # noqa: N802 - an operation's name
    return os.open(folder / "file", os.O_RDWR | os.O_CREAT, 0o600)


def Write(fd: int) -> None:  # noqa: N802
    os.write(fd, b"some bytes")


def Read(fd: int) -> None:  # noqa: N802
    os.pread(fd, 4, 0)


def Sync(fd: int) -> None:  # noqa: N802
    os.fsync(fd)


def Stat(folder: Path) -> None:  # noqa: N802
    (folder / "file").stat()


def List(folder: Path) -> None:  # noqa: N802
    list(folder.iterdir())


def Rename(folder: Path) -> None:  # noqa: N802
    (folder / "file").rename(folder / "renamed")


def Remove(folder: Path) -> None:  # noqa: N802
    (folder / "renamed").unlink()


def Connect(address: tuple[str, int]) -> socket.socket:  # noqa: N802
    return socket.create_connection(address)


def Accept(listener: socket.socket) -> socket.socket:  # noqa: N802
    return listener.accept()[0]


def Send(client: socket.socket) -> None:  # noqa: N802
    client.send(b"hello")


def Receive(server: socket.socket) -> None:  # noqa: N802
    server.recv(100)


def Close(client: socket.socket) -> None:  # noqa: N802
    client.close()


def Resolve() -> None:  # noqa: N802
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(NAME_SERVER)
        client.connect(NAME_SERVER)
        client.send(QUERY)
        query, sender = server.recvfrom(512)
        server.sendto(query, sender)
        client.recv(512)


def Fork() -> None:  # noqa: N802
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)


def Signal() -> None:  # noqa: N802
    os.kill(os.getpid(), 0)


def SetID() -> None:  # noqa: N802
    os.setgid(os.getgid())


def Ptrace() -> None:  # noqa: N802
    libc.ptrace(17, 0, 0, 0)  # PTRACE_DETACH from what is not traced


def Mount() -> None:  # noqa: N802
    libc.mount(b"none", b"/no/such/folder", b"none", 0, 0)


def ModuleLoad() -> None:  # noqa: N802
    libc.syscall(DELETE_MODULE, b"no such module", 0)


def Lock() -> None:  # noqa: N802
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=WAIT_SECONDS)


def Sleep() -> None:  # noqa: N802
    time.sleep(WAIT_SECONDS)


def Poll() -> None:  # noqa: N802
    select.poll().poll(WAIT_SECONDS * 1000)


def main() -> None:
    """Every operation."""
    folder = Path(sys.argv[1])
    signal.alarm(60)
    fd = Open(folder)
    Write(fd)
    Read(fd)
    Sync(fd)
    os.close(fd)
    Stat(folder)
    List(folder)
    Rename(folder)
    Remove(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Connect(listener.getsockname())
        server = Accept(listener)
        Send(client)
        Receive(server)
        Close(client)
        Close(server)
    Resolve()
    for act in (Fork, Signal, SetID, Ptrace, Mount, ModuleLoad, Lock, Sleep, Poll):
        act()


if __name__ == "__main__":
    main()
