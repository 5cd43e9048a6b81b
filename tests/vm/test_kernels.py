# SPDX-License-Identifier: Apache-2.0
"""Our programs on the oldest and the newest kernel (`make matrix`: on all four): they load, they attach, and the same
program gives the same spans as on this machine's kernel. One machine boots for each kernel and does it all.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels
from tests.vm import reference
from tests.vm.guests import Visits, run, visited
from tests.vm.tracing import PROFILES, Traced, differences, read, start

MOST_INSTRUCTIONS = 400_000  # the verifier gives up at a million; other compilers and kernels need room
HERE = ("RawTracepoint", "Tracepoint")
BY_FUNCTIONS = "Fentry"
# The oldest has types of some calls' registers that are only declared.
RUNS = [
    (label, mechanism)
    for label in kernels.wanted_labels()
    for mechanism in PROFILES
    if (label, mechanism) != (kernels.OLDEST, BY_FUNCTIONS)
]
ON_EACH = pytest.mark.parametrize(("guest", "mechanism"), RUNS, indirect=["guest"])


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest left behind."""

    kernel: kernels.Kernel
    folder: Path
    results: dict[str, Any]

    def traced(self, mechanism: str) -> Traced:
        """What it traced by this mechanism."""
        return read(mechanism, self.folder)


def _visit(kernel: kernels.Kernel, folder: Path) -> Guest:
    ran = run(kernel, [sys.executable, "-m", "tests.vm.guest", str(folder)], folder)
    assert (folder / "results.json").exists(), ran.output
    results = json.loads((folder / "results.json").read_text())
    assert results["errors"] == [], ran.output  # one made ahead is made again: what compiles there may have had no time
    return Guest(kernel, folder, results)


VISITS = (Visits("guest", _visit),)


@pytest.fixture(scope="module", params=kernels.wanted_labels())
def guest(request: pytest.FixtureRequest) -> Guest:
    """A machine with another kernel, when it has done its work."""
    return visited(request, VISITS[0], request.param)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Traced]:
    """The same on this machine's kernel."""
    folder = tmp_path_factory.mktemp("here")
    for mechanism in HERE:
        start(mechanism, folder)
    found = {mechanism: read(mechanism, folder) for mechanism in HERE}
    return {**found, BY_FUNCTIONS: found["Tracepoint"]}  # of the same profile


def test_the_guest_runs_the_kernel_it_was_given(guest: Guest) -> None:
    """Else all the rest would say something about another one."""
    assert guest.results["release"] == guest.kernel.release


@ON_EACH
def test_the_verifier_takes_every_program(guest: Guest, mechanism: str) -> None:
    """And has room left: what it follows is far from where it gives up."""
    costs = guest.results["costs"][mechanism]
    assert {name: said for name, said in costs.items() if isinstance(said, str)} == {}
    assert {name: cost for name, cost in costs.items() if cost > MOST_INSTRUCTIONS} == {}
    expected = {"ks_py", "ks_files_exit", "ks_net_exit", "ks_proc_exit", "ks_wait_exit", "ks_fork"}
    expected |= set() if mechanism == BY_FUNCTIONS else {"ks_requests", "ks_switch"}
    assert expected <= {name.partition(".")[0] for name in costs}


def test_everything_attaches(guest: Guest) -> None:
    """The raw pair with the scheduler's and the process's tracepoints; and the calls one by one, both ends of each."""
    raw, single = (guest.results["attached"][name] for name in ("RawTracepoint", "Tracepoint"))
    assert {"sys_enter", "sys_exit", "sched_switch", "sched_process_exec"} <= set(raw)
    entries = [name for name in single if name.startswith("syscalls:sys_enter_")]
    assert len(entries) > 80  # 5.10 has 94 of the calls that we know
    assert sorted(name.replace("_exit_", "_enter_") for name in single if ":sys_exit_" in name) == sorted(entries)


