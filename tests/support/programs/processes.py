# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG001 - a scenario is given its folder and may not need it
"""Every system call on processes. Needs root; mounts are in a name space of its own; `vfork` is compiled by the test."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from scenarios import AT_EMPTY_PATH, AT_FDCWD, N, Said, call, libc, main, said_result, scenario

ARGUMENT, CHILD, CODE, SIGNAL = (
    "kernelspan.argument", "kernelspan.child.pid", "process.exit.code", "kernelspan.signal.number",
)  # fmt: skip
TRUE = b"/bin/true"
VFORK, OLD_CALLS, SMALL32 = (os.environb.get(name, b"") for name in (b"VFORK", b"OLD_CALLS", b"SMALL32"))
REAL_TRUE = os.path.realpath(TRUE)
NOTHING = (ctypes.c_char_p * 2)(b"true", None)
MS_REC, MS_PRIVATE, CLONE_NEWNS, SIGCHLD = 0x4000, 0x40000, 0x20000, 17
text = os.fsdecode


class Others:
    """What children say they did, by pid: they cannot say it themselves once they are another program."""

    def __init__(self) -> None:
        self.said: dict[int, list[dict[str, Any]]] = {}

    def run(self, said: Said, act: Callable[[], Any], *expected: dict[str, Any]) -> int:
        """Runs `act` in a forked child, which must exit 0."""
        pid = os.fork()
        if pid == 0:
            act()
            os._exit(99)
        self.note(said, pid, *expected)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def note(self, said: Said, pid: int, *expected: dict[str, Any]) -> None:
        said("process.fork", **{CHILD: pid})
        self.said[pid] = list(expected)


def _exec(path: bytes | str) -> dict[str, Any]:
    return {"name": "process.exec", "file.path": text(path) if isinstance(path, bytes) else path}


def _exit(code: int) -> dict[str, Any]:
    return {"name": "process.exit", CODE: code}


def _ends(said: Said) -> None:
    """The scenario's own end, which follows."""
    said("process.exit", **{CODE: 0})


@scenario
def execs(folder: bytes, said: Said) -> dict[str, Any]:
    others = Others()
    file = os.open(folder + b"/not executable", os.O_CREAT | os.O_RDONLY, 0o600)
    program = os.open(TRUE, os.O_PATH)
    bin_folder = os.open(b"/bin", os.O_PATH)
    os.chdir(b"/usr")
    for _ in range(N):
        for act, path, code in (
            (lambda: call("execve", b"/absent", NOTHING, 0), "/absent", 2),
            (lambda: call("execve", b"absent/too", NOTHING, 0), "/usr/absent/too", 2),
            (lambda: call("execve", folder + b"/not executable", NOTHING, 0), text(folder + b"/not executable"), 13),
            (lambda: call("execveat", bin_folder, b"absent", NOTHING, 0, 0), "/usr/bin/absent", 2),
            (lambda: call("execveat", file, b"", NOTHING, 0, AT_EMPTY_PATH), text(folder + b"/not executable"), 13),
            (lambda: call("execve", b"", NOTHING, 0), None, 2),
            (lambda: call("execve", 8, NOTHING, 0), None, 14),
        ):
            assert act() == -code
            said("process.exec", **{"file.path": path}, **said_result(-code))
        for act, path in (
            (lambda: call("execve", TRUE, NOTHING, 0), TRUE),
            (lambda: call("execve", b"../bin/true", NOTHING, 0), "/usr/../bin/true"),
            (lambda: call("execveat", AT_FDCWD, b"bin/true", NOTHING, 0, 0), "/usr/bin/true"),
            (lambda: call("execveat", bin_folder, b"true", NOTHING, 0, 0), "/usr/bin/true"),
            (lambda: call("execveat", program, b"", NOTHING, 0, AT_EMPTY_PATH), REAL_TRUE),
        ):
            assert others.run(said, act, _exec(path), _exit(0)) == 0
    _ends(said)
    return {"others": others.said, "calls": ["execve", "execveat"]}


@scenario
def exec_by_thread(folder: bytes, said: Said) -> dict[str, Any]:
    """A thread that is not the first execs: it becomes the first, and the others end."""
    others = Others()

    def act() -> None:
        thread = threading.Thread(target=lambda: call("execve", TRUE, NOTHING, 0))
        thread.start()
        thread.join()

    for _ in range(N):
        assert others.run(said, act, _exec(TRUE), _exit(0)) == 0
    _ends(said)
    return {"others": others.said}


