# SPDX-License-Identifier: Apache-2.0
"""What is decided before and after the kernel is asked: its words about itself, its refusals, which mechanism is taken."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import functions, kprobe, perf, proofs, refusals, specimen, uretprobe
from kernelspan_agent.probes.kfunctions import KernelFunction
from kernelspan_agent.probes.proofs import IN_ORDER, Proof
from kernelspan_agent.process.elf import read_elf
from kernelspan_api.reasons import Reason
from kernelspan_api.userprobes import Mechanism

REASONS = {reason.value for reason in Reason}


def file_of(content: bytes) -> int:
    fd = os.memfd_create("content")
    os.write(fd, content)
    return fd


def known(monkeypatch: pytest.MonkeyPatch, **there: MachineError | None) -> None:
    """What has been proved: by mechanism, None for one that works."""
    found = {
        (Mechanism[name], returns): Proof(Mechanism[name], returns, error)
        for name, error in there.items()
        for returns in (False, True)
    }
    monkeypatch.setattr(proofs, "_found", found)


NO = MachineError("not here")


@given(st.binary(max_size=40))
@example(b"config:32-63\n")
@example(b"config:0")
@example(b"config1:0-63\n")
@example(b"config:x")
@example(b"\xff\xfe")
def test_a_format_of_a_pmu(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    """A bit of config, or nothing; never an error, whatever stands there."""
    folder = tmp_path_factory.getbasetemp() / "pmus" / "uprobe" / "format"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "field").write_bytes(text)
    found = perf.first_bit("uprobe", "field", folder.parents[1])
    expected = {b"config:32-63\n": 32, b"config:0": 0, b"config1:0-63\n": None, b"config:x": None, b"\xff\xfe": None}
    assert found == expected[text] if text in expected else found is None or found >= 0


def test_a_kernel_without_a_pmu(tmp_path: Path) -> None:
    """Named, with what would have it."""
    with pytest.raises(MachineError, match="no kprobe events") as refused:
        perf.pmu_type("kprobe", tmp_path)
    assert refused.value.reason == "MechanismUnsupported"
    assert "CONFIG_KPROBE_EVENTS" in refused.value.hint


@given(st.sampled_from([*sorted(errno.errorcode), 524, 100_000]))
def test_every_refusal_has_a_reason_of_the_list(number: int) -> None:
    """Whatever the kernel answers."""
    for error in (refusals.refused("x", OSError(number, "?")), kprobe._refused("x", OSError(number, "?"))):
        assert error.reason in REASONS
        assert str(error).startswith(("x", "kprobe x"))


def test_lockdown_is_told_from_a_missing_capability(tmp_path: Path) -> None:
    """The kernel answers both with EPERM."""
    path = tmp_path / "lockdown"
    for text, reason in (("none integrity [confidentiality]\n", "LockdownActive"), ("none [integrity] c\n", None)):
        path.write_text(text)
        found = refusals.refused("x", OSError(errno.EPERM, "?"), lockdown=path).reason
        assert found == reason or (reason is None and found in {"PermissionDenied", "MechanismUnsupported"})


def test_the_cheapest_mechanism_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """All there are for Auto, one that is asked for alone."""
    known(monkeypatch, FENTRY=None, KPROBE_MULTI=NO, KPROBE=None)
    assert proofs.usable(Mechanism.AUTO) == [Mechanism.FENTRY, Mechanism.KPROBE]
    assert proofs.usable(Mechanism.KPROBE) == [Mechanism.KPROBE]
    assert set(IN_ORDER) == set(Mechanism) - {Mechanism.AUTO}


def test_a_mechanism_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which are."""
    known(monkeypatch, FENTRY=None, KPROBE_MULTI=NO, KPROBE=None)
    with pytest.raises(
        MachineError, match=r"KprobeMulti cannot be used .not here.; this kernel has Fentry, Kprobe"
    ) as one:
        proofs.usable(Mechanism.KPROBE_MULTI)
    assert one.value.reason == "MechanismUnsupported"
    known(monkeypatch, FENTRY=NO, KPROBE_MULTI=NO, KPROBE=NO)
    for wanted in Mechanism:
        with pytest.raises(MachineError, match=r"none of fentry, kprobe.multi and kprobe"):
            proofs.usable(wanted)


