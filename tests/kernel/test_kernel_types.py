# SPDX-License-Identifier: Apache-2.0
"""What we say of this machine's kernel, beside what the kernel says itself."""

from __future__ import annotations

import ctypes
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf, constants
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.kfunctions import KernelFunctions
from kernelspan_agent.probes.ktypes import KernelTypes, LeafKind
from kernelspan_agent.probes.syscalls import names, system_call
from kernelspan_agent.probes.tracefs import FieldKind, Place, Tracefs
from kernelspan_agent.probes.typeparse import pointer_to, typed
from kernelspan_agent.probes.typetext import text as text_of
from tests.support import kernel_truth
from tests.support.require import require

_COMMAND = [sys.executable, "-c", "from kernelspan_agent.cli import main; main()", "list"]
_GROWN = 16 << 10  # KiB that opening may cost where the file has to be read


@pytest.fixture(scope="module")
def types() -> Iterator[KernelTypes]:
    with KernelTypes.open() as opened:
        yield opened


def test_paths_lead_to_what_the_kernel_says_itself() -> None:
    """Pointers, structs in structs, bit-fields, elements, casts: read in this very process's task_struct."""
    seen = kernel_truth.observations()
    assert len(seen) > 30
    assert [each for each in seen if each.expected != each.found] == []


def test_offsets_of_our_programs_are_found() -> None:
    """Every one, by one of its names."""
    with Btf.of_kernel() as kernel:
        for paths in constants.OFFSETS.values():
            found = [path for path in paths if _offset(kernel, path) is not None]
            assert found, paths


def _offset(kernel: Btf, path: str) -> int | None:
    try:
        return kernel.size(path[7:]) if path.startswith("sizeof ") else kernel.offset(path)
    except BtfError:
        return None


def test_sizes_are_those_of_the_interface(types: KernelTypes) -> None:
    """Structs that system calls take have one size for ever (include/uapi)."""
    uapi = {"iovec": 16, "sockaddr_in": 16, "sockaddr_in6": 28, "epoll_event": 12, "pollfd": 8, "rlimit": 16, "timespec64": 16, "pt_regs": 168}  # fmt: skip
    if platform.machine() != "x86_64":
        del uapi["pt_regs"], uapi["epoll_event"]
    assert {name: types.kernel.size(name) for name in uapi} == uapi
    assert types.leaf("", types.kernel.struct("iovec")).size == 2 * ctypes.sizeof(ctypes.c_void_p)


def test_functions_are_as_their_headers_declare_them(types: KernelTypes) -> None:
    """Ones that have not changed for ten years and more."""
    declared = {
        "vfs_read": ("ssize_t", ["struct file *", "char *", "size_t", "loff_t *"], ["file", "buf", "count", "pos"]),
        "tcp_set_state": ("", ["struct sock *", "int"], ["sk", "state"]),
        "ksys_write": ("ssize_t", ["unsigned int", "const char *", "size_t"], ["fd", "buf", "count"]),
    }
    for name, (returns, parameters, spelled) in declared.items():
        found = types.function(name)
        assert found is not None, name
        assert (found.returns.text if found.returns else "") == returns
        assert [each.type.text for each in found.parameters] == parameters
        assert [each.name for each in found.parameters] == spelled
        assert [each.slot for each in found.parameters] == list(range(len(parameters)))


def test_every_type_can_be_written_and_read(types: KernelTypes) -> None:
    """Every third of this kernel's: nothing is unsound, nothing without end."""
    kernel = types.kernel
    for number in range(0, kernel.count, 3):
        record = kernel.record(number)
        assert text_of(kernel, number)
        if record.kind not in {btf.FUNC, btf.VAR, btf.DATASEC, btf.DECL_TAG}:
            types.leaf("", number)
        if record.kind in {btf.STRUCT, btf.UNION}:
            assert all(each.bit_offset <= record.value * 8 for each in kernel.members(record))


def test_functions_in_one_pass_are_those_one_by_one(types: KernelTypes) -> None:
    """The list's way and a probe's."""
    some = ["vfs_read", "vfs_write", "tcp_sendmsg", "do_exit", "no_such_function"]
    assert types.functions(some) == {name: found for name in some if (found := types.function(name))}


