# SPDX-License-Identifier: Apache-2.0
"""What /proc says, from made-up folders and from this very process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessEndedError, ProcessError

STAT = b"77 (a) b\n (c) S 5 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2 3\n"


def made(tmp_path: Path, **files: bytes) -> procfs.Process:
    folder = tmp_path / "77"
    folder.mkdir()
    for name, content in {"stat": STAT, **files}.items():
        (folder / name).write_bytes(content)
    return procfs.open_process(77, str(tmp_path))


def test_a_command_may_hold_anything(tmp_path: Path) -> None:
    """The last bracket ends the command, whatever it holds."""
    stat = procfs.read_stat(made(tmp_path))
    assert (stat.command, stat.state, stat.parent_pid, stat.start_ticks) == ("a) b\n (c", "S", 5, 12345)
    assert not stat.is_kernel_thread


def test_kernel_thread(tmp_path: Path) -> None:
    """The flag of kernel threads is seen."""
    process = made(tmp_path, stat=STAT.replace(b"4194560", str(0x200040).encode()))
    assert procfs.read_stat(process).is_kernel_thread


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """The same pid with another start is not the process that was asked for."""
    process = made(tmp_path)
    (tmp_path / "77" / "stat").write_bytes(STAT.replace(b"12345", b"12346"))
    with pytest.raises(ProcessEndedError, match="given to another"):
        procfs.read_stat(process)
    assert not procfs.is_alive(process)


@pytest.mark.parametrize(
    "data", [b"", b"77", b"77 (a", b"77 (a) S", b"77 (a) S x", b"\xff\0" * 50, b"77 (a) \xff 1 " * 9]
)
def test_bad_stat(tmp_path: Path, data: bytes) -> None:
    """A stat that is none is a clear error."""
    with pytest.raises(ProcessError):
        made(tmp_path, stat=data)


def test_maps_of_odd_names() -> None:
    """Newlines, undecodable bytes, deleted files and lines that are no mapping."""
    data = (
        b"00400000-00401000 r-xp 00001000 fe:01 42                         /a b\\012c\xff (deleted)\n"
        b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n"
        b"7f0000002000-7f0000003000 rw-p 00000000 00:00 0                          [heap]\n"
        b"nonsense\n\n-\n"
    )
    first, anonymous, heap = procfs.parse_maps(data)
    assert (first.start, first.end, first.offset, first.inode) == (0x400000, 0x401000, 0x1000, 42)
    assert first.path == "/a b\nc\udcff"
    assert first.deleted
    assert first.is_file
    assert not anonymous.is_file
    assert not heap.is_file
    assert procfs.printable(first.path) == "/a b\\nc\\xff"


def test_printable_takes_any_text() -> None:
    """What stands for no byte is escaped as well."""
    assert procfs.printable("é\ud800\t") == "é\\ud800\\t"


def test_too_long_a_file(tmp_path: Path) -> None:
    """A file beyond its bound is refused, a command line is cut."""
    process = made(tmp_path, status=b"x" * (procfs.MAX_SMALL_BYTES + 1), cmdline=b"a\0" * procfs.MAX_CMDLINE_BYTES)
    with pytest.raises(ProcessError, match="longer than"):
        procfs.read_status(process)
    assert len(procfs.read_cmdline(process)) == procfs.MAX_CMDLINE_BYTES // 2


def test_status_and_cgroups(tmp_path: Path) -> None:
    """Ids in each namespace; cgroups of both versions."""
    process = made(
        tmp_path,
        status=b"Name:\tx\nUid:\t1\t1000\t1\t1\nThreads:\t3\nNSpid:\t77\t1\n",
        cgroup=b"4:cpu,cpuacct:/a:b\n0::/pod/\xff\nbad\n",
    )
    assert procfs.read_status(process) == procfs.Status(1000, 3, (77, 1))
    assert procfs.read_cgroups(process) == [
        procfs.CgroupEntry(4, ("cpu", "cpuacct"), "/a:b"),
        procfs.CgroupEntry(0, (), "/pod/\udcff"),
    ]
    (tmp_path / "77" / "status").write_bytes(b"Uid:\n")
    with pytest.raises(ProcessError, match="not as expected"):
        procfs.read_status(process)


def test_this_process() -> None:
    """The real files are read."""
    process = procfs.open_process(os.getpid())
    assert procfs.read_executable(process) == (os.path.realpath(sys.executable), False)
    assert procfs.read_cmdline(process)
    assert procfs.read_namespace(process, "pid") == Path("/proc/self/ns/pid").stat().st_ino
    assert any(mapping.path == os.path.realpath(sys.executable) for mapping in procfs.read_maps(process))
    assert procfs.is_alive(process)


def test_an_ended_process_is_said_to_have_ended() -> None:
    """Every question to a process that is gone has the same answer."""
    with subprocess.Popen(["sleep", "60"]) as child:
        process = procfs.open_process(child.pid)
        child.kill()
    for ask in (procfs.read_stat, procfs.read_status, procfs.read_maps, procfs.read_executable, procfs.read_cgroups):
        with pytest.raises(ProcessEndedError):
            ask(process)
    with pytest.raises(ProcessEndedError):
        procfs.open_process(child.pid)