@pytest.mark.parametrize("reason", ["PermissionDenied", "LockdownActive"])
def test_what_somebody_can_do_something_about_stays(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """A missing capability is not told as a missing mechanism."""
    refusal = MachineError("no", reason=reason, hint="do this")
    known(monkeypatch, FENTRY=refusal, KPROBE_MULTI=refusal, KPROBE=refusal)
    for wanted in Mechanism:
        with pytest.raises(MachineError) as refused:
            proofs.usable(wanted)
        assert (refused.value.reason, refused.value.hint) == (reason, "do this")


def test_a_function_that_everything_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the kernel's list of what may not be probed: said as that. Else what the widest mechanism says."""
    known(monkeypatch, FENTRY=NO, KPROBE_MULTI=NO, KPROBE=None)
    said = {"FunctionNotFound": "MechanismUnsupported", "FunctionBlacklisted": "FunctionBlacklisted"}
    for reason, told in said.items():
        error = functions._worst(KernelFunction("f", "", (1,)), [NO, MachineError("last", reason=reason)])
        assert (str(error), error.reason) == ("last", told)  # it is there, only not for this mechanism
    error = functions._worst(KernelFunction("f", "", (1,), blacklisted=True), [NO])
    assert error.reason == "FunctionBlacklisted"


@given(st.binary(max_size=300))
@example(b"\x7fELF\x02\x01\x01")
def test_any_file_may_be_asked_whether_go_made_it(content: bytes) -> None:
    """No error, and no Go."""
    fd = file_of(content)
    try:
        assert not uretprobe.is_go(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("note", "go"), [(b"Go\0\0", True), (b"GNU\0", False)])
def test_a_stripped_go_program(note: bytes, go: bool) -> None:
    """Without sections: by the note of its build id."""
    words = struct.pack("<III", 4, 4, 4) + note + b"id\0\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(words), len(words), 4)
    fd = file_of(header + segment + words)
    try:
        assert uretprobe.is_go(fd) is go
    finally:
        os.close(fd)


def test_a_kernel_that_kills_under_seccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of those we run on does: what is found out stands in for it here. Where nothing is known, nothing is refused."""
    fd = file_of(b"x")
    try:
        for survives in (True, None):
            monkeypatch.setattr(uretprobe, "survives_seccomp", lambda answer=survives: answer)
            uretprobe.require_safe(fd)
        monkeypatch.setattr(uretprobe, "survives_seccomp", lambda: False)
        with pytest.raises(MachineError) as refused:
            uretprobe.require_safe(fd)
        assert refused.value.reason == "UretprobeUnsafe"
    finally:
        os.close(fd)


@pytest.mark.skipif(not specimen.AVAILABLE, reason="unit: the specimen is machine code of x86-64")
@pytest.mark.parametrize("filtered", [False, True])
def test_the_specimen(filtered: bool) -> None:
    """A program that runs, of which we read what it is; its function begins where it is probed."""
    with specimen.file(filtered=filtered) as fd:
        assert specimen.run(fd) == 0
        assert [segment.offset for segment in read_elf(fd).segments] == [0, specimen.SEMAPHORE]
        assert os.pread(fd, 1, specimen.FUNCTION) == b"\x55"  # push rbp


def test_the_filtered_specimen_dies_of_any_other_call() -> None:
    """Else it would prove nothing: with a getpid(2) before its end the filter kills it."""
    with specimen.file(filtered=True) as fd:
        code = bytearray(os.pread(fd, 1 << 16, 0))
        at = code.index(b"\xb8\x3c\x00\x00\x00\x0f\x05")  # mov eax, 60; syscall
        code[at + 1] = 39
        os.pwrite(fd, code, 0)
        assert specimen.run(fd) == -31  # SIGSYS


def test_names_for_people() -> None:
    """As an attachment says what it is."""
    assert kprobe.spelled("vfs_read") == "vfs_read"
    assert kprobe.spelled("vfs_read", 16) == "vfs_read+0x10"
    assert kprobe.spelled(0xFFFF, returns=True) == "0xffff:return"
