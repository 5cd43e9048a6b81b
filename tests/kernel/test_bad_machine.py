# SPDX-License-Identifier: Apache-2.0
"""A machine that lacks something, or whose disk is full: said what and what to do, and nothing is left or lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leftovers, runs
from tests.support.runs import SYSTEM_PYTHON

STATS = {"files": {"operations": ["Open", "Stat"]}}
CALLS = 5003
WORK = (
    "import os, time\nfor _ in range(11): os.stat('/proc/self')\ntime.sleep(0.5)\n"  # what is written before it is full
    f"for _ in range({CALLS} - 11): os.stat('/proc/self')\nprint('done')"
)


@pytest.fixture
def before() -> set[str]:
    """What is mounted before the test."""
    return leftovers.mounts()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def run_under(folder: Path, *under: str | Path) -> subprocess.CompletedProcess[str]:
    """`run` with nothing compiled yet, below another command; its own command would leave a file in `folder`."""
    run = [runs.KERNELSPAN, "run", "-f", runs.profile(folder, **STATS), "--", "/usr/bin/touch", folder / "left"]
    return subprocess.run(
        [*under, *run],
        env={**os.environ, "KERNELSPAN_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=runs.TIMEOUT_SECONDS,
    )


@pytest.mark.parametrize(
    ("hidden", "reason", "words", "remedy"),
    [
        ("/usr/lib/python3/dist-packages", "MechanismUnsupported", "No module named 'bcc'", "python3-bpfcc"),
        ("/sys/kernel/btf", "KernelTooOld", "/sys/kernel/btf/vmlinux: No such file", "CONFIG_DEBUG_INFO_BTF"),
        ("/usr/include/linux", "CompileFailed", "file not found", "linux-libc-dev"),
    ],
    ids=["bcc", "BTF", "headers"],
)
def test_something_is_not_there(
    tmp_path: Path, before: set[str], hidden: str, reason: str, words: str, remedy: str
) -> None:
    """One line what, one line what to do, status 3, and the command has not run."""
    done = run_under(tmp_path, "unshare", "-m", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh")
    assert (done.returncode, done.stdout) == (3, "")
    first, *hint = done.stderr.splitlines()
    assert first.startswith(f"kernelspan: {reason}: ")
    assert words in first
    assert remedy in "".join(hint)
    assert len(hint) == 1
    assert not (tmp_path / "left").exists()
    leftovers.check(before)


def test_not_root(tmp_path: Path, before: set[str]) -> None:
    """Another user is told every capability that is missing, and how to have it."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    kept = "-all,+dac_read_search"  # else that user could not read a checkout or an interpreter below somebody's home
    under = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", kept]
    done = run_under(tmp_path, *under, "--inh-caps", kept, "--ambient-caps", kept)
    assert done.returncode == 3
    first, hint = done.stderr.splitlines()
    assert first.startswith("kernelspan: PermissionDenied: ")
    missing = {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"}
    assert set(re.findall(r"CAP_\w+", first)) == missing
    assert all(name.removeprefix("CAP_") in hint for name in missing)
    assert not (tmp_path / "left").exists()
    leftovers.check(before)


def test_output_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """The program goes on, every line that stands is whole, what was not written is counted, and it is said why."""
    output = small_disk / "spans.jsonl"
    profile, options = runs.profile(tmp_path, **STATS), ["--output", output]
    ran = runs.run(tmp_path, profile, SYSTEM_PYTHON, "-S", "-c", WORK, options=options, output=False)
    assert (ran.status, ran.stdout) == (0, b"done\n")
    assert output.read_bytes().endswith(b"\n")
    written = sum(bool(runs.operation_of(span)) for span in runs.read_spans(output))
    assert 0 < ran.balance["exported"] == written < CALLS
    assert ran.balance["dropped"] == {"ExportFailed": ran.balance["seen"] - written}
    assert "No space left" in ran.report["lastError"]
    assert "No space left" in ran.stderr.splitlines()[-1]


def test_report_on_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """It is said where it cannot be written, and the accounting is told all the same, asked for or not."""
    with (small_disk / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    options = ["--report", small_disk / "report.json", "-q"]
    ran = runs.run(tmp_path, runs.profile(tmp_path, **STATS), SYSTEM_PYTHON, "-S", "-c", WORK, options=options)
    assert (ran.status, ran.stdout) == (2, b"done\n")
    assert f"--report '{small_disk}/report.json': No space left on device" in ran.stderr
    (seen,) = re.findall(r"^  seen +([\d,]+)$", ran.stderr, re.MULTILINE)
    assert int(seen.replace(",", "")) >= CALLS


def test_signals_while_it_starts(tmp_path: Path, before: set[str]) -> None:
    """Ended at any moment of its start: nothing stays, and the command has not run, or is ended as well."""
    marks, profile = tmp_path / "marks", runs.profile(tmp_path, **STATS)
    marks.mkdir()
    for hundredths in (1, 5, 10, 20, 30, 40):
        ended = marks / f"{hundredths}-ended"
        script = f"sleep 600; touch {ended}"
        with runs.agent(tmp_path, profile, "/bin/sh", "-c", script) as agent:
            time.sleep(hundredths / 100)
            agent.process.send_signal(signal.SIGTERM)
            status = agent.process.wait(runs.TIMEOUT_SECONDS)
        assert status in {128 + signal.SIGTERM, -signal.SIGTERM}, status  # the command's, where it had begun, or ours
        assert not ended.exists()
    leftovers.check(before)
