# SPDX-License-Identifier: Apache-2.0
"""What we say of functions, structs, system calls and tracepoints holds on the oldest and the newest kernel (`make matrix`: on
all four), by what each says itself. A machine for each kernel does it all at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels
from tests.vm.guests import Visits, run, visited
from tests.vm.types_guest import LAYERS, MODULE


def _visit(kernel: kernels.Kernel, folder: Path) -> dict[str, Any]:
    ran = run(kernel, [sys.executable, "-m", "tests.vm.types_guest", str(folder / "results.json")], folder)
    assert (folder / "results.json").exists(), ran.output
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert found["errors"] == []
    assert found["release"] == kernel.release
    return found


VISITS = (Visits("guest", _visit),)


@pytest.fixture(scope="module", params=kernels.wanted_labels())
def guest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a guest with that kernel found."""
    return visited(request, VISITS[0], request.param)


def test_paths_lead_to_what_the_kernel_says_itself(guest: dict[str, Any]) -> None:
    """Each of them, on each kernel: a struct's layout is that kernel's own."""
    assert guest["paths"]["count"] > 30
    assert guest["paths"]["wrong"] == []


def test_types_of_modules(guest: dict[str, Any]) -> None:
    """Where modules have BTF (Linux 5.11) their functions and structs are as good as the kernel's; else it is said."""
    found = guest["module"]
    if guest["release"].startswith("5.10."):
        assert (found["modules"], found["function"]) == ([], None)
        assert "struct ovl_fs is not in this kernel's type information" in found["refused"]
        return
    assert MODULE in found["modules"]
    assert found["function"] == [MODULE, ["struct dentry *"]]
    assert (found["layers"], found["read"]) == (LAYERS, found["mode"])


def test_functions_that_may_not_be_probed_are_told(guest: dict[str, Any]) -> None:
    """kprobes refuse what they run themselves, ftrace what is not compiled for it."""
    found = guest["functions"]
    assert found["vfs_read"] == ["", True, False, True]
    assert found["get_kprobe"][2] is True
    assert found["exc_int3"][1] is False
    assert found["ovl_path_type"][0] == MODULE
    assert found["refused"] == "FunctionBlacklisted"


def test_every_system_call_has_its_function_and_arguments(guest: dict[str, Any]) -> None:
    """By the names that programs use."""
    found = guest["calls"]
    assert found["count"] > 300
    assert (found["lost"], found["unknown"]) == ([], [])
    assert [each[0] for each in found["openat"]][:4] == ["dfd", "filename", "flags", "mode"]


def test_every_tracepoint_is_read(guest: dict[str, Any]) -> None:
    """Their fields have types of that kernel; a raw one has names."""
    found = guest["tracepoints"]
    assert found["count"] > 1000
    assert (found["unread"], found["untyped"]) == ([], [])
    assert [each[1] for each in found["raw"]] == ["struct task_struct *", "pid_t", "struct linux_binprm *"]
    assert [each[0] for each in found["raw"]] == ["p", "old_pid", "bprm"]


def test_the_command_lists_functions(guest: dict[str, Any]) -> None:
    """With their arguments."""
    assert guest["command"]["written"].startswith(
        "ssize_t vfs_read(struct file *file, char *buf, size_t count, loff_t *pos)"
    )