def test_raw_tracepoints_have_names_and_types(types: KernelTypes) -> None:
    """include/trace/events/sched.h: task, pid before, bprm."""
    found = types.raw_tracepoint("sched_process_exec")
    assert found is not None
    assert [each.type.text for each in found.parameters] == ["struct task_struct *", "pid_t", "struct linux_binprm *"]
    assert [each.name for each in found.parameters] == ["p", "old_pid", "bprm"]
    assert types.raw_tracepoint("sys_enter_openat") is None
    some = ["sched_process_exec", "sys_enter", "sys_enter_openat", "tcp_retransmit_skb"]
    assert types.raw_tracepoints(some) == {name: one for name in some if (one := types.raw_tracepoint(name))}


def test_every_tracepoint_is_read(types: KernelTypes) -> None:
    """All of them, each field with a type that this kernel has and a size that fits it."""
    tracefs = Tracefs.find()
    listed = tracefs.events()
    assert ("sched", "sched_switch") in listed
    for category, name in listed:
        tracepoint = tracefs.tracepoint(category, name)
        assert tracepoint.number == tracefs.event_id(category, name)
        assert [each.name for each in tracepoint.common][:1] == ["common_type"]
        for each in tracepoint.fields:
            if each.place is not Place.RECORD:
                assert each.size == 4
            elif each.kind is FieldKind.POINTER:
                assert each.size == 8
            elif each.kind is FieldKind.INTEGER and category != "syscalls":
                leaf = typed(types, each.type)
                assert leaf is None or leaf.size in {0, each.size}, (category, name, each)


def test_every_system_call_has_its_function_and_arguments(types: KernelTypes) -> None:
    """Under the name that the call has for programs, too."""
    tracefs, symbols = Tracefs.find(), KernelFunctions()
    calls = {name: system_call(name, types, tracefs) for name in names(types, tracefs)}
    assert len(calls) > 300
    found = symbols.find(call.function for call in calls.values())
    assert {name for name, call in calls.items() if call.function not in found} == set()
    assert {"stat", "openat", "sendfile", "uname", "umount2"} <= set(calls)
    assert all(call.parameters is not None for call in calls.values())
    openat = calls["openat"].parameters
    assert openat is not None
    assert [(each.name, each.type.text, each.type.user) for each in openat] == [
        ("dfd", "int", False),
        ("filename", "const char *", True),
        ("flags", "int", False),
        ("mode", "umode_t", False),
    ]
    assert [each.slot for each in openat] == [0, 1, 2, 3]
    with pytest.raises(MachineError, match="no such system call") as told:
        system_call("opnat", types, tracefs)
    assert told.value.reason == "FunctionNotFound"
    assert "openat" in told.value.hint


def test_without_tracefs_arguments_are_known_or_said_to_be_not(types: KernelTypes) -> None:
    """Never guessed: what BTF has agrees with tracefs."""
    tracefs = Tracefs.find()
    known = 0
    for name in names(types, tracefs):
        alone = system_call(name, types, None).parameters
        if alone is not None:
            both = system_call(name, types, tracefs).parameters
            assert both is not None
            assert len(alone) == len(both), name
            known += 1
    assert known > 20


def test_addresses_are_those_of_kallsyms() -> None:
    """Of one function, of several that share a name, of one that only a copy is left of."""
    listed: dict[str, list[int]] = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, kind, name, *module = line.split()
        if kind in "tTwW" and not module:
            listed.setdefault(name, []).append(int(address, 16))
    functions = KernelFunctions()
    shared = max((name for name in listed if name.isidentifier()), key=lambda name: len(listed[name]))
    found = functions.find(["vfs_read", shared])
    assert found["vfs_read"].addresses == tuple(listed["vfs_read"])
    assert len(found[shared].addresses) > 1
    assert set(found[shared].addresses) <= set(listed[shared])
    copies = [name for name in listed if ".isra." in name and ".cold" not in name and not name.startswith("__pfx")]
    gone = [name.partition(".")[0] for name in copies if name.partition(".")[0] not in listed]
    assert gone
    with pytest.raises(MachineError, match="inlined or renamed") as told:
        functions.function(gone[0])
    assert told.value.reason == "FunctionNotFound"
    assert gone[0] + "." in told.value.hint
    assert functions.function(copies[0]).name == copies[0]


