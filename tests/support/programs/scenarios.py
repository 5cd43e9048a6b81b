# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PTH102 - paths are bytes, lambdas are called where they are made
"""Scenarios: functions that do known operations, each in a process of its own, and say what they did.

`main` prints a line of JSON a scenario: name, pid, what it says it did, whatever else it has to say. Nothing here makes
a system call that the scenario did not ask for, but its exit. Standard library only: it runs under any interpreter.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
N = 7  # how often most things are done: a prime, so that no halving or doubling goes unseen
# asm/unistd_64.h
NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "pread64": 17,
    "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "select": 23, "pause": 34, "nanosleep": 35,
    "sendfile": 40, "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47,
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "fsync": 74, "fdatasync": 75, "getdents": 78,
    "rename": 82, "rmdir": 84, "creat": 85, "unlink": 87, "ptrace": 101, "setuid": 105, "setgid": 106, "setreuid": 113,
    "setregid": 114, "setgroups": 116, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
    "rt_sigqueueinfo": 129, "pivot_root": 155, "mount": 165, "umount2": 166, "init_module": 175, "delete_module": 176,
    "tkill": 200, "futex": 202, "getdents64": 217, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232,
    "tgkill": 234, "openat": 257, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "sync_file_range": 277, "epoll_pwait": 281, "accept4": 288, "preadv": 295,
    "pwritev": 296, "rt_tgsigqueueinfo": 297, "recvmmsg": 299, "sendmmsg": 307, "finit_module": 313, "renameat2": 316,
    "execveat": 322, "copy_file_range": 326, "preadv2": 327, "pwritev2": 328, "statx": 332, "pidfd_send_signal": 424,
    "move_mount": 429, "clone3": 435, "openat2": 437, "faccessat2": 439, "epoll_pwait2": 441, "futex_waitv": 449,
    "futex_wait": 455,
}  # fmt: skip
AT_FDCWD, AT_EMPTY_PATH, AT_REMOVEDIR = -100, 0x1000, 0x200
STAT_BUFFER = ctypes.create_string_buffer(4096)  # larger than any struct stat

Said = Callable[..., None]
SCENARIOS: dict[str, Callable[..., Any]] = {}


def scenario(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function a scenario. It is given the folder it may use (bytes) and `said`; what it gives goes with it."""
    SCENARIOS[function.__name__] = function
    return function


def call(name: str, *arguments: Any) -> int:
    """A system call as it is: its result, or the negative errno. Bytes are passed by address, numbers as 64 bits."""
    made = [
        each if isinstance(each, (bytes, ctypes.Array, ctypes.Structure)) else ctypes.c_long(each) for each in arguments
    ]
    result: int = _syscall(
        NUMBERS[name], *(ctypes.byref(each) if isinstance(each, ctypes.Structure) else each for each in made)
    )
    return result if result != -1 else -ctypes.get_errno()


def setting(act: Callable[[], Any]) -> None:
    """Makes what a scenario needs in a child of its own, so that only what is under test is the scenario's."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the setting could not be made")


def said_result(result: int) -> dict[str, Any]:
    """What a failed call's span says of it; nothing for one that succeeded."""
    if result >= 0:
        return {}
    name = errno.errorcode[-result]
    waited = -result in (errno.EAGAIN, errno.EINPROGRESS, errno.EINTR)
    return {"kernelspan.result.name": name} if waited else {"error.type": name}


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("size", ctypes.c_size_t)]


def vectors(*parts: bytes | ctypes.Array[ctypes.c_char]) -> ctypes.Array[Any]:
    """A struct iovec[] of buffers."""
    made = (_Vector * len(parts))()
    for vector, part in zip(made, parts):  # noqa: B905 - Python 3.8
        vector.base = part if isinstance(part, bytes) else ctypes.cast(part, ctypes.c_char_p)
        vector.size = len(part)
    return made


def _child(name: str, folder: bytes, out: int) -> None:
    told: list[dict[str, Any]] = []

    def said(span: str, **attributes: Any) -> None:
        told.append({"name": span, **{key: value for key, value in attributes.items() if value is not None}})

    more = SCENARIOS[name](folder, said) or {}
    line = json.dumps({"name": name, "pid": os.getpid(), "said": told, "more": more})
    os.write(out, line.encode() + b"\n")


def main() -> None:
    """Runs every scenario, or those named after the folder, one after the other. A fault of one is ours."""
    base = os.fsencode(sys.argv[1])
    for name in sys.argv[2:] or list(SCENARIOS):
        folder = os.path.join(base, name.encode())
        os.mkdir(folder)
        source, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _child(name, folder, out)
            except BaseException:  # noqa: BLE001 - this is a child
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(70)
            os._exit(0)
        os.close(out)
        line = b""
        while part := os.read(source, 65536):
            line += part
        os.close(source)
        status = os.waitpid(pid, 0)[1]
        if not line:
            sys.exit(f"{name} said nothing: {status:#x}")
        os.write(1, line)
