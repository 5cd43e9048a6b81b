# SPDX-License-Identifier: Apache-2.0
"""What paths through the kernel's structs give, beside what the kernel says itself by system calls and /proc.

Steps are walked here as a program would, over this very process's task_struct, read by a program of a few instructions:
who says what is right has nothing to do with BTF.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.probes import direct
from kernelspan_agent.probes.ktypes import KernelTypes, LeafKind, Resolved
from kernelspan_agent.probes.memberpath import resolve
from kernelspan_agent.probes.typeparse import pointer_to

Read = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Observation:
    """A path, what it must give, and what it gave."""

    path: str
    expected: int | str
    found: int | str


def bytes_at(read: Read, address: int, size: int) -> bytes:
    """So many bytes of the kernel's memory."""
    words = b"".join(read(address + at).to_bytes(8, "little") for at in range(0, size, 8))
    return words[:size]


def value(read: Read, start: int, found: Resolved) -> int | str:
    """What a program would make of the steps and the leaf: a number, a text, or of a struct its address."""
    address = start
    for step in found.steps:
        assert not step.user
        address += step.offset
        if step.dereference:
            address = read(address)
    leaf = found.leaf
    if leaf.kind is LeafKind.STRUCT:
        return address
    data = bytes_at(read, address, leaf.size)
    if leaf.kind is LeafKind.STRING:
        return data.split(b"\0")[0].decode()
    if leaf.bit_size:
        return int.from_bytes(data, "little") >> leaf.bit_offset & (1 << leaf.bit_size) - 1
    return int.from_bytes(data, "little", signed=leaf.signed)


def observations() -> list[Observation]:
    """Everything, of this process."""
    with KernelTypes.open() as types, direct.memory() as (read, task):
        return [
            Observation(
                path, expected, value(read, task, resolve(types, pointer_to(types, "struct task_struct *"), path))
            )
            for path, expected in itertools.chain(_of_process(), _of_bits(), _of_sockets(), _of_files())
        ]


def _status(name: str, pid: str = "self") -> str:
    found = re.search(rf"^{name}:\s+(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _namespace(name: str) -> int:
    return int(re.findall(r"\d+", Path(f"/proc/self/ns/{name}").readlink().name)[0])


def _of_process() -> Iterator[tuple[str, int | str]]:
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # proc(5): the third field is the first here
    yield "comm", Path("/proc/self/comm").read_text().rstrip()
    yield "comm[0]", ord(Path("/proc/self/comm").read_text()[0])
    yield "group_leader.comm", Path("/proc/self/comm").read_text().rstrip()
    yield "mm.owner.real_parent.comm", Path(f"/proc/{_status('PPid')}/comm").read_text().rstrip()
    yield "signal.oom_score_adj", int(Path("/proc/self/oom_score_adj").read_text())
    yield "signal.rlim[7].rlim_cur", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield "mm.arg_start", int(stat[45])
    yield "mm.start_code", int(stat[23])
    yield "cred.uid.val", os.getuid()
    yield "nsproxy.net_ns.ns.inum", _namespace("net")
    yield "nsproxy.uts_ns.name.release", os.uname().release
    yield "nsproxy.uts_ns.name.nodename", os.uname().nodename
    yield "mm.exe_file.f_inode.i_ino", Path("/proc/self/exe").stat().st_ino
    yield "mm.exe_file.f_path.dentry.d_inode.i_size", Path("/proc/self/exe").stat().st_size
    level = len(re.findall(r"^NSpid:(.*)", Path("/proc/self/status").read_text(), re.MULTILINE)[0].split()) - 1
    yield f"thread_pid.numbers[{level}].nr", os.getpid()
    yield "static_prio", int(stat[15]) + 100


def _of_bits() -> Iterator[tuple[str, int | str]]:
    """Bit-fields whose neighbours are others: signal.is_child_subreaper and has_child_subreaper share a word."""
    libc = ctypes.CDLL(None)
    set_subreaper, policy = 36, os.sched_getscheduler(0)  # PR_SET_CHILD_SUBREAPER
    for wanted in (1, 0):
        assert libc.prctl(set_subreaper, wanted, 0, 0, 0) == 0
        yield "signal.is_child_subreaper", wanted
    for flag in (os.SCHED_RESET_ON_FORK, 0):
        os.sched_setscheduler(0, policy | flag, os.sched_getparam(0))
        yield "sched_reset_on_fork", int(bool(flag))
    os.sched_setscheduler(0, policy, os.sched_getparam(0))


def _of_sockets() -> Iterator[tuple[str, int | str]]:
    with socket.socket() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen(7)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.connect(listening.getsockname())
        at = f"files.fdt.fd[{client.fileno()}]"
        sock = f"{at}.private_data.(struct socket *).sk"
        yield f"{sock}.__sk_common.skc_dport", socket.htons(listening.getsockname()[1])
        yield f"{sock}.__sk_common.skc_num", client.getsockname()[1]
        yield f"{sock}.(struct inet_sock *).inet_sport", socket.htons(client.getsockname()[1])
        yield f"{sock}.(struct tcp_sock *).inet_conn.icsk_inet.sk.__sk_common.skc_num", client.getsockname()[1]
        yield f"{sock}.(struct tcp_sock *).(struct sock *).__sk_common.skc_num", client.getsockname()[1]
        yield f"{sock}.__sk_common.skc_reuse", 1  # a bit-field
        yield f"{sock}.__sk_common.skc_daddr", int.from_bytes(socket.inet_aton("127.0.0.1"), "little")
        yield f"{sock}.sk_protocol", socket.IPPROTO_TCP
        yield f"{sock}.__sk_common.skc_prot.name", "TCP"
        yield f"{sock}.sk_socket.(struct socket_alloc *).vfs_inode.i_ino", os.fstat(client.fileno()).st_ino
        yield f"files.fdt.fd[{listening.fileno()}].private_data.(struct socket *).sk.sk_max_ack_backlog", 7


def _of_files() -> Iterator[tuple[str, int | str]]:
    fd = os.open("/proc/self/comm", os.O_RDONLY)
    try:
        os.lseek(fd, 3, os.SEEK_SET)
        at = f"files.fdt.fd[{fd}]"
        yield f"{at}.f_pos", 3
        yield f"{at}.f_inode.i_ino", os.fstat(fd).st_ino
        yield f"{at}.f_inode.(struct proc_inode *).vfs_inode.i_ino", os.fstat(fd).st_ino
        yield f"{at}.f_inode.i_mode", os.fstat(fd).st_mode
    finally:
        os.close(fd)
