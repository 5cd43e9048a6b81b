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
from tests.vm.guests import run
from tests.vm.tracing import PROFILES

MOST_OFF_SECONDS = 60.0
LABELS = kernels.wanted_labels() if os.environ.get("KERNELSPAN_MATRIX") else [kernels.OLDEST]  # the quickest to boot
RENAMES = """
import os, time
def move():
    os.rename("/run/nobody/x", "/run/nobody/y")
time.sleep(3)
os.mkdir("/run/nobody/x")
move()
"""
STATS = {"files": {"operations": ["Stat"]}}


@dataclass(frozen=True, slots=True)
class Locked:
    """What was said on a machine whose kernel is locked down: by `kernelspan run` of a command, and by the checks."""

    ran: vm.Ran
    has_run: bool
    checks: list[dict[str, Any]]


@pytest.fixture(scope="module", params=LABELS)
def locked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Locked:
    folder = tmp_path_factory.mktemp("locked")
    left, checks = folder / "left", folder / "checks"
    script = "import json; from kernelspan_agent.guard import probing; print(json.dumps([c.as_json() for c in probing.checks()]))"
    tried = [str(runs.KERNELSPAN), "run", "-f", str(runs.profile(folder, **STATS)), "--", "touch", str(left)]
    both = f"{shlex.join([sys.executable, '-c', script])} >{checks} && {shlex.join(tried)}"
    ran = run(kernels.needed(request.param), ["sh", "-c", both], folder, parameters="lockdown=confidentiality")
    return Locked(ran, left.exists(), json.loads(checks.read_text()))


def test_lockdown(locked: Locked) -> None:
    """A kernel that lets nobody read its memory: named, with what to do, status 3; and the command has not run."""
    assert locked.ran.status == 3, locked.ran.output
    first, hint = locked.ran.output.splitlines()
    assert first.startswith("kernelspan: LockdownActive: ")
    assert "lockdown" in hint
    assert not locked.has_run


def test_lockdown_of_own_probes(locked: Locked) -> None:
    """What the kernel forbids then is told as that, though securityfs is not mounted to say so."""
    found = {each["name"]: (each["state"], each["reason"]) for each in locked.checks}
    assert found["kprobe"] == found["kretprobe"] == ("no", "LockdownActive")
    assert {reason for state, reason in found.values() if state == "no"} <= {"LockdownActive", "MechanismUnsupported"}


def test_the_clock_is_set(tmp_path: Path) -> None:
    """Each operation has the time of the clock's moment, and no span lasts as long as the clock jumped."""
    spans, said, report = (tmp_path / name for name in ("spans", "said", "report"))
    command = [str(runs.KERNELSPAN), "run", "-q", "-f", str(runs.profile(tmp_path, **STATS)), "--output", str(spans)]
    command += ["--report", str(report), "--", "sh", "-c", f"{sys.executable} -m tests.vm.clocks >{said}"]
    ran = run(kernels.needed(kernels.OLDEST), command, tmp_path)
    assert (ran.status, ran.output) == (0, "")
    expected = json.loads(said.read_text())
    assert len(expected) == 3
    found = runs.read_spans(spans)
    runs.check_balance(json.loads(report.read_text()))
    for path, seconds in expected.items():
        (span,) = (span for span in found if span.attributes.get("file.path") == path)
        assert abs(span.start_ns / 1e9 - seconds) < MOST_OFF_SECONDS, path
    assert all(0 <= span.end_ns - span.start_ns < MOST_OFF_SECONDS * 1e9 for span in found)


@pytest.mark.parametrize("label", LABELS)
def test_events_are_for_administrators_alone(tmp_path: Path, label: str) -> None:
    """Debian's perf_event_paranoid=3, as nobody with the four capabilities that are asked for: traced by what bpf(2) attaches."""
    least = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search"
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", least, "--inh-caps", least]
    nobody = ["prlimit", "--memlock=unlimited", *nobody]  # before Linux 5.11 maps count as locked memory
    nobody += ["--ambient-caps", least, "env", "KERNELSPAN_CACHE=/run/nobody/objects"]
    program = tmp_path / "renames.py"
    program.write_text(RENAMES)
    traced = [str(runs.KERNELSPAN), "run", "-q", "-f", str(PROFILES["Tracepoint"]), "--output", "/run/nobody/spans"]
    traced += ["--report", "/run/nobody/report", "--", runs.SYSTEM_PYTHON, "-S", "/run/nobody/renames.py"]
    commands = [
        ["sh", "-c", "echo 3 >/proc/sys/kernel/perf_event_paranoid"],
        ["install", "-d", "-o", "65534", "/run/nobody"],
        ["cp", str(program), "/run/nobody"],
        [*nobody, *traced],
        ["sh", "-c", f"cp /run/nobody/spans /run/nobody/report {tmp_path}"],
    ]
    ran = run(kernels.needed(label), ["sh", "-c", "; ".join(map(shlex.join, commands))], tmp_path)
    assert ran.status == 0, ran.output
    report = json.loads((tmp_path / "report").read_text())
    runs.check_balance(report)
    assert report["mechanism"] == "RawTracepoint"
    (span,) = (span for span in runs.read_spans(tmp_path / "spans") if span.name == "file.rename")
    assert span.attributes["file.path"] == "/run/nobody/x"
    assert span.attributes["code.function.name"] == "__main__.move"
