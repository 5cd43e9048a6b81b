# SPDX-License-Identifier: Apache-2.0
"""Equal data by user probes: our own programs, attached to libc's functions instead of to the kernel.

The groups' C text is the agent's own; what differs is only where a call's number, arguments and result come from: the
attach cookie and the registers of a function call. So the same record, with the same path ids and the same walk of the
same frames, goes the same way to the same export. A failed call gives -1 here and not the error's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.attaching import libc_path, offsets_of, user_probe
from bench.processes import BenchError
from kernelspan_agent.probes import bpf, build, mechanisms, source
from kernelspan_agent.probes.attach import Attachment
from kernelspan_api.operations import Group
from kernelspan_api.plan import Wanted

# libc's function: the system call whose arguments it has. stat64 and its like call fstatat64 themselves.
FUNCTIONS = {
    Group.FILES: {
        "open64": "open", "openat64": "openat", "read": "read", "pread64": "pread64", "readv": "readv",
        "write": "write", "pwrite64": "pwrite64", "writev": "writev", "fsync": "fsync", "fdatasync": "fdatasync",
        "rename": "rename", "unlink": "unlink", "unlinkat": "unlinkat",
        "fstatat64": "newfstatat", "access": "access", "getdents64": "getdents64",
    },
    Group.NETWORK: {
        "connect": "connect", "accept": "accept", "accept4": "accept4", "send": "sendto", "sendto": "sendto",
        "sendmsg": "sendmsg", "write": "write", "writev": "writev", "recv": "recvfrom", "recvfrom": "recvfrom",
        "recvmsg": "recvmsg", "read": "read", "readv": "readv", "close": "close",
    },
}  # fmt: skip
_NUMBERS = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"

_CONTEXT = """struct ks_sys_enter {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
};

struct ks_sys_exit {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	s64 ret;
	u64 cx, dx, si, di;
};

static u64 (*ks_cookie)(void *ctx) = (void *)174; /* bpf_get_attach_cookie */
"""
_ARGUMENTS = "args->v[0] = ctx->di; args->v[1] = ctx->si; args->v[2] = ctx->dx; args->v[3] = ctx->cx;"
_CHANGES = (
    (r"struct ks_sys_enter \{\n\tu64 common;.*?\n\};\n\nstruct ks_sys_exit \{\n\tu64 common;.*?\n\};\n", _CONTEXT),
    (r"(s32 ks_nr\(struct ks_sys_enter \*ctx\)\n\{\n\treturn )ctx->nr;", r"\1(s32)ks_cookie(ctx);"),
    (r"(s32 ks_exit_nr\(struct ks_sys_exit \*ctx\)\n\{\n\treturn )ctx->nr;", r"\1(s32)ks_cookie(ctx);"),
    (r"ks_read_kernel\(args, sizeof\(\*args\), \(void \*\)\(ctx \+ 1\)\);", _ARGUMENTS),
)


def text_of(module: str) -> str:
    """A module's C text for function calls. Raises BenchError where the agent's text is not as it was."""
    text = source.module_text(module)
    if module in {group.value for group in FUNCTIONS}:
        for pattern, replacement in _CHANGES:
            text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
            if count != 1:
                raise BenchError(f"{module}.bpf.c has {count} places like {pattern!r}: bench/userprobes.py must follow")
    return text


def _numbers() -> dict[str, int]:
    found = re.findall(r"#define __NR_(\w+) (\d+)", Path(_NUMBERS).read_text())
    return {name: int(number) for name, number in found}


def _attach(wanted: Wanted, programs: Mapping[str, int], _link: mechanisms.Link) -> Iterator[Attachment]:
    numbers, library = _numbers(), libc_path()
    for group in wanted.groups:
        if group not in FUNCTIONS:
            raise BenchError(f"no user probes for the group {group.value}")
        calls = set(mechanisms.calls_of(group, wanted))
        names = {symbol: call for symbol, call in FUNCTIONS[group].items() if call in calls}
        places = {offset: numbers[names[symbol]] for symbol, offset in offsets_of(library, list(names)).items()}
        enter, leave = source.GROUP_PROGRAMS[group][:2]
        for program, at_return in ((leave, True), (enter, False)):
            for offset, number in places.items():
                yield user_probe(library, offset, programs[program], at_return=at_return, word=number)


USER_PROBES = mechanisms.Mechanism("UserProbes", False, bpf.PROG_KPROBE, "ks_walkers", _attach)


def install() -> None:
    """Makes this process's agent attach so."""
    vars(build)["module_text"] = text_of
    vars(mechanisms)["choose"] = lambda _wanted: USER_PROBES
