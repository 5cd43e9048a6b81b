# SPDX-License-Identifier: Apache-2.0
"""A program of our own that user probes are tried on: a hundred bytes of machine code in a file without a name.

It calls a function of its own a few times and ends with what its semaphore then says. No other process maps the file, so
what is tried on it disturbs nobody. With `filtered` it first forbids itself every system call but its end (seccomp(2)), as
a container's filter does with those it does not know.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import struct
from collections.abc import Iterator

CALLS = 7
FUNCTION = 0x1F0  # offset in the file
SEMAPHORE = 0x1000  # offset in the file, of a page that may be written
AVAILABLE = platform.machine() == "x86_64"  # whose machine code this is
_BASE = 0x400000
_CODE = 0x100
_NAME = "ks_specimen"
_MFD_EXEC = 0x10  # Linux 6.3

_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
_EXIT = 60
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000


def _filter() -> bytes:
    """Classic BPF: only exit(2) of this architecture."""
    rules = (
        (0x20, 0, 0, 4),  # the architecture
        (0x15, 0, 3, _X86_64),
        (0x20, 0, 0, 0),  # the system call
        (0x15, 0, 1, _EXIT),
        (0x06, 0, 0, _ALLOW),
        (0x06, 0, 0, _KILL_PROCESS),
    )
    return b"".join(struct.pack("<HBBI", *rule) for rule in rules)


def _prctl(option: int, second: int, third: int) -> bytes:
    """prctl(option, second, third, 0, 0)."""
    return (
        b"\xbf" + struct.pack("<I", option)  # mov edi
        + b"\xbe" + struct.pack("<I", second)  # mov esi
        + b"\xba" + struct.pack("<I", third)  # mov edx
        + b"\x4d\x31\xd2\x4d\x31\xc0"  # xor r10, r10; xor r8, r8
        + b"\xb8\x9d\x00\x00\x00\x0f\x05"  # mov eax, 157; syscall
    )  # fmt: skip


def _content(filtered: bool) -> bytes:
    """The ELF file: a page of code, a page of data whose first two bytes are the semaphore."""
    if not AVAILABLE:  # there is an instruction to probe, and nothing to run
        return bytes(FUNCTION) + b"\x1f\x20\x03\xd5\xc0\x03\x5f\xd6" + bytes(SEMAPHORE)  # arm64: nop; ret
    rules = _filter()
    program, table = SEMAPHORE + 0x20, SEMAPHORE + 0x40  # struct sock_fprog, and what it points to
    code = b""
    if filtered:
        code += _prctl(38, 1, 0) + _prctl(22, 2, _BASE + program)  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
    code += b"\xbb" + struct.pack("<I", CALLS)  # mov ebx
    loop = len(code)
    code += b"\xe8" + struct.pack("<i", FUNCTION - (_CODE + len(code) + 5))  # call the function
    code += b"\xff\xcb"  # dec ebx
    code += b"\x75" + struct.pack("<b", loop - (len(code) + 2))  # jnz loop
    code += b"\x0f\xb7\x3c\x25" + struct.pack("<I", _BASE + SEMAPHORE)  # movzx edi, word [semaphore]
    code += b"\xb8\x3c\x00\x00\x00\x0f\x05"  # mov eax, 60; syscall
    if _CODE + len(code) > FUNCTION:
        raise ValueError("the specimen's code has no room")
    function = b"\x55\x48\x89\xe5\x89\xd8\x5d\xc3"  # push rbp; mov rbp, rsp; mov eax, ebx; pop rbp; ret
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _CODE, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, 0x200, 0x200, 0x1000)
    at = _BASE + SEMAPHORE
    segments += struct.pack("<IIQQQQQQ", 1, 6, SEMAPHORE, at, at, 0x100, 0x100, 0x1000)
    content = bytearray(SEMAPHORE + 0x100)
    for place, part in (
        (0, header + segments),
        (_CODE, code),
        (FUNCTION, function),
        (program, struct.pack("<HxxxxxxQ", len(rules) // 8, _BASE + table)),
        (table, rules),
    ):
        content[place : place + len(part)] = part
    return bytes(content)


@contextlib.contextmanager
def file(*, filtered: bool = False) -> Iterator[int]:
    """A descriptor of the program's file, which is gone when it is closed. Raises OSError."""
    try:
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | _MFD_EXEC)  # else the machine's setting vm.memfd_noexec decides
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    try:
        os.write(fd, _content(filtered))
        yield fd
    finally:
        os.close(fd)


def run(fd: int) -> int:
    """Runs it: what its semaphore said when it ended (0: not raised), or minus the signal that ended it. Raises OSError."""
    pid = os.posix_spawn(f"/proc/self/fd/{fd}", ["specimen"], {})
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    return os.waitstatus_to_exitcode(status)
