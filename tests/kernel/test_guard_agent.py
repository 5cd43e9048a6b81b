# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of a profile beyond its limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.generators import compiled
from tests.support.node_agents import Start, starting
from tests.support.node_agents import profile as node_profile
from tests.support.pods import Pod, every_container
from tests.support.runs import UNLIMITED
from tests.support.tls import TlsFiles

READS: dict[str, Any] = {"files": {"operations": ["Read"]}, "code": {"stacks": "None"}}


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> Iterator[Start]:
    with starting(tmp_path, tls_files, collector) as begin:
        yield begin


@pytest.mark.parametrize("what", ["Throttle", "Detach"])
def test_the_operator_is_told(start: Start, what: str) -> None:
    """By an agent, of a pod: what is thrown away with the probe, a profile that is detached as a whole; until it is changed."""
    agent = start()
    with Pod("web-1") as pod:
        running = pod.run(str(compiled("busy")), "read")
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        spec = {**READS, "limits": {**UNLIMITED, "cpuMillicores": 60, "onExceed": what}}
        pods = [pod.plan(every_container("a"))]
        agent.follow([node_profile("a", **spec)], pods)
        running.stdin.write(b"fast\n")
        running.stdin.flush()

        def state() -> Any:
            return agent.server.states()["a"]

        if what == "Throttle":
            agent.until(lambda: state().probes[0].reason == "BudgetExceeded", "told")
            assert not state().reason
        else:
            agent.until(lambda: state().reason == "BudgetExceeded", "told")
            assert state().probes[0].state == "Detached"
        assert "cpuMillicores 60" in state().probes[0].message
        running.stdin.write(b"slow\n")
        running.stdin.flush()
        if what == "Throttle":
            agent.until(lambda: not state().probes[0].reason, "recovered")
        else:
            agent.follow([node_profile("a", 2, **spec)], pods)
            agent.until(lambda: state().generation == 2 and not state().reason, "another")
        exported = state().counters.exported
        agent.until(lambda: state().counters.exported > exported, "seen again")
        agent.stop()
