# SPDX-License-Identifier: Apache-2.0
"""The floor of a mechanism: an entry and a return program that look a process up, do not find it, and end.

Compiled and attached by the agent's own loader, so that what differs from ours is only the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from bench.attaching import libc_path, offsets_of, user_probe
from kernelspan_agent.probes import bpf, build
from kernelspan_agent.probes.attach import raw_tracepoint, tracepoint
from kernelspan_agent.probes.loader import Load, Loader
from kernelspan_agent.probes.tracefs import Tracefs

_TEXT = """
#include <linux/kconfig.h>
BPF_HASH(bench_procs, u32, u64, 16384);
static __always_inline int look(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	u64 *found = bench_procs.lookup(&tgid);

	if (found)
		*found += 1;
	return 0;
}
int bench_enter(void *ctx) { return look(); }
int bench_exit(void *ctx) { return look(); }
"""
RAW, TRACEPOINTS, USER = "raw", "tracepoints", "user"
_KINDS = {RAW: bpf.PROG_RAW_TRACEPOINT, TRACEPOINTS: bpf.PROG_TRACEPOINT, USER: bpf.PROG_KPROBE}


class EmptyProbes:
    """Empty pairs on the system calls (or libc's functions) of those names; `with` it."""

    def __init__(self, kind: str, names: Sequence[str] = ()) -> None:
        self._stack = ExitStack()
        self.attached = 0
        loader = self._stack.enter_context(Loader({}))
        try:
            loader.load(Load(_module(), _KINDS[kind]))
            enter, leave = loader.programs["bench_enter"], loader.programs["bench_exit"]
            getattr(self, f"_{kind}")(loader, enter, leave, names)
        except BaseException:
            self._stack.close()
            raise

    def _raw(self, loader: Loader, enter: int, leave: int, _names: Sequence[str]) -> None:
        for event, program in (("sys_exit", leave), ("sys_enter", enter)):
            self._keep(loader, raw_tracepoint(event, program))

    def _tracepoints(self, loader: Loader, enter: int, leave: int, names: Sequence[str]) -> None:
        tracefs = Tracefs.find()
        for side, program in (("exit", leave), ("enter", enter)):
            for name in names:
                self._keep(loader, tracepoint(tracefs, "syscalls", f"sys_{side}_{name}", program))

    def _user(self, loader: Loader, enter: int, leave: int, names: Sequence[str]) -> None:
        library = libc_path()
        for at_return, program in ((True, leave), (False, enter)):
            for offset in offsets_of(library, list(names)).values():
                self._keep(loader, user_probe(library, offset, program, at_return=at_return))

    def _keep(self, loader: Loader, attachment: Any) -> None:
        if attachment is not None:
            loader.keep(attachment)
            self.attached += 1

    def close(self) -> None:
        """Detaches."""
        self._stack.close()


def _module() -> dict[str, Any]:
    wanted = build.request([], {}, {})
    wanted["modules"] = {"bench": {"text": _TEXT, "programs": ("bench_enter", "bench_exit")}}
    if "bench" not in _compiled:
        _compiled["bench"] = build.compile_now(wanted)["modules"]["bench"]
    return _compiled["bench"]


_compiled: dict[str, dict[str, Any]] = {}
