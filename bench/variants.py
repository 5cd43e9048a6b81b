# SPDX-License-Identifier: Apache-2.0
"""What is attached while a workload runs: nothing, an empty pair, ours, user probes with the same data, what people use.

`covers` says which sets of workloads a variant is measured on; `data` is "equal" (to ours with full context), "none", or
what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.emptyprobes import RAW, TRACEPOINTS, USER, EmptyProbes
from bench.machine import LOAD_CORE
from bench.processes import Agent, BenchError, on_core
from bench.profiles import profile

MICRO, APPLICATION, NEIGHBOUR, CHILD = "micro", "application", "neighbour", "child"
EVERYTHING = (MICRO, APPLICATION, NEIGHBOUR, CHILD)
WRITES = {"operations": ["Write"]}  # few calls: attached one by one
_WRITE_CALLS = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "restart_syscall")
_TOOL_CALLS = [
    "openat",
    "open",
    "read",
    "write",
    "pread64",
    "pwrite64",
    "fsync",
    "fdatasync",
    "unlink",
    "close",
    "connect",
    "accept4",
    "sendto",
    "recvfrom",
]
_TOOL_START_SECONDS = 20.0

Reports = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Targets:
    """Whom a variant traces, and where spans go."""

    pids: tuple[int, ...]
    endpoint: str


Open = Callable[[Targets, Reports], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the matrix."""

    name: str
    what: str
    data: str
    covers: tuple[str, ...]
    open: Open
    slow: int = 1  # workloads are this many times shorter under it
    most_rounds: int = 1000


@contextmanager
def nothing(_targets: Targets, _reports: Reports) -> Iterator[None]:
    """Attaches nothing."""
    yield


def _empty(kind: str, names: Sequence[str] = ()) -> Open:
    @contextmanager
    def opened(_targets: Targets, _reports: Reports) -> Iterator[None]:
        probes = EmptyProbes(kind, names)
        try:
            yield
        finally:
            probes.close()

    return opened


def ours(wanted: dict[str, Any], mode: str = "") -> Open:
    """Our agent with that profile; its report is kept."""

    @contextmanager
    def opened(targets: Targets, reports: Reports) -> Iterator[None]:
        arguments = [part for pid in targets.pids for part in ("--pid", str(pid))]
        with Agent(wanted, [*arguments, "--otlp", targets.endpoint], mode=mode) as agent:
            yield
            agent.settle()
            reports.append(agent.stop())

    return opened


def _tool(command: Callable[[Targets], list[str]], ready: str) -> Open:
    """A tool that prints what it sees, to nowhere; `ready` is a word on its error output, or "" for none."""

    @contextmanager
    def opened(targets: Targets, _reports: Reports) -> Iterator[None]:
        process = subprocess.Popen(
            on_core(LOAD_CORE, command(targets)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _wait_for(process, ready)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stderr is not None
            process.stderr.close()

    return opened


def _wait_for(process: subprocess.Popen[bytes], word: str) -> None:
    assert process.stderr is not None
    if not word:
        time.sleep(2.5)
    else:
        deadline = time.monotonic() + _TOOL_START_SECONDS
        for line in process.stderr:
            if word in line.decode(errors="replace"):
                break
            if time.monotonic() > deadline:
                raise BenchError(f"{process.args!r} does not start")
    if process.poll() is not None:
        raise BenchError(f"{process.args!r} ended with {process.returncode}")


def _bpftrace(targets: Targets) -> list[str]:
    chosen = " || ".join(f"pid == {pid}" for pid in targets.pids)
    enter = ",".join(f"tracepoint:syscalls:sys_enter_{call}" for call in _TOOL_CALLS)
    leave = ",".join(f"tracepoint:syscalls:sys_exit_{call}" for call in _TOOL_CALLS)
    text = (
        'BEGIN { printf("attached\\n"); }'
        f"{enter} /{chosen}/ {{ @start[tid] = nsecs; }}"
        f'{leave} /@start[tid]/ {{ printf("%d %s %s %d %d\\n", pid, comm, probe, args->ret, nsecs - @start[tid]);'
        " delete(@start[tid]); }"
    )
    return ["bpftrace", "-e", text]


def _strace(targets: Targets) -> list[str]:
    return ["strace", "-f", "-T", "-o", "/dev/null", "-e", f"trace={','.join(_TOOL_CALLS)}"] + [
        part for pid in targets.pids for part in ("-p", str(pid))
    ]


def _perf(targets: Targets) -> list[str]:
    return ["perf", "trace", "-o", "/dev/null", "-p", ",".join(map(str, targets.pids))]


def variants() -> list[Variant]:
    """Those that this machine can run; the first two are the same nothing."""
    found = [
        Variant("none", "nothing attached", "none", EVERYTHING, nothing),
        Variant("none again", "nothing attached, once more: the noise", "none", EVERYTHING, nothing),
        Variant("empty raw", "empty pair of raw tracepoints, one failed look-up", "none", (MICRO, NEIGHBOUR), _empty(RAW)),
        Variant("empty tracepoints", "the same by each call's own tracepoints", "none", (MICRO, NEIGHBOUR), _empty(TRACEPOINTS, _WRITE_CALLS)),
        Variant("empty user", "the same by uprobe and uretprobe on libc", "none", (MICRO,), _empty(USER, ("write", "pread64"))),
        Variant("raw, no stack", "ours, files, raw tracepoints, no stack", "no code", (MICRO,), ours(profile(files={}, stacks="None"))),
        Variant("raw", "ours, files, raw tracepoints, application context", "equal", (MICRO, NEIGHBOUR), ours(profile(files={}))),
        Variant("tracepoints, no stack", "ours, writes, each call's own tracepoints, no stack", "no code", (MICRO,), ours(profile(files=WRITES, stacks="None"))),
        Variant("tracepoints", "ours, writes, each call's own tracepoints, application context", "equal", (MICRO, NEIGHBOUR), ours(profile(files=WRITES))),
        Variant("ours, no stack", "ours, files and network, no stack", "no code", (APPLICATION, CHILD), ours(profile(files={}, network={}, stacks="None"))),
        Variant("ours", "ours, files and network, application context", "equal", EVERYTHING, ours(profile(files={}, network={}))),
        Variant("user probes", "uprobe and uretprobe on libc's functions, our agent", "equal but for the numbers of errors", (MICRO, APPLICATION), ours(profile(files={}, network={}), "userprobes"), slow=2),
    ]  # fmt: skip
    tools = [
        Variant("bpftrace", "bpftrace printing every event", "less data: no file, peer or code", (MICRO, APPLICATION), _tool(_bpftrace, ""), 2, 3),
        Variant("strace", "strace -f -T", "less data: no code", (MICRO, APPLICATION, CHILD), _tool(_strace, "attached"), 10, 3),
        Variant("perf trace", "perf trace -p", "less data: no code", (MICRO, APPLICATION), _tool(_perf, ""), 2, 3),
    ]  # fmt: skip
    return found + [tool for tool in tools if shutil.which(tool.name.split()[0])]


@contextmanager
def attached(variant: Variant, targets: Targets, reports: Reports) -> Iterator[bool]:
    """Whether the variant is attached; a tool that does not work here is left out, ours never."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(variant.open(targets, reports))
        except BenchError:
            if variant.most_rounds == 1000:
                raise
            yield False
            return
        yield True
