# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001, B023, PTH102 - paths are bytes, lambdas are called where they are made
"""Every system call on files, and every way a path can be meant."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from typing import Any

from scenarios import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    STAT_BUFFER,
    N,
    Said,
    call,
    main,
    said_result,
    scenario,
    setting,
    vectors,
)

REQUESTED, TRANSFERRED, TARGET = "kernelspan.io.requested", "kernelspan.io.transferred", "kernelspan.file.target_path"
HOW = (1 << 0).to_bytes(8, "little")  # struct open_how: flags, mode, resolve
text = os.fsdecode


def _file(path: bytes, data: bytes = b"0123456789abcdef") -> bytes:
    """A file that is there, written without a call that counts as said: by the parent's other half."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, data)
    os.close(fd)
    return path


def _io(said: Said, span: str, path: bytes, result: int, requested: int | None = None) -> None:
    transferred = result if result >= 0 else None
    said(span, **{"file.path": text(path), REQUESTED: requested, TRANSFERRED: transferred}, **said_result(result))


@scenario
def opens(folder: bytes, said: Said) -> dict[str, Any]:
    path, absent = folder + b"/file", folder + b"/absent/file"
    setting(lambda: _file(path))
    how = HOW + bytes(16)
    makers: dict[str, Callable[[bytes], int]] = {
        "open": lambda name: call("open", name, os.O_RDONLY),
        "openat": lambda name: call("openat", AT_FDCWD, name, os.O_RDONLY),
        "openat2": lambda name: call("openat2", AT_FDCWD, name, how, len(how)),
        "creat": lambda name: call("creat", name, 0o600),
    }
    for act in makers.values():
        for _ in range(N):
            os.close(act(path))
            said("file.open", **{"file.path": text(path)})
            said("file.open", **{"file.path": text(absent)}, **said_result(act(absent)))
    return {"calls": list(makers)}


@scenario
def reads(folder: bytes, said: Said) -> dict[str, Any]:
    path = folder + b"/file"
    setting(lambda: _file(path))
    fd = os.open(path, os.O_RDONLY)
    said("file.open", **{"file.path": text(path)})
    null = os.open(b"/dev/null", os.O_WRONLY)
    said("file.open", **{"file.path": "/dev/null"})
    buffer = ctypes.create_string_buffer(100)
    parts = vectors((ctypes.c_char * 3)(), (ctypes.c_char * 4)())
    makers: dict[str, tuple[Callable[[], int], int | None]] = {
        "pread64": (lambda: call("pread64", fd, buffer, 100, 6), 100),
        "readv": (lambda: call("readv", fd, parts, 2), None),
        "preadv": (lambda: call("preadv", fd, parts, 2, 1, 0), None),
        "preadv2": (lambda: call("preadv2", fd, parts, 2, 1, 0, 0), None),
        "read": (lambda: call("read", fd, buffer, 11), 11),
        "sendfile": (lambda: call("sendfile", null, fd, 0, 5), 5),
    }
    for act, requested in makers.values():
        for _ in range(N):
            _io(said, "file.read", path, act(), requested)
    for _ in range(N):  # a buffer that is none, an end of file
        _io(said, "file.read", path, call("pread64", fd, 8, 9, 0), 9)
        _io(said, "file.read", path, call("pread64", fd, buffer, 9, 1000), 9)
    call("read", 999, buffer, 3)
    said("file.read", **{REQUESTED: 3, "error.type": "EBADF"})
    return {"calls": list(makers)}


@scenario
def writes(folder: bytes, said: Said) -> dict[str, Any]:
    path, source = folder + b"/file", folder + b"/source"
    setting(lambda: (_file(path), _file(source)))
    fd = os.open(path, os.O_WRONLY)
    said("file.open", **{"file.path": text(path)})
    other = os.open(source, os.O_RDONLY)
    said("file.open", **{"file.path": text(source)})
    makers: dict[str, tuple[Callable[[], int], int | None]] = {
        "write": (lambda: call("write", fd, b"12345", 5), 5),
        "pwrite64": (lambda: call("pwrite64", fd, b"1234567", 7, 100), 7),
        "writev": (lambda: call("writev", fd, vectors(b"abc", b"de"), 2), None),
        "pwritev": (lambda: call("pwritev", fd, vectors(b"abc", b"d"), 2, 3, 0), None),
        "pwritev2": (lambda: call("pwritev2", fd, vectors(b"abc", b"d"), 2, 3, 0, 0), None),
        "copy_file_range": (lambda: call("copy_file_range", other, 0, fd, 0, 2, 0), None),
    }
    for act, requested in makers.values():
        for _ in range(N):
            _io(said, "file.write", path, act(), requested)
    _io(said, "file.write", source, call("write", other, b"x", 1), 1)  # opened for reading
    for name, rest in (("fsync", ()), ("fdatasync", ()), ("sync_file_range", (0, 0, 0))):
        for _ in range(N):
            assert call(name, fd, *rest) == 0
            said("file.sync", **{"file.path": text(path)})
    return {"calls": [*makers, "fsync", "fdatasync", "sync_file_range"]}