def test_few_calls_are_seen_by_their_functions(guest: Guest) -> None:
    """Both ends of each, where programs may look at the registers of all of them."""
    if guest.kernel.label == kernels.OLDEST:
        assert guest.results["chosen"] == "Tracepoint"
        return
    assert guest.results["chosen"] == BY_FUNCTIONS
    functions = {name.partition("_sys_")[2] for name in guest.results["attached"][BY_FUNCTIONS] if "_sys_" in name}
    calls = {"connect", "getdents", "getdents64", "execve", "execveat", "nanosleep", "clock_nanosleep", "pause"}
    assert functions == {name + end for name in calls | {"restart_syscall"} for end in ("", ":return")}


def test_a_return_that_the_kernel_kept_is_counted(guest: Guest) -> None:
    """Somebody else began to look at the function of a call that slept. What followed is not taken for its return, which the
    newest kernel tells all the same.
    """
    if guest.kernel.label == kernels.OLDEST:
        return
    told, dropped = ([7], {}) if guest.kernel.label == kernels.NEWEST else ([], {"Skipped": 1})
    expected = {"mechanism": BY_FUNCTIONS, "told": told, "seen": 1, "dropped": dropped, "unaccounted": 0}
    assert guest.results["unseen"] == expected


@ON_EACH
def test_nothing_is_lost_or_unaccounted(guest: Guest, mechanism: str) -> None:
    """Every operation that our programs saw is exported, filtered, or in flight."""
    traced = guest.traced(mechanism)
    assert traced.status == 0, traced.words
    assert traced.report["mechanism"] == mechanism
    assert traced.report["operations"]["unaccounted"] == 0
    # A kernel that runs our programs with preemption on leaves some out, and says so.
    assert set(traced.report["operations"]["dropped"]) <= ({"Skipped"} if traced.report["skipped"] else set())
    assert traced.report["operations"]["exported"] > 0


@ON_EACH
def test_the_same_spans_as_here(guest: Guest, here: dict[str, Traced], mechanism: str) -> None:
    """Operations of the target's functions: names, functions, files, lines, libraries, paths, peers, results, and how
    many of each. Only what a kernel says that it left out may be missing, and nothing may be otherwise.
    """
    there, ours = guest.traced(mechanism), here[mechanism]
    missing, more = ours.operations - there.operations, there.operations - ours.operations
    told = differences(missing, more)
    assert missing.total() <= there.report["skipped"], f"{missing.total()} are missing: {told}; {there.report}"
    assert more.total() <= ours.report["skipped"], more


def test_the_target_does_what_is_compared(here: dict[str, Traced]) -> None:
    """What is compared is not empty: each kind of operation, from the function that makes it."""
    found = {(name, json.loads(told)["code.function.name"]) for name, _, told in here["RawTracepoint"].operations}
    assert found >= {
        ("file.rename", "__main__.write_and_rename"),
        ("file.write", "__main__.write_and_rename"),
        ("file.stat", "__main__.deeper"),
        ("tcp.connect", "__main__.refused"),
        ("unix.connect", "__main__.talk"),
        ("file.list", "__main__.in_a_thread"),
        ("wait.sleep", "__main__.nap"),
    }


def test_the_kernel_does_not_complain(guest: Guest) -> None:
    """No warning, no error in the kernel's log while programs load, attach and run."""
    assert guest.results["complaints"] == []


if set(kernels.wanted_labels()) == set(kernels.SUITES):  # make matrix

    def test_the_reference_page_is_written(request: pytest.FixtureRequest, here: dict[str, Traced]) -> None:
        """From all kernels, with every program loaded on each."""
        rows = []
        for label, suite in kernels.SUITES.items():
            found = visited(request, VISITS[0], label)
            for mechanism in (each for on, each in RUNS if on == label):
                costs, attached = (found.results[key][mechanism] for key in ("costs", "attached"))
                traced = found.traced(mechanism)
                same = traced.operations == here[mechanism].operations
                rows.append(reference.Row(found.kernel.release, suite, mechanism, costs, attached, traced.report, same))
        reference.write_tracing(rows)
