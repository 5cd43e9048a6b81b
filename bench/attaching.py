# SPDX-License-Identifier: Apache-2.0
"""User probes by perf_event_open: uprobe and uretprobe on a function of a file, each with a word for its program.

Attached for all processes that map the file: of all ways the cheapest a hit (one consumer), and the unkindest to others.
Sources: perf_event_open(2); Documentation/trace/uprobetracer.rst; include/uapi/linux/bpf.h (BPF_LINK_CREATE).
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from bench.processes import BenchError
from kernelspan_agent.probes import bpf
from kernelspan_agent.probes.attach import Attachment
from kernelspan_agent.process.elf import read_elf, symbol_addresses

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
_LINK_CREATE, _PERF_EVENT = 28, 41
_ATTR_BYTES = 128
_PMU = Path("/sys/bus/event_source/devices/uprobe")
_libc = ctypes.CDLL(None, use_errno=True)


def offsets_of(path: str, symbols: list[str]) -> dict[str, int]:
    """File offsets of a library's functions; those it does not have are left out."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        elf = read_elf(fd)
        found = {}
        for name, address in symbol_addresses(elf, symbols).items():
            for segment in elf.segments:
                if segment.kind == 1 and segment.address <= address < segment.address + segment.file_bytes:
                    found[name] = address - segment.address + segment.offset
        return found
    finally:
        os.close(fd)


def user_probe(path: str, offset: int, program_fd: int, *, at_return: bool, word: int = 0) -> Attachment:
    """Attaches a kprobe program to a place of a file; `word` is its attach cookie. Raises BenchError."""
    name = ctypes.create_string_buffer(path.encode())
    kind = int((_PMU / "type").read_text())
    config = int(at_return) << int((_PMU / "format/retprobe").read_text().split(":")[1])
    attributes = struct.pack("<IIQ", kind, _ATTR_BYTES, config) + bytes(40)
    attributes += struct.pack("<QQ", ctypes.addressof(name), offset)
    attributes += bytes(_ATTR_BYTES - len(attributes))
    fd = int(_libc.syscall(_SYS_PERF_EVENT_OPEN, attributes, -1, 0, -1, 8))
    if fd < 0:
        raise BenchError(f"user probe at {path}+{offset:#x}: {os.strerror(ctypes.get_errno())}")
    try:
        link = bpf.call(_LINK_CREATE, struct.pack("<IIIIQ", program_fd, fd, _PERF_EVENT, 0, word))
    except OSError as error:
        raise BenchError(f"user probe at {path}+{offset:#x}: {error}") from error
    finally:
        os.close(fd)
    return Attachment(f"{path}:{offset:#x}", link)


def libc_path() -> str:
    """The C library that this process maps."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if "/libc.so" in path or "/libc-2" in path:
            return path
    raise BenchError("this process maps no C library")
