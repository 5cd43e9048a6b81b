# SPDX-License-Identifier: Apache-2.0
"""Every example of built-in operations runs on a real program, and gives each it names, in the function that did it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelspan_api.operations import BY_NUMBER, OPERATIONS, Operation
from kernelspan_api.plan import wanted
from kernelspan_api.profile import load
from tests.support.otlp_json import ReceivedSpan, spans_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("0[1-6]-*.yaml"))  # those of own probes: test_examples_probes.py
PROGRAM = ROOT / "tests/support/operations_program.py"
KERNELSPAN = Path(sys.executable).with_name("kernelspan")
TIMEOUT_SECONDS = 120
SLOW_US = 5000  # minDurationMicroseconds of 06
# Made by the interpreter or the kernel, not by a call that a line of the program makes.
WITHOUT_FUNCTION = {"Exec", "Exit", "OffCPU"}

# Opens a FIFO that nobody has open yet, then writes, syncs and reads so much that it takes its time; says what was slow.
SLOW = """
import json, os, sys, threading, time
folder, took = sys.argv[1], {}
def timed(name, act, *arguments):
    start = time.perf_counter_ns()
    found = act(*arguments)
    took[name] = (time.perf_counter_ns() - start) // 1000
    return found
os.mkfifo(folder + "/fifo")
threading.Timer(0.05, lambda: os.open(folder + "/fifo", os.O_WRONLY)).start()
timed("Open", os.open, folder + "/fifo", os.O_RDONLY)
fd = os.open(folder + "/large", os.O_RDWR | os.O_CREAT)
timed("Write", os.write, fd, b"x" * (128 << 20))
timed("Sync", os.fsync, fd)
timed("Read", os.pread, fd, 128 << 20, 0)
print(json.dumps(took))
"""


def operations_named(example: Path) -> list[Operation]:
    """What the example's profile asks for."""
    profile = load(example.read_bytes(), standalone=True)
    return [BY_NUMBER[number] for number in wanted(profile.metadata.name, profile.spec).operations]


def run(example: Path, output: Path, *command: str) -> tuple[list[ReceivedSpan], str]:
    """The spans of the command under the example, and what the command said."""
    done = subprocess.run(
        [
            KERNELSPAN,
            "run",
            "-f",
            example,
            "--output",
            output,
            "--report",
            output.with_suffix(".report"),
            "--",
            *command,
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    operations = json.loads(output.with_suffix(".report").read_text())["operations"]
    waits = "OffCPU" in {operation.name for operation in operations_named(example)}
    told = {"Skipped"} if waits else set()  # a kernel may keep a return to the CPU to itself
    assert operations["unaccounted"] == 0
    assert set(operations["dropped"]) <= told
    return [span for line in output.read_text().splitlines() for span in spans_of(json.loads(line))], done.stdout


def acts(spans: list[ReceivedSpan]) -> Iterator[tuple[str, str]]:
    """Operation, and the function that did it, of each operation's span."""
    names = {operation.span_name: operation.name for operation in OPERATIONS}
    for span in spans:
        name = names.get(re.sub(r"^(tcp|udp|unix)\.", "socket.", span.name))
        if name:
            yield name, str(span.attributes.get("code.function.name", ""))


@pytest.mark.parametrize("example", [each for each in EXAMPLES if "slow" not in each.name], ids=lambda each: each.stem)
def test_example(example: Path, tmp_path: Path) -> None:
    """A span of each operation the profile names, in the function called like it; none of an operation it does not."""
    folder = tmp_path / "traced"
    folder.mkdir()
    spans, _ = run(example, tmp_path / "spans.jsonl", sys.executable, str(PROGRAM), str(folder))
    named = {operation.name for operation in operations_named(example)}
    found = set(acts(spans))
    assert named
    assert {name for name, _ in found} == named
    assert {name for name in named - WITHOUT_FUNCTION if (name, f"__main__.{name}") not in found} == set()


def test_slow_file_operations(tmp_path: Path) -> None:
    """What the program itself found slow is there, below /var alone, nothing quicker, each with its whole stack."""
    (example,) = (each for each in EXAMPLES if "slow" in each.name)
    with tempfile.TemporaryDirectory(prefix="kernelspan-test-", dir="/var/tmp") as folder:
        spans, said = run(example, tmp_path / "spans.jsonl", sys.executable, "-c", SLOW, folder)
    took = json.loads(said)
    slow = {name for name, microseconds in took.items() if microseconds >= 2 * SLOW_US}
    operations = [span for span in spans if span.name.startswith("file.")]
    assert {"Open", "Read", "Write"} <= slow
    assert slow <= {name for name, _ in acts(spans)} <= {operation.name for operation in operations_named(example)}
    assert all(span.end_ns - span.start_ns >= SLOW_US * 1000 for span in operations)
    assert all(str(span.attributes["file.path"]).startswith("/var/") for span in operations)
    assert all("(<string>:" in str(span.attributes["code.stacktrace"]) for span in operations)


def test_processes_that_match(tmp_path: Path) -> None:
    """Without a command the profile's processSelector says whom: one that runs already, and one that starts later."""
    (example,) = (each for each in EXAMPLES if "slow" in each.name)
    profile = tmp_path / "profile.yaml"
    python = Path(sys.executable).resolve()
    text = re.sub(r"executables: \[.*\]", f"executables: ['{python}']", example.read_text())
    profile.write_text(
        re.sub(r"minDurationMicroseconds: \d+", "minDurationMicroseconds: 0", text).replace("/srv", str(tmp_path))
    )
    writer = f"import time\nwhile True:\n    open({str(tmp_path / 'mine')!r}, 'w').close(); time.sleep(0.05)"
    output = tmp_path / "spans.jsonl"
    with subprocess.Popen([sys.executable, "-c", writer]) as first:
        agent = subprocess.Popen([KERNELSPAN, "run", "-f", profile, "--output", output, "--duration", "8"])
        time.sleep(4)
        with subprocess.Popen([sys.executable, "-c", writer]) as second:
            try:
                assert agent.wait(TIMEOUT_SECONDS) == 0
            finally:
                for process in (first, second):
                    process.kill()
    spans = [span for line in output.read_text().splitlines() for span in spans_of(json.loads(line))]
    pids = {
        span.resource["process.pid"] for span in spans if span.attributes.get("file.path") == str(tmp_path / "mine")
    }
    assert pids == {first.pid, second.pid}
