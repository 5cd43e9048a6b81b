# SPDX-License-Identifier: Apache-2.0
"""What runs in a guest: python -m tests.vm.types_guest FILE. What the kernel says of its types, beside the truth, into FILE."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import direct
from kernelspan_agent.probes.kfunctions import KernelFunctions
from kernelspan_agent.probes.ktypes import KernelTypes
from kernelspan_agent.probes.memberpath import resolve
from kernelspan_agent.probes.syscalls import names, system_call
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_agent.probes.typeparse import pointer_to, typed
from tests.support.kernel_truth import observations, value

MODULE, FUNCTION = "overlay", "ovl_path_type"  # the guest's root is an overlay, a module of Debian's kernels
LAYERS = 2  # tests/support/vm.py: one lower, one upper


def paths() -> dict[str, Any]:
    """Those that lead elsewhere than the kernel says."""
    seen = observations()
    return {"count": len(seen), "wrong": [each.path for each in seen if each.expected != each.found]}


def module() -> dict[str, Any]:
    """A function and a struct of a module: None without its BTF; and a file's own inode through the module's struct."""
    with KernelTypes.open() as types, direct.memory() as (read, task), Path(__file__).open("rb") as file:
        found = types.function(FUNCTION)
        answer: dict[str, Any] = {
            "modules": types.modules(),
            "function": found and [found.module, [each.type.text for each in found.parameters]],
            "mode": os.fstat(file.fileno()).st_mode,
        }
        start, at = pointer_to(types, "struct task_struct *"), f"files.fdt.fd[{file.fileno()}].f_inode"
        try:
            layers = resolve(types, start, f"{at}.i_sb.s_fs_info.(struct ovl_fs *).numlayer")
            mode = resolve(types, start, f"{at}.(struct ovl_inode *).vfs_inode.i_mode")
        except MachineError as error:
            return {**answer, "refused": str(error)}
        return {**answer, "layers": value(read, task, layers), "read": value(read, task, mode)}


def functions() -> dict[str, Any]:
    """What ftrace and kprobes say, and what becomes of a function that may not be probed."""
    subprocess.run(["mount", "-t", "debugfs", "d", "/sys/kernel/debug"], check=False)
    found = KernelFunctions().find(["vfs_read", "get_kprobe", "exc_int3", FUNCTION])
    answer: dict[str, Any] = {
        name: [each.module, each.traceable, each.blacklisted, all(each.addresses)] for name, each in found.items()
    }
    try:
        KernelFunctions().function("get_kprobe")
    except MachineError as error:
        answer["refused"] = error.reason
    return answer


def calls() -> dict[str, Any]:
    """System calls whose function is not there, or whose arguments are not known."""
    with KernelTypes.open() as types:
        tracefs = Tracefs.find()
        listed = {name: system_call(name, types, tracefs) for name in names(types, tracefs)}
        there = KernelFunctions().find(call.function for call in listed.values())
        return {
            "count": len(listed),
            "lost": sorted(name for name, call in listed.items() if call.function not in there),
            "unknown": sorted(name for name, call in listed.items() if call.parameters is None),
            "openat": [[each.name, each.type.text, each.slot] for each in listed["openat"].parameters or ()],
        }


def tracepoints() -> dict[str, Any]:
    """Tracepoints whose description cannot be read, and types of fields that this kernel's BTF does not have."""
    tracefs, unread, untyped = Tracefs.find(), [], set()
    with KernelTypes.open() as types:
        listed = tracefs.events()
        for category, name in listed:
            try:
                fields = tracefs.tracepoint(category, name).fields
            except MachineError as error:
                unread.append(str(error))
                continue
            if category in {"sched", "tcp", "sock", "syscalls"}:
                untyped |= {each.type for each in fields if typed(types, each.type) is None}
        raw = types.raw_tracepoint("sched_process_exec")
    named = [[each.name, each.type.text] for each in raw.parameters] if raw is not None else None
    return {"count": len(listed), "unread": unread, "untyped": sorted(untyped), "raw": named}


def command() -> dict[str, Any]:
    """`kernelspan list` as a user has it."""
    script = "from kernelspan_agent.cli import main; main()"
    run = [sys.executable, "-c", script, "list", "functions", "vfs_read"]
    return {"written": subprocess.run(run, capture_output=True, text=True, check=False).stdout}


def main(file: Path) -> int:
    """Everything; 0 unless our own code broke."""
    results: dict[str, Any] = {"release": platform.release(), "errors": []}
    parts: tuple[Callable[[], dict[str, Any]], ...] = (paths, module, functions, calls, tracepoints, command)
    for part in parts:
        try:
            results[part.__name__] = part()
        except Exception:  # noqa: BLE001 - the other parts are to be seen all the same
            results["errors"].append(traceback.format_exc())
    file.write_text(json.dumps(results, indent=1))
    return bool(results["errors"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
