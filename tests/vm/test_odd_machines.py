# SPDX-License-Identifier: Apache-2.0
"""What nobody may do to the machine that runs the tests: lock its kernel down, set its clock."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.support import kernels, runs, vm
from tests.support.require import require
from tests.vm.tracing import PROFILES, ROOT

SECONDS = 600.0  # emulated, and it compiles
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


def kernel(label: str) -> kernels.Kernel:
    """That kernel; the test is left out where it cannot be had."""
    try:
        return kernels.kernel(label)
    except kernels.KernelsError as error:
        require("vm", False, str(error))
        raise


def in_guest(label: str, folder: Path, *commands: list[str], parameters: str = "") -> vm.Ran:
    """Runs the commands one after another; the status of the last."""
    script = "; ".join(shlex.join(command) for command in commands)
    return vm.run(
        kernel(label), ["sh", "-c", script], seconds=SECONDS, shared=folder, folder=ROOT, parameters=parameters
    )


@pytest.mark.parametrize("label", LABELS)
def test_lockdown(tmp_path: Path, label: str) -> None:
    """A kernel that lets nobody read its memory: named, with what to do, status 3; and the command has not run."""
    profile, left = runs.profile(tmp_path, **STATS), tmp_path / "left"
    ran = in_guest(
        label,
        tmp_path,
        [str(runs.KERNELSPAN), "run", "-f", str(profile), "--", "touch", str(left)],
        parameters="lockdown=confidentiality",
    )
    assert ran.status == 3, ran.output
    first, hint = ran.output.splitlines()
    assert first.startswith("kernelspan: LockdownActive: ")
    assert "lockdown" in hint
    assert not left.exists()


@pytest.mark.parametrize("label", LABELS)
def test_lockdown_of_own_probes(tmp_path: Path, label: str) -> None:
    """What the kernel forbids then is told as that, though securityfs is not mounted to say so."""
    script = "import json; from kernelspan_agent.guard import probing; print(json.dumps([c.as_json() for c in probing.checks()]))"
    ran = in_guest(label, tmp_path, [sys.executable, "-c", script], parameters="lockdown=confidentiality")
    assert ran.status == 0, ran.output
    found = {each["name"]: (each["state"], each["reason"]) for each in json.loads(ran.output)}
    assert found["kprobe"] == found["kretprobe"] == ("no", "LockdownActive")
    assert {reason for state, reason in found.values() if state == "no"} <= {"LockdownActive", "MechanismUnsupported"}


def test_the_clock_is_set(tmp_path: Path) -> None:
    """Each operation has the time of the clock's moment, and no span lasts as long as the clock jumped."""
    spans, said, report = (tmp_path / name for name in ("spans", "said", "report"))
    run = [str(runs.KERNELSPAN), "run", "-q", "-f", str(runs.profile(tmp_path, **STATS)), "--output", str(spans)]
    run += ["--report", str(report), "--", "sh", "-c", f"{sys.executable} -m tests.vm.clocks >{said}"]
    ran = in_guest(kernels.OLDEST, tmp_path, run)
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
    run = [str(runs.KERNELSPAN), "run", "-q", "-f", str(PROFILES["Tracepoint"]), "--output", "/run/nobody/spans"]
    run += ["--report", "/run/nobody/report", "--", runs.SYSTEM_PYTHON, "-S", "/run/nobody/renames.py"]
    ran = in_guest(
        label,
        tmp_path,
        ["sh", "-c", "echo 3 >/proc/sys/kernel/perf_event_paranoid"],
        ["install", "-d", "-o", "65534", "/run/nobody"],
        ["cp", str(program), "/run/nobody"],
        [*nobody, *run],
        ["sh", "-c", f"cp /run/nobody/spans /run/nobody/report {tmp_path}"],
    )
    assert ran.status == 0, ran.output
    report = json.loads((tmp_path / "report").read_text())
    runs.check_balance(report)
    assert report["mechanism"] == "RawTracepoint"
    (span,) = (span for span in runs.read_spans(tmp_path / "spans") if span.name == "file.rename")
    assert span.attributes["file.path"] == "/run/nobody/x"
    assert span.attributes["code.function.name"] == "__main__.move"