def test_near_names_are_told() -> None:
    """The one that was meant is among them."""
    with pytest.raises(MachineError, match="no such function") as told:
        KernelFunctions().function("tcp_sndmsg")
    assert told.value.reason == "FunctionNotFound"
    assert "tcp_sendmsg" in told.value.hint


def test_memory_is_given_back() -> None:
    """What was asked is not kept: kept, sixty times would be some sixty MiB. How much the allocator keeps is its own."""
    script = """
import re
from pathlib import Path
from kernelspan_agent.probes import memberpath
from kernelspan_agent.probes.ktypes import KernelTypes
from kernelspan_agent.probes.typeparse import pointer_to
def held(): return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
def ask():
    with KernelTypes.open() as types:
        types.function("tcp_sendmsg")
        memberpath.resolve(types, pointer_to(types, "struct task_struct *"), "mm.owner.comm")
        return held()
for _ in range(5):
    ask()
before = held()
most = max(ask() for _ in range(60))
print(most - before, held() - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    most, left = map(int, run.stdout.split())
    assert most < _GROWN
    assert left < 8 << 10


def listed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def as_json(*arguments: str) -> dict[str, Any]:
    run = listed(*arguments, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_list_functions() -> None:
    """In a pipe a line each; as JSON the same with sizes."""
    run = listed("functions", "vfs_read*")
    assert (run.returncode, run.stderr) == (0, "")
    assert "ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos)" in re.sub(
        r" __user", "", run.stdout
    )
    found = {each["name"]: each for each in as_json("functions", "vfs_read*")["functions"]}
    assert len(found) == len(run.stdout.splitlines())
    assert all(name.startswith("vfs_read") for name in found)
    first = found["vfs_read"]["parameters"][0]
    assert (first["name"], first["type"], first["kind"], first["size"], first["pointsTo"]) == ("file", "struct file *", LeafKind.POINTER.value, 8, "struct file")  # fmt: skip


def test_list_tracepoints() -> None:
    """By category and name, or by name alone."""
    run = listed("tracepoints", "sched:sched_process_exec")
    assert (run.returncode, run.stderr) == (0, "")
    head, raw = run.stdout.splitlines()
    assert head.startswith("sched:sched_process_exec(char filename[], pid_t pid, pid_t old_pid")
    assert raw.strip() == "raw(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)"
    (found,) = as_json("tracepoints", "sys_enter_openat")["tracepoints"]
    assert (found["category"], found["rawArguments"]) == ("syscalls", None)
    assert [each["name"] for each in found["fields"]][:3] == ["__syscall_nr", "dfd", "filename"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["functions", "tcp_sndmsg"], "tcp_sendmsg"),
        (["functions", "no_such_*"], "matches no_such_*"),
        (["tracepoints", "sched:sched_swich"], "sched:sched_switch"),
        (["tracepoints", "no_such_*"], "matches no_such_*"),
        (["functions"], "PATTERN"),
        (["colours"], "colours"),
    ],
)
def test_what_is_not_there_is_2(arguments: list[str], words: str) -> None:
    """Nothing on standard output, near names on standard error."""
    run = listed(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_no_rights_are_3() -> None:
    """Tracefs is root's; the kernel's functions are not."""
    unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]
    run = subprocess.run([*unprivileged, *_COMMAND, "tracepoints", "*"], capture_output=True, text=True, check=False)
    readable = "No module named" not in run.stderr and "Permission denied" not in run.stderr
    require("kernel", readable, "the interpreter is not readable for others")
    assert (run.returncode, run.stdout) == (3, "")
    assert "PermissionDenied" in run.stderr


def test_pointers_are_types_of_this_kernel(types: KernelTypes) -> None:
    """A type that there is not is told."""
    assert pointer_to(types, "struct task_struct *").of is not None
    with pytest.raises(MachineError, match="no such pointer"):
        pointer_to(types, "struct no_such_struct *")