@scenario
def names(folder: bytes, said: Said) -> dict[str, Any]:
    here, there = folder + b"/here", folder + b"/there"
    setting(lambda: _file(here))
    directory = os.open(folder, os.O_DIRECTORY)
    said("file.open", **{"file.path": text(folder)})
    for index in range(N * 2):
        old, new = (here, there) if index % 2 == 0 else (there, here)
        base = os.path.basename
        for act in (
            lambda a=old, b=new: call("rename", a, b),
            lambda a=new, b=old: call("renameat", AT_FDCWD, a, directory, base(b)),
            lambda a=old, b=new: call("renameat2", directory, base(a), directory, base(b), 0),
        ):
            assert act() == 0
            said("file.rename", **{"file.path": text(old), TARGET: text(new)})
            old, new = new, old
    absent = folder + b"/absent"
    said("file.rename", **{"file.path": text(absent), TARGET: text(here)}, **said_result(call("rename", absent, here)))
    calls = ["rename", "renameat", "renameat2"]
    for name, arguments in (
        ("unlink", lambda path: (path,)),
        ("unlinkat", lambda path: (directory, os.path.basename(path), 0)),
        ("rmdir", lambda path: (path,)),
        ("unlinkat", lambda path: (AT_FDCWD, path, AT_REMOVEDIR)),
    ):
        victim = folder + b"/victim"
        for _ in range(N):
            setting(
                lambda: os.mkdir(victim) if name == "rmdir" or arguments(b"")[-1] == AT_REMOVEDIR else _file(victim)
            )
            for _ in range(2):  # the second finds none
                said("file.remove", **{"file.path": text(victim)}, **said_result(call(name, *arguments(victim))))
        calls.append(name)
    return {"calls": calls}


@scenario
def looks(folder: bytes, said: Said) -> dict[str, Any]:
    path, absent = folder + b"/file", folder + b"/absent"
    setting(lambda: _file(path))
    fd = os.open(path, os.O_PATH)
    said("file.open", **{"file.path": text(path)})
    makers: dict[str, Callable[[bytes], int]] = {
        "stat": lambda name: call("stat", name, STAT_BUFFER),
        "lstat": lambda name: call("lstat", name, STAT_BUFFER),
        "newfstatat": lambda name: call("newfstatat", AT_FDCWD, name, STAT_BUFFER, 0),
        "statx": lambda name: call("statx", AT_FDCWD, name, 0, 0xFFF, STAT_BUFFER),
        "access": lambda name: call("access", name, os.R_OK),
        "faccessat": lambda name: call("faccessat", AT_FDCWD, name, os.R_OK),
        "faccessat2": lambda name: call("faccessat2", AT_FDCWD, name, os.R_OK, 0),
    }
    for act in makers.values():
        for _ in range(N):
            for name in (path, absent):
                said("file.stat", **{"file.path": text(name)}, **said_result(act(name)))
    for _ in range(N):
        for act in (
            lambda: call("fstat", fd, STAT_BUFFER),
            lambda: call("newfstatat", fd, b"", STAT_BUFFER, AT_EMPTY_PATH),
            lambda: call("statx", fd, b"", AT_EMPTY_PATH, 0xFFF, STAT_BUFFER),
        ):
            assert act() == 0
            said("file.stat", **{"file.path": text(path)})
    return {"calls": [*makers, "fstat"]}


@scenario
def lists(folder: bytes, said: Said) -> dict[str, Any]:
    directory = os.open(folder, os.O_DIRECTORY)
    said("file.open", **{"file.path": text(folder)})
    buffer = ctypes.create_string_buffer(4096)
    for name in ("getdents", "getdents64"):
        for _ in range(N):
            _io(said, "file.list", folder, call(name, directory, buffer, 4096), 4096)
    return {"calls": ["getdents", "getdents64"]}


@scenario
def no_files(folder: bytes, said: Said) -> None:
    """Pipes, sockets, and what the kernel makes for itself are no files: nothing is said of reads and writes on them."""
    source, out = os.pipe()
    a, b = socket.socketpair()
    event = os.eventfd(1) if hasattr(os, "eventfd") else os.dup(source)
    for _ in range(N):
        os.write(out, b"x")
        os.read(source, 1)
        a.send(b"x")
        os.write(a.fileno(), b"y")
        os.read(b.fileno(), 1)
        os.write(event, (1).to_bytes(8, "little")) if hasattr(os, "eventfd") else None
    os.close(event)


@scenario
def unreadable(folder: bytes, said: Said) -> None:
    """A path that is no address: nothing is known of the file, and nothing is said of it."""
    for _ in range(N):
        said("file.open", **{"error.type": "EFAULT"})
        assert call("openat", AT_FDCWD, 8, 0) == -14
        said("file.stat", **{"error.type": "EFAULT"})
        assert call("newfstatat", AT_FDCWD, 0, STAT_BUFFER, 0) == -14
        said("file.rename", **{"file.path": text(folder), "error.type": "EFAULT"})
        assert call("rename", folder, 8) == -14


if __name__ == "__main__":
    main()