@scenario
def forks(folder: bytes, said: Said) -> dict[str, Any]:
    """A new process is a fork, a new thread is none."""
    others = Others()
    request = struct.pack("<8Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0)
    for make in (
        lambda: call("fork"),
        lambda: call("clone", SIGCHLD, 0, 0, 0, 0),
        lambda: call("clone3", request, len(request)),
    ):
        for _ in range(N):
            pid = make()
            if pid == 0:
                os._exit(0)
            others.note(said, pid, _exit(0))
            os.waitpid(pid, 0)
    for _ in range(N):
        pid = os.posix_spawn(TRUE, [TRUE], {})
        others.note(said, pid, _exec(TRUE), _exit(0))
        os.waitpid(pid, 0)
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        assert call("clone3", request, 3) == -22
        said("process.fork", **said_result(-22))
    _ends(said)
    return {"others": others.said, "calls": ["fork", "clone", "clone3"]}


@scenario
def vforks(folder: bytes, said: Said) -> dict[str, Any]:
    """A program says which children it had by vfork, and what each did: exit N, or exec."""
    others = Others()
    source, out = os.pipe()

    def act() -> None:
        os.dup2(out, 1)
        os.execv(VFORK, [VFORK, b"%d" % N, TRUE])

    assert others.run(said, act) == 0
    os.close(out)
    (parent,) = others.said
    children = [int(line) for line in os.read(source, 65536).split()]
    for index, pid in enumerate(children):
        others.said[pid] = [_exec(TRUE), _exit(0)] if index % 2 else [_exit(index)]
    made = [{"name": "process.fork", CHILD: pid} for pid in children]
    others.said[parent] = [_exec(VFORK), *made, _exit(0)]
    _ends(said)
    return {"others": others.said, "calls": ["vfork"]}


@scenario
def of_32_bits(folder: bytes, said: Said) -> dict[str, Any]:
    """32-bit calls have other numbers: they are not seen, and taken for no other call. Starting such a program is seen."""
    others = Others()
    for _ in range(N):
        assert others.run(said, lambda: os.execv(SMALL32, [SMALL32]), _exec(SMALL32)) == 0
        assert others.run(said, lambda: os.execv(OLD_CALLS, [OLD_CALLS]), _exec(OLD_CALLS), _exit(0)) == 0
    _ends(said)
    return {"others": others.said}


@scenario
def in_a_pid_namespace(folder: bytes, said: Said) -> dict[str, Any]:
    """The child's pid is told as it is outside: here the first process of a new PID name space, there 1."""
    source, out = os.pipe()
    others = Others()

    def inside() -> None:
        assert libc.unshare(0x20000000) == 0  # CLONE_NEWPID: for its children
        pid = os.fork()
        if pid == 0:
            child = call("fork")
            if child == 0:
                os._exit(5)
            os.waitpid(child, 0)
            os._exit(0)
        os.write(out, b"%d" % pid)
        os.waitpid(pid, 0)
        os._exit(0)

    assert others.run(said, inside) == 0
    (parent,), first = others.said, int(os.read(source, 100))
    others.said[parent] = [{"name": "process.fork", CHILD: first}, _exit(0)]
    _ends(said)
    return {"others": others.said, "first": first}


@scenario
def exits(folder: bytes, said: Said) -> dict[str, Any]:
    others = Others()
    for code in (0, 1, 3, 127, 255, 256 + 7, -1):
        status = others.run(said, lambda given=code: call("exit_group", given), _exit(code & 255))
        assert status == code & 255
    status = others.run(said, lambda: os.kill(os.getpid(), signal.SIGKILL), {"name": "process.signal", SIGNAL: 9})
    assert status == -9
    _ends(said)
    return {"others": others.said, "calls": ["exit_group"]}


@scenario
def signals(folder: bytes, said: Said) -> dict[str, Any]:
    me, number = os.getpid(), signal.SIGWINCH
    info = struct.pack("<iiiiii", number, 0, -1, 0, me, 0) + bytes(104)
    pidfd = os.pidfd_open(me)
    makers = {
        "kill": lambda: call("kill", me, number),
        "tkill": lambda: call("tkill", me, number),
        "tgkill": lambda: call("tgkill", me, me, number),
        "rt_sigqueueinfo": lambda: call("rt_sigqueueinfo", me, number, info),
        "rt_tgsigqueueinfo": lambda: call("rt_tgsigqueueinfo", me, me, number, info),
        "pidfd_send_signal": lambda: call("pidfd_send_signal", pidfd, number, 0, 0),
    }
    for act in makers.values():
        for _ in range(N):
            assert act() == 0
            said("process.signal", **{SIGNAL: number})
    for _ in range(N):
        assert call("kill", 1 << 22, 0) == -3
        said("process.signal", **{SIGNAL: 0}, **said_result(-3))
    _ends(said)
    return {"calls": list(makers)}


@scenario
def identities(folder: bytes, said: Said) -> dict[str, Any]:
    """Each call with what does not change it, then as somebody who may not."""
    same = 0xFFFFFFFF  # (uid_t)-1
    makers: dict[str, tuple[Any, ...]] = {
        "setuid": (0,), "setgid": (0,), "setreuid": (same, 0), "setregid": (same, 0), "setresuid": (same, 0, same),
        "setresgid": (same, 0, same), "setfsuid": (0,), "setfsgid": (0,),
    }  # fmt: skip
    for name, arguments in makers.items():
        for _ in range(N):
            assert call(name, *arguments) == 0
            said("process.set_id", **{ARGUMENT: 0})
    assert call("setgroups", 0, 0) == 0
    said("process.set_id", **{ARGUMENT: 0})
    assert call("setresuid", 65534, 65534, 65534) == 0
    said("process.set_id", **{ARGUMENT: 65534})
    for _ in range(N):
        assert call("setuid", 12345) == -1
        said("process.set_id", **{ARGUMENT: 12345}, **said_result(-1))
        assert call("setreuid", -1, 12345) == -1
        said("process.set_id", **{ARGUMENT: 12345}, **said_result(-1))
    _ends(said)
    return {"calls": [*makers, "setgroups"]}


@scenario
def traces(folder: bytes, said: Said) -> dict[str, Any]:
    for _ in range(N):
        for request, code in ((17, 3), (0x4206, 3), (16, 1)):  # DETACH, SEIZE, ATTACH to oneself
            result = call("ptrace", request, os.getpid() if request == 16 else 1 << 22, 0, 0)
            assert result == -code
            said("process.ptrace", **{ARGUMENT: request}, **said_result(result))
    _ends(said)
    return {"calls": ["ptrace"]}


@scenario
def mounts(folder: bytes, said: Said) -> dict[str, Any]:
    assert libc.unshare(CLONE_NEWNS) == 0
    assert call("mount", b"none", b"/", 0, MS_REC | MS_PRIVATE, 0) == 0
    said("process.mount", **{"file.path": "/"})
    at, to = folder + b"/at", folder + b"/to"
    os.mkdir(at)  # noqa: PTH102 - a path of bytes
    os.mkdir(to)  # noqa: PTH102
    os.chdir(folder)
    above = os.open(folder, os.O_PATH)
    for _ in range(N):
        assert call("mount", b"none", b"at", b"tmpfs", 0, 0) == 0
        said("process.mount", **{"file.path": text(at)})
        assert call("move_mount", AT_FDCWD, b"at", above, b"to", 0) == 0
        said("process.mount", **{"file.path": text(to)})
        assert call("umount2", to, 0) == 0
        said("process.mount", **{"file.path": text(to)})
        said("process.mount", **{"file.path": text(to)}, **said_result(call("umount2", to, 0)))
        said("process.mount", **{"file.path": text(at)}, **said_result(call("pivot_root", at, at)))
        said("process.mount", **{"file.path": "/absent"}, **said_result(call("mount", b"x", b"/absent", b"x", 0, 0)))
    _ends(said)
    return {"calls": ["mount", "move_mount", "umount2", "pivot_root"]}


@scenario
def modules(folder: bytes, said: Said) -> dict[str, Any]:
    """Nothing is loaded: what is offered is no module."""
    file = os.open(folder + b"/module.ko", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(file, b"no module at all")
    for _ in range(N):
        results = [call("init_module", b"no module", 9, b""), call("delete_module", b"no module", 0)]
        for result in results:
            assert result < 0
            said("process.module_load", **said_result(result))
        result = call("finit_module", file, b"", 0)
        assert result < 0
        said("process.module_load", **{"file.path": text(folder + b"/module.ko")}, **said_result(result))
    _ends(said)
    return {"calls": ["init_module", "delete_module", "finit_module"]}


if __name__ == "__main__":
    main()
    sys.exit(0)
