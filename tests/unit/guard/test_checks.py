# SPDX-License-Identifier: Apache-2.0
"""What the checks say of machines that lack something, by files like those machines have."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernelspan_agent.guard import checks
from kernelspan_agent.guard.checks import Check, Places, State
from kernelspan_agent.probes import loader
from kernelspan_agent.probes.bpf import VerifierError


@pytest.fixture
def bare(tmp_path: Path) -> Places:
    """A machine with nothing: no BTF, headers, bcc, tracefs; nothing said about anything."""
    status = tmp_path / "proc/self/status"
    status.parent.mkdir(parents=True)
    status.write_text("CapEff:\t0000000000000000\n")
    (status.parent / "ns").symlink_to("/proc/self/ns")
    return Places(tmp_path / "proc", tmp_path / "sys", tmp_path / "include", "/no/such/python", (tmp_path / "tracing",))


def found(places: Places) -> dict[str, Check]:
    return {check.name: check for check in checks.read(places)}


def test_a_bare_machine(bare: Places) -> None:
    """Everything that run needs fails, each with its reason and what to do; the rest is unknown, never guessed."""
    by_name = found(bare)
    for name in ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "btf", "bcc", "linux-headers"):
        assert by_name[name].fails, name
        assert by_name[name].reason, name
        assert by_name[name].hint, name
    assert "python3-bpfcc" in by_name["bcc"].hint
    assert "linux-libc-dev" in by_name["linux-headers"].hint
    for name in ("lockdown", "unprivileged-bpf", "jit"):
        assert by_name[name].state is State.UNKNOWN
        assert not by_name[name].fails
    assert by_name["tracefs"].state is State.NO
    assert not by_name["tracefs"].fails
    assert "mount -t tracefs" in by_name["tracefs"].hint


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("[none] integrity confidentiality\n", State.OK),
        ("none [integrity] confidentiality\n", State.OK),
        ("none integrity [confidentiality]\n", State.NO),
    ],
)
def test_lockdown(bare: Places, text: str, state: State) -> None:
    """Only confidentiality forbids what programs do."""
    file = bare.sys / "kernel/security/lockdown"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    check = found(bare)["lockdown"]
    assert check.state is state
    assert (check.reason == "LockdownActive") == (state is State.NO)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 8, b"\x9f\xeb\x01\x00\x18\x00\x00\x00" + bytes(16)])
def test_btf_that_is_none(bare: Places, content: bytes) -> None:
    """A file that says nothing about task_struct is no BTF of a kernel."""
    file = bare.sys / "kernel/btf/vmlinux"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert found(bare)["btf"].fails


def test_a_python_without_bcc(bare: Places) -> None:
    """What it says is told, and what to install."""
    check = found(replace(bare, compiler_python=sys.executable))["bcc"]
    assert check.fails
    assert "bcc" in check.detail


@pytest.mark.parametrize(("value", "state"), [("0", State.NO), ("1", State.OK), ("2", State.OK)])
def test_the_interpreter_of_programs(bare: Places, value: str, state: State) -> None:
    """Slow, but it works: never a failure."""
    file = bare.proc / "sys/net/core/bpf_jit_enable"
    file.parent.mkdir(parents=True)
    file.write_text(f"{value}\n")
    check = found(bare)["jit"]
    assert check.state is state
    assert not check.fails


def test_what_no_trace_shows_is_said(bare: Places) -> None:
    """32-bit programs only where the kernel runs them."""
    assert "32-bit programs" not in dict(checks.not_visible(bare))
    (bare.proc / "sys/abi").mkdir(parents=True)
    (bare.proc / "sys/abi/vsyscall32").write_text("1\n")
    shown = dict(checks.not_visible(bare))
    assert {"32-bit programs", "memory-mapped files", "native frames"} <= set(shown)
    assert all(shown.values())


def test_json_has_the_documented_keys(bare: Places) -> None:
    """And nothing that json cannot say."""
    for check in checks.read(bare):
        assert set(check.as_json()) == {"name", "state", "required", "detail", "reason", "hint"}
        assert check.as_json()["state"] in {"ok", "no", "unknown", "untried"}


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("1: (85) call unknown#113\nunknown func bpf_probe_read_kernel#113\nprocessed 6 insns\n", "LockdownActive"),
        ("program of this type cannot use helper bpf_probe_read_kernel#113\n", "LockdownActive"),
        ("R1 invalid mem access 'scalar'\nprocessed 6 insns\n", "VerifierRejected"),
    ],
)
def test_what_a_locked_down_kernel_says_of_a_program(log: str, reason: str) -> None:
    """Under confidentiality the helper is not there: that is no fault of the program's."""
    error = VerifierError(22, "Invalid argument")
    error.log = log
    assert loader._rejected("ks_x", error).reason == reason
