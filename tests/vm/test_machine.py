# SPDX-License-Identifier: Apache-2.0
"""The runner itself: what goes in and comes out of a machine, and that it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import kernels, vm

SECONDS = 120.0


@pytest.fixture(scope="module")
def kernel() -> kernels.Kernel:
    """The oldest one."""
    return kernels.needed(kernels.OLDEST)


def _children() -> set[int]:
    """This process's, but for those that run now for machines: of other tests, made behind this one."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()} - {*vm.processes()}


def test_status_output_folder_and_environment(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """A command runs where and with what it was told, as root, and its status and both streams come out."""
    script = 'uname -r; id -u; pwd; echo "$SAID" >&2; exit 7'
    ran = vm.run(kernel, ["sh", "-c", script], seconds=SECONDS, folder=tmp_path, environ={"SAID": "it's $HOME"})
    assert ran.status == 7
    assert ran.output.split("\n") == [kernel.release, "0", str(tmp_path), "it's $HOME", ""]


def test_only_the_shared_folder_keeps_what_is_written(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """The guest may write anywhere; this machine's files stay as they are."""
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()
    (other / "kept").write_text("here")
    script = f"echo there >{other}/kept && cat {other}/kept && echo new >{other}/new && cp {other}/* {shared}"
    ran = vm.run(kernel, ["sh", "-c", script], seconds=SECONDS, shared=shared)
    assert (ran.status, ran.output) == (0, "there\n")
    assert [path.name for path in sorted(shared.iterdir())] == ["kept", "new"]
    assert (shared / "kept").read_text() == "there\n"
    assert [(path.name, path.read_text()) for path in other.iterdir()] == [("kept", "here")]


def test_a_machine_ends_in_time(kernel: kernels.Kernel) -> None:
    """A command that does not end is an error that says what it said so far, and nothing is left running."""
    before = _children()
    for seconds in (10.0, 40.0, 160.0):  # it must have begun by then
        with pytest.raises(vm.VmError, match=rf"no exit status after \d+ of {seconds:g} s") as caught:
            vm.run(kernel, ["sh", "-c", "echo said before; sleep 1000"], seconds=seconds)
        if "said before" in str(caught.value):
            break
    assert "said before" in str(caught.value)
    assert _children() == before


def test_a_kernel_that_panics_is_an_error(kernel: kernels.Kernel) -> None:
    """Its last words are in the error."""
    with pytest.raises(vm.VmError, match="sysrq triggered crash"):
        vm.run(kernel, ["sh", "-c", "echo c >/proc/sysrq-trigger"], seconds=SECONDS)


def test_the_guest_sees_this_machines_files(kernel: kernels.Kernel) -> None:
    """The same programs by the same names."""
    ran = vm.run(kernel, ["stat", "-c", "%s %Y", "/usr/bin/python3", "/etc/passwd"], seconds=SECONDS)
    here = [Path(path).lstat() for path in ("/usr/bin/python3", "/etc/passwd")]
    assert ran.output.splitlines() == [f"{found.st_size} {int(found.st_mtime)}" for found in here]
