# SPDX-License-Identifier: Apache-2.0
"""Calls seen by their functions: which programs that takes, by this kernel's own types. What they see is tests/vm's affair."""

from __future__ import annotations

import logging
import os

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import mechanisms, proofs
from kernelspan_agent.probes.callfunctions import Seats, call_functions
from kernelspan_agent.probes.mechanisms import FENTRY, calls_of, has_call
from kernelspan_agent.probes.modules import EVERYTHING
from kernelspan_agent.probes.session import Session
from kernelspan_agent.probes.tracefs import Tracefs
from kernelspan_api.operations import Group
from kernelspan_api.userprobes import Mechanism
from tests.support.engines import wanted_of

FEW = {"files": {"operations": ["Sync"]}, "waits": {"operations": ["Sleep"]}}


def test_each_call_of_this_kernel_has_its_function() -> None:
    """Those without arguments as well, of which BTF has another name."""
    calls = frozenset(call for group in Group for call in calls_of(group, EVERYTHING))
    there = {call for call in calls if has_call(Tracefs.find(), call)}
    found = {each.call: each for each in call_functions(calls)}
    assert found.keys() >= there
    assert {found[call].name for call in ("fork", "openat", "newfstatat")} == {
        "__do_sys_fork",
        "__x64_sys_openat",
        "__x64_sys_newfstatat",
    }


def test_seats() -> None:
    """Two for each call, each with a place of its own, returns first; what does not return has no second, and only
    what begins anew after a stop needs the call that says so.
    """
    seats = Seats.of(
        {Group.PROCESSES: ["exit_group", "execve"], Group.WAITS: ["nanosleep"], Group.FILES: ["read"]}
    ).seats
    assert [(each.program, each.function.call) for each in seats] == [
        ("ks_proc_exit", "execve"),
        ("ks_wait_exit", "nanosleep"),
        ("ks_files_exit", "read"),
        ("ks_wait_exit", "restart_syscall"),
        ("ks_wait_enter", "restart_syscall"),
        ("ks_proc_enter", "exit_group"),
        ("ks_proc_enter", "execve"),
        ("ks_wait_enter", "nanosleep"),
        ("ks_files_enter", "read"),
    ]
    assert [each.place for each in seats] == list(range(1, 10))
    assert not [each for each in Seats.of({Group.FILES: ["read"]}).seats if each.function.call == "restart_syscall"]


def test_walkers_have_a_home_for_each_prototype_and_end() -> None:
    """The kernel lets a program go on only to what was loaded for its own prototype and end."""
    seats = Seats.of({Group.PROCESSES: ["execve"], Group.FILES: ["read", "write"], Group.WAITS: ["pause"]})
    homes = {home.suffix: home for home in seats.homes(frozenset(("ks_proc_enter",)))}
    walking = [each for each in seats.seats if each.returns or each.program == "ks_proc_enter"]
    assert homes.keys() == {each.home.suffix for each in walking}
    for one in walking:
        for other in walking:
            alike = (one.function.prototype, one.returns) == (other.function.prototype, other.returns)
            assert (one.home.suffix == other.home.suffix) == alike
    assert seats.scratches == 9


@pytest.mark.skipif(proofs.prove(Mechanism.FENTRY).works, reason="this kernel takes such programs")
def test_where_the_kernel_refuses_them_tracepoints_are_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it seems to have them (a live patch may stand in the way of one function)."""
    monkeypatch.setattr(mechanisms, "_refusals", [])
    monkeypatch.setattr(proofs, "prove", lambda *_, **__: proofs.Proof(Mechanism.FENTRY, returns=False, error=None))
    assert mechanisms.choose(wanted_of(FEW)) is FENTRY
    with caplog.at_level(logging.WARNING), Session.open(wanted_of(FEW), os.environ) as session:
        assert session.mechanism is mechanisms.TRACEPOINT
        assert "syscalls:sys_enter_fsync" in session.attached
    assert "mechanism.refused name=Fentry" in caplog.text
    assert mechanisms.choose(wanted_of(FEW)) is mechanisms.TRACEPOINT  # it is not tried again


def test_a_mechanism_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare them; what there is not is told."""
    for each in mechanisms.MECHANISMS:
        monkeypatch.setenv(mechanisms.VARIABLE, each.name)
        assert mechanisms.choose(wanted_of(FEW)) is each
    monkeypatch.setenv(mechanisms.VARIABLE, "Kprobe")
    with pytest.raises(MachineError, match="KERNELSPAN_MECHANISM=Kprobe: there is Tracepoint, RawTracepoint"):
        mechanisms.choose(wanted_of(FEW))


def test_where_tracefs_may_not_be_read_nothing_of_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The raw pair has no name of it."""

    def unreadable(*_: object) -> bool:
        raise MachineError("may not be read", reason="PermissionDenied")

    monkeypatch.setattr(mechanisms, "has_call", unreadable)
    assert mechanisms.choose(wanted_of(FEW)) is mechanisms.RAW_TRACEPOINT
