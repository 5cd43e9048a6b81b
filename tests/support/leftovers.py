# SPDX-License-Identifier: Apache-2.0
"""What an agent could leave behind in the kernel: programs, maps, links, perf events, pins, mounts, processes.

Other agents may run on the machine meanwhile. So an object counts as left behind where no living process holds it (it is
pinned, or attached by itself), or one of ours does. Source: include/uapi/linux/bpf.h; proc(5), fdinfo.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.probes import bpf
from tests.support import vm

PREFIX = "ks_"
SECONDS = 10.0  # the kernel frees behind an RCU grace period or a few
_NEXT_ID = {"prog": 11, "map": 12, "link": 31}
_FD_BY_ID = {"prog": 13, "map": 14, "link": 30}
_INFO = 15
_NAME_AT = {"prog": 64, "map": 24}
_PROG_ID_OF_LINK_AT = 8  # struct bpf_link_info: type, id, prog_id


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of ours in the kernel."""

    kind: str  # prog, map, link, perf event, pin, mount, process
    number: int
    name: str


def _ids(kind: str) -> Iterator[int]:
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 144)
        try:
            _call(_NEXT_ID[kind], attributes)
        except FileNotFoundError:
            return
        number = struct.unpack_from("<I", attributes.raw, 4)[0]
        yield number


def _call(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(321, command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _info(kind: str, number: int) -> bytes:
    fd = bpf.call(_FD_BY_ID[kind], struct.pack("<III", number, 0, 0))
    try:
        found = ctypes.create_string_buffer(256)
        bpf.call(_INFO, struct.pack("<IIQ", fd, 256, ctypes.addressof(found)))
        return found.raw
    finally:
        os.close(fd)


def objects() -> dict[Thing, int]:
    """Every program, map and link of any agent, and for links the number of the program."""
    found: dict[Thing, int] = {}
    programs: set[int] = set()
    for kind in ("prog", "map", "link"):
        for number in _ids(kind):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                info = _info(kind, number)
                if kind == "link":
                    (program,) = struct.unpack_from("<I", info, _PROG_ID_OF_LINK_AT)
                    if program in programs:
                        found[Thing(kind, number, "")] = program
                    continue
                name = info[_NAME_AT[kind] : _NAME_AT[kind] + 16].split(b"\0", 1)[0].decode()
                if name.startswith(PREFIX):
                    found[Thing(kind, number, name)] = 0
                    if kind == "prog":
                        programs.add(number)
    return found


def _held() -> dict[tuple[str, int], set[int]]:
    """(kind, number) -> the processes that have a descriptor of it; perf events have no number: 0."""
    found: dict[tuple[str, int], set[int]] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for fd in folder.iterdir():
                with contextlib.suppress(OSError):
                    target = str(fd.readlink())
                    pid = int(folder.parent.name)
                    if "[perf_event]" in target:
                        found.setdefault(("perf event", 0), set()).add(pid)
                    elif "bpf" in target:
                        text = (folder.parent / "fdinfo" / fd.name).read_text()
                        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                        # a link's descriptor holds its program too
                        for kind in ("prog", "map", "link"):
                            if f"{kind}_id" in lines:
                                found.setdefault((kind, int(lines[f"{kind}_id"])), set()).add(pid)
    return found


def descendants(pid: int) -> set[int]:
    """The processes that come from `pid`, zombies aside."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += [child for each in task.read_text().split() if _lives(child := int(each))]
        found.update(todo)
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def mounts() -> set[str]:
    """Mount points and types of this name space, pins in a bpffs with them; not what `ip netns` keeps for itself."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == "/run/netns":
            continue
        kind = fields[fields.index("-") + 1]
        found.add(f"{kind} {fields[4]}")
        if kind == "bpf":
            found.update(f"pin {path}" for path in Path(fields[4]).rglob(f"{PREFIX}*"))
    return found


def left_behind(before: set[str], known: AbstractSet[int] = frozenset()) -> list[Thing]:
    """What is there now that should not be. `before`: `mounts()` of the beginning; `known`: processes that may be."""
    own = {os.getpid(), *descendants(os.getpid())}
    for machine in vm.processes():  # that other tests wait for
        own -= {machine, *descendants(machine)}
    listed, held = objects(), _held()
    found = []
    for thing in listed:
        holders = held.get((thing.kind, thing.number), set())
        # a map is held by the programs that use it, a program by its links: only what holds itself is named
        if holders & own or (not holders and thing.kind != "map"):
            found.append(thing)
    found += [Thing("perf event", 0, f"held by {pid}") for pid in held.get(("perf event", 0), set()) & own]
    found += [Thing("mount", 0, mount) for mount in mounts() - before]
    found += [Thing("process", pid, _command(pid)) for pid in own - {os.getpid()} - known]
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def check(before: set[str], known: AbstractSet[int] = frozenset()) -> None:
    """Raises AssertionError that names what is left behind once the kernel has had time to free it."""
    deadline = time.monotonic() + SECONDS
    while found := left_behind(before, known):
        assert time.monotonic() < deadline, f"left behind: {found}"
        time.sleep(0.1)
