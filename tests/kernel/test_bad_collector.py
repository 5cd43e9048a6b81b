# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run` while its collector is not there, dies, refuses, is slow or takes a part: the program never notices,
what was taken is counted as exported, all else as dropped, with the server's words.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from tests.support import runs
from tests.support.collector import Collector
from tests.support.runs import SYSTEM_PYTHON
from tests.unit.export.servers import GrpcStep, fail, grpc_server, partial_success

EACH = 101
STATS = {"files": {"operations": ["Stat"]}}
# So many operations for each line of its input.
PROGRAM = f"""
import os, sys
for line in sys.stdin:
    for _ in range({EACH}):
        os.stat("/proc/self")
    print("done", flush=True)
"""


@pytest.mark.parametrize("when", ["down at the start", "dies in the middle"])
def test_nothing_is_lost_when_it_comes_back(tmp_path: Path, collector: Collector, when: str) -> None:
    """Every operation of before, meanwhile and after arrives."""
    if when == "down at the start":
        collector.kill()
    options, profile = ["--otlp", collector.grpc_endpoint], runs.profile(tmp_path, **STATS)
    command = [SYSTEM_PYTHON, "-S", "-c", PROGRAM]
    with runs.agent(tmp_path, profile, *command, options=options, output=False, stdin=subprocess.PIPE) as agent:
        stdin, stdout = agent.process.stdin, agent.process.stdout
        assert stdin is not None
        assert stdout is not None

        def work() -> None:
            stdin.write(b"\n")
            stdin.flush()
            assert stdout.readline() == b"done\n"

        work()
        if when == "dies in the middle":
            collector.wait_for_spans(EACH)
            collector.kill()
        work()
        agent.wait_until(lambda: "export.retry" in agent.stderr(), "told of the trouble")
        collector.restart()
        work()
        ran = agent.finish()
    assert ran.status == 0, ran.stderr
    assert ran.balance["dropped"] == {}
    arrived = {span.span_id for span in collector.spans() if span.attributes.get("file.path") == "/proc/self"}
    assert len(arrived) == 3 * EACH
    assert ran.balance["exported"] == ran.balance["seen"] >= 3 * EACH


def late(context: grpc.ServicerContext) -> bytes:
    """A server that has not answered when the attempt's time is up."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(runs.TIMEOUT_SECONDS)
    return b""


def a_part(_: grpc.ServicerContext) -> bytes:
    """A server that leaves some out."""
    return partial_success(7, "seven too many")


@pytest.mark.parametrize(
    ("steps", "dropped", "words"),
    [
        ([fail(grpc.StatusCode.INVALID_ARGUMENT, "none of this")] * 1000, EACH, "none of this"),
        ([fail(grpc.StatusCode.UNAUTHENTICATED, "who are you")] * 1000, EACH, "who are you"),
        ([a_part], 7, "seven too many"),
        ([fail(grpc.StatusCode.UNAVAILABLE, "come again"), late, late], 0, "export.retry"),
    ],
    ids=["refuses", "does not know us", "takes a part", "busy, then slow"],
)
def test_what_it_answers(tmp_path: Path, steps: Sequence[GrpcStep], dropped: int, words: str) -> None:
    """What it did not take is ExportFailed, and why is in the log and the report; a slow one is asked again."""
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "300", "PATH": "/usr/bin:/bin"}
    command = [SYSTEM_PYTHON, "-S", "-c", PROGRAM]
    profile = runs.profile(tmp_path, **STATS)
    with (
        grpc_server(steps) as (port, received),
        runs.agent(
            tmp_path,
            profile,
            *command,
            options=["--otlp", f"127.0.0.1:{port}"],
            output=False,
            stdin=subprocess.PIPE,
            env=environ,
        ) as agent,
    ):
        assert agent.process.stdin is not None
        agent.process.stdin.write(b"\n")
        agent.process.stdin.close()
        agent.process.stdin = None
        ran = agent.finish()
    assert (ran.status, ran.stdout) == (0, b"done\n")
    assert "Traceback" not in ran.stderr
    assert words in ran.stderr
    lost = ran.balance["dropped"].get("ExportFailed", 0)
    assert ran.balance["exported"] + lost == ran.balance["seen"] >= EACH
    if dropped == EACH:
        assert ran.balance["exported"] == 0
    else:
        assert lost == min(dropped, received.payloads[0].count(b"file.stat"))  # as many as it had been sent by then
    assert (words in ran.report["lastError"]) == bool(dropped)
    assert received.payloads
