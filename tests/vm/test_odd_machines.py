# SPDX-License-Identifier: Apache-2.0
"""What nobody may do to the machine that runs the tests: lock its kernel down, set its clock."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernels, runs, vm
from tests.support.otlp_json import ReceivedSpan
from tests.vm.guests import Visits, run, visited
from tests.vm.tracing import PROFILES

MOST_OFF_SECONDS = 60.0
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.OLDEST]  # the quickest to boot
LISTS = """
import os, time
def look():
    os.listdir("/run/nobody/x")
time.sleep(3)
os.mkdir("/run/nobody/x")
look()
"""
STATS = {"files": {"operations": ["Stat"]}}


@dataclass(frozen=True, slots=True)
class Locked:
    """What was said on a machine whose kernel is locked down: by `kernelspan run` of a command, by the checks, by an agent."""

    ran: vm.Ran
    has_run: bool
    checks: list[dict[str, Any]]
    told: list[str]  # tests.vm.refused


@dataclass(frozen=True, slots=True)
class Traced:
    """What a run left; `said` by the program."""

    report: dict[str, Any]
    spans: list[ReceivedSpan]
    said: dict[str, float]


def _lock(kernel: kernels.Kernel, folder: Path) -> Locked:
    left, checks, told = folder / "left", folder / "checks", folder / "told"
    script = "import json; from kernelspan_agent.guard import probing; print(json.dumps([c.as_json() for c in probing.checks()]))"
    tried = [str(runs.KERNELSPAN), "run", "-f", str(runs.profile(folder, **STATS)), "--", "touch", str(left)]
    checking, agent = (
        [sys.executable, *arguments] for arguments in (("-c", script), ("-m", "tests.vm.refused", "/run"))
    )
    commands = f"{shlex.join(checking)} >{checks} && {shlex.join(agent)} >{told} && {shlex.join(tried)}"
    ran = run(kernel, ["sh", "-c", commands], folder, parameters="lockdown=confidentiality")
    assert told.exists(), ran.output
    return Locked(ran, left.exists(), json.loads(checks.read_text()), json.loads(told.read_text()))


def _set_the_clock(kernel: kernels.Kernel, folder: Path) -> Traced:
    spans, said, report = (folder / name for name in ("spans", "said", "report"))
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(runs.profile(folder, **STATS)), "--output", str(spans)]
    command += ["--report", str(report), "--", "sh", "-c", f"{sys.executable} -m tests.vm.clocks >{said}"]
    ran = run(kernel, command, folder)
    assert (ran.status, ran.output) == (0, "")
    return Traced(json.loads(report.read_text()), runs.read_spans(spans), json.loads(said.read_text()))


def _as_nobody(kernel: kernels.Kernel, folder: Path) -> Traced:
    least = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", least, "--inh-caps", least]
    nobody = ["prlimit", "--memlock=unlimited", *nobody]  # before Linux 5.11 maps count as locked memory
    nobody += ["--ambient-caps", least, "env", "KERNELSPAN_CACHE=/run/nobody/objects"]
    program = folder / "lists.py"
    program.write_text(LISTS)
    traced = [str(runs.KERNELSPAN), "run", "-q", "-f", str(PROFILES["Tracepoint"]), "--output", "/run/nobody/spans"]
    traced += ["--report", "/run/nobody/report", "--", runs.SYSTEM_PYTHON, "-S", "/run/nobody/lists.py"]
    commands = [
        ["sh", "-c", "echo 3 >/proc/sys/kernel/perf_event_paranoid"],
        ["install", "-d", "-o", "65534", "/run/nobody"],
        ["cp", str(program), "/run/nobody"],
        [*nobody, *traced],
        ["sh", "-c", f"cp /run/nobody/spans /run/nobody/report {folder}"],
    ]
    ran = run(kernel, ["sh", "-c", "; ".join(map(shlex.join, commands))], folder)
    assert ran.status == 0, ran.output
    return Traced(json.loads((folder / "report").read_text()), runs.read_spans(folder / "spans"), {})


LOCKING, SETTING, RESTRICTING = VISITS = (
    Visits("locked", _lock),
    Visits("reset", _set_the_clock),
    Visits("restricted", _as_nobody),
)


@pytest.fixture(scope="module", params=LABELS)
def locked(request: pytest.FixtureRequest) -> Locked:
    """A machine whose kernel is locked down."""
    return visited(request, LOCKING, request.param)


@pytest.fixture(scope="module", params=[kernels.OLDEST])
def reset(request: pytest.FixtureRequest) -> Traced:
    """A machine whose clock is set while a program is traced."""
    return visited(request, SETTING, request.param)


@pytest.fixture(scope="module", params=LABELS)
def restricted(request: pytest.FixtureRequest) -> Traced:
    """Traced by nobody with the four capabilities that are asked for, under Debian's perf_event_paranoid=3."""
    return visited(request, RESTRICTING, request.param)


def test_lockdown(locked: Locked) -> None:
    """A kernel that lets nobody read its memory: named, with what to do, status 3; and the command has not run."""
    assert locked.ran.status == 3, locked.ran.output
    first, hint = locked.ran.output.splitlines()
    assert first.startswith("kernelspan: LockdownActive: ")
    assert "lockdown" in hint
    assert not locked.has_run


def test_lockdown_in_a_status(locked: Locked) -> None:
    """An agent there goes on, and its profiles' status says what the node's owner can do."""
    assert locked.told[:3] == ["LockdownActive", "Failed", "LockdownActive"]
    assert "lockdown=integrity" in locked.told[3]


def test_lockdown_of_own_probes(locked: Locked) -> None:
    """What the kernel forbids then is told as that, though securityfs is not mounted to say so."""
    found = {each["name"]: (each["state"], each["reason"]) for each in locked.checks}
    assert found["kprobe"] == found["kretprobe"] == ("no", "LockdownActive")
    assert {reason for state, reason in found.values() if state == "no"} <= {"LockdownActive", "MechanismUnsupported"}


def test_the_clock_is_set(reset: Traced) -> None:
    """Each operation has the time of the clock's moment, and no span lasts as long as the clock jumped."""
    runs.check_balance(reset.report)
    assert len(reset.said) == 3
    for path, seconds in reset.said.items():
        (span,) = (span for span in reset.spans if span.attributes.get("file.path") == path)
        assert abs(span.start_ns / 1e9 - seconds) < MOST_OFF_SECONDS, path
    assert all(0 <= span.end_ns - span.start_ns < MOST_OFF_SECONDS * 1e9 for span in reset.spans)


def test_events_are_for_administrators_alone(restricted: Traced, request: pytest.FixtureRequest) -> None:
    """What perf_event_open(2) refuses bpf(2) attaches."""
    is_oldest = request.node.callspec.params["restricted"] == kernels.OLDEST  # see RUNS of test_kernels
    runs.check_balance(restricted.report)
    assert restricted.report["mechanism"] == ("RawTracepoint" if is_oldest else "Fentry")
    found = [span for span in restricted.spans if span.attributes.get("file.path") == "/run/nobody/x"]
    assert [span.name for span in found] == ["file.list"] * 2  # the second call says that there is no more
    assert {span.attributes["code.function.name"] for span in found} == {"__main__.look"}
