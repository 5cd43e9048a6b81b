# SPDX-License-Identifier: Apache-2.0
"""The C text of a module: what is generated from our own descriptions, then the module's file.

`kernelspan render` prints what this gives; nothing from a profile is in it but numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernelspan_agent.ring import records
from kernelspan_agent.runtimes.registry import Runtime, all_runtimes
from kernelspan_api.operations import BY_NAME, Group, Operation

_C_TYPES = {"<u2": "u16", "<u4": "u32", "<u8": "u64", "<i8": "s64", "|u1": "u8", "<i4": "s32"}
_OWN_INCLUDE = re.compile(r'^#include "([\w./]+)"')
_TABLE_LINE = re.compile(r"^\s*X\((\w+), (\w+),", re.MULTILINE)

GROUP_PROGRAMS = {
    Group.FILES: ("ks_files_enter", "ks_files_exit"),
    Group.NETWORK: ("ks_net_enter", "ks_net_exit"),
    Group.PROCESSES: ("ks_proc_enter", "ks_proc_exit"),
    Group.WAITS: ("ks_wait_enter", "ks_wait_exit", "ks_switch"),
}
CORE_PROGRAMS = {"ks_fork": "sched_process_fork", "ks_exec": "sched_process_exec", "ks_gone": "sched_process_exit"}
MAPS_PROGRAM = "ks_map_exit"
REQUESTS, REQUESTS_PROGRAM = "requests", "ks_requests"  # the module, and the program in it


@dataclass(frozen=True, slots=True)
class Syscall:
    """A line of a group's KS_SYSCALLS table."""

    name: str
    operation: Operation


def bpf_directory() -> Path:
    """Where the C files are: beside the package in a wheel, at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent.parent / "bpf"


def syscalls(group: Group) -> list[Syscall]:
    """The system calls that make up a group's operations, as the group's C file lists them."""
    text = (bpf_directory() / f"{group.value}.bpf.c").read_text()
    return [Syscall(name, BY_NAME[group, operation]) for name, operation in _TABLE_LINE.findall(text)]


def walkers() -> dict[str, Runtime]:
    """The runtimes by their names, which are those of their walkers' modules."""
    return {runtime.name: runtime for runtime in all_runtimes()}


def c_struct(name: str, dtype: np.dtype) -> str:
    """A C struct of a dtype that has no padding."""
    members = "".join(f"\t{_C_TYPES[field.str]} {member};\n" for member, (field, *_) in (dtype.fields or {}).items())
    return f'struct {name} {{\n{members}}};\n_Static_assert(sizeof(struct {name}) == {dtype.itemsize}, "{name}");\n'


def _inlined(path: Path, seen: set[Path]) -> str:
    """A C file with our own headers in place of their includes: bcc rewrites map accesses in the main file only."""
    if path in seen:
        return ""
    seen.add(path)
    return _with_includes(path.read_text(), seen)


def _with_includes(text: str, seen: set[Path]) -> str:
    lines = []
    for line in text.splitlines():
        if include := _OWN_INCLUDE.match(line):
            at = bpf_directory()
            lines.append(_inlined(at / include[1] if "/" in include[1] else at / "include" / include[1], seen))
        elif line != "#pragma once":
            lines.append(line)
    return "\n".join(lines)


def _declared(runtime: Runtime) -> str:
    """What a walker's text is compiled with: its constants, the places of its programs, its structs."""
    walker = runtime.walker
    defines = {f"KS_RUNTIME_{runtime.name.upper()}": runtime.number, **walker.constants}
    for place, program in runtime.places.items():
        defines[f"KS_WALKER_{program.removeprefix('ks_').upper()}"] = place
    lines = [f"#define {name} {value}\n" for name, value in defines.items()]
    return "".join(lines + [c_struct(name, dtype) for name, dtype in walker.structs.items()])


def _flagged() -> str:
    """KS_FLAGGED: X(number of the runtime, flag, first eight bytes of a library's name, those that follow, a mask of them)."""
    lines = []
    for runtime in all_runtimes():
        for name, flag in runtime.flagged_by.items():
            first, rest = name[:8], name[8:16]
            words = (int.from_bytes(first, "little"), int.from_bytes(rest, "little"), (1 << 8 * len(rest)) - 1)
            lines.append(f"X({runtime.number}, {flag}, {', '.join(f'{word:#x}ULL' for word in words)})")
    return f"#define KS_FLAGGED(X) {' '.join(lines)}\n"


def module_text(module: str) -> str:
    """The whole text of a module (core, a runtime's name, or a group's), ready for bcc."""
    own = (bpf_directory() / f"{module}.bpf.c").read_text()
    return generated_text((_flagged() if module == "core" else "") + own, walkers().get(module))


def generated_text(body: str, runtime: Runtime | None = None) -> str:
    """The whole text of a module of which this is the own part; `runtime`: it is that one's walker."""
    return (
        "#include <linux/kconfig.h>\n"
        + (_declared(runtime) if runtime else "")
        + _with_includes(body, set())
        + "\n/* generated from ring/records.py */\n"
        + records.c_assertions()
    )
