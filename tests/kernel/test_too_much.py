# SPDX-License-Identifier: Apache-2.0
"""More threads and more processes than anybody should have: each of them as if it were alone."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from tests.support import runs
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON

THREADS = 10_000
PROCESSES = 307
UNKNOWN = ("ThreadScanLimit", "RuntimePending", "NotResident", "StackLost")


def test_very_many_threads(tmp_path: Path) -> None:
    """Each thread's operation is there; its function is right, or unknown for a reason that is given."""
    command = [SYSTEM_PYTHON, "-S", PROGRAMS / "many_threads.py", str(THREADS)]
    profile = runs.profile(tmp_path, files={}, code={"functions": False})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        try:
            assert target.stdin is not None
            assert target.stdout is not None
            assert target.stdout.readline() == b"ready\n"
            with runs.attached(tmp_path, profile, "--pid", str(target.pid)) as agent:
                target.stdin.write(b".")
                target.stdin.flush()
                ran = agent.finish()
        finally:
            target.kill()
    assert ran.status == 0, ran.stderr
    stats = [span for span in ran.operations if span.attributes.get("file.path") == "/proc/self"]
    assert len(stats) == THREADS
    assert ran.balance["dropped"] == {}
    named = Counter(
        (span.attributes.get("code.function.name"), span.attributes.get("kernelspan.code.missing")) for span in stats
    )
    assert set(named) <= {("__main__.work", None), *((None, reason) for reason in UNKNOWN)}
    assert named["__main__.work", None] > 0


def test_storm_of_short_processes(tmp_path: Path) -> None:
    """One after another as fast as a shell starts them, and many at once: each is whole, its exec and its exit."""
    script = (
        f"i=0; while [ $i -lt {PROCESSES} ]; do /bin/true; /bin/false; i=$((i+1)); done; "
        f"i=0; while [ $i -lt {PROCESSES} ]; do /bin/true & i=$((i+1)); done; wait"
    )
    ran = runs.run(tmp_path, runs.profile(tmp_path, processes={}), "/bin/dash", "-c", script)
    assert ran.status == 0
    assert ran.balance["dropped"] == {}
    by_pid: dict[object, list[tuple[str, object]]] = {}
    for span in ran.operations:
        what = span.attributes.get("file.path", span.attributes.get("process.exit.code"))
        by_pid.setdefault(span.resource["process.pid"], []).append((span.name, what))
    kinds = Counter(tuple(each) for each in by_pid.values())
    assert kinds.pop((("process.exec", "/bin/true"), ("process.exit", 0))) == 2 * PROCESSES
    assert kinds.pop((("process.exec", "/bin/false"), ("process.exit", 1))) == PROCESSES
    (shell,) = kinds
    assert Counter(name for name, _ in shell) == {"process.exec": 1, "process.fork": 3 * PROCESSES, "process.exit": 1}
