# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm.refused FOLDER: in a guest, what an agent tells its operator of a profile of files, as JSON: the
profile's reason, and the state, reason and message of its group.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from kernelspan_api.control.control_pb2 import NodePlan, ProfileState
from tests.support.node_agents import Running, profile, starting
from tests.support.tls import make_tls

NOWHERE = "http://127.0.0.1:9"  # nothing is sent
_SECONDS = 300.0  # emulated


def settled(agent: Running) -> ProfileState:
    """What it told once its group was not waited for any more."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        state = agent.server.states().get("p")
        if state is not None and state.probes and all(each.state != "Pending" for each in state.probes):
            return state
        assert agent.process.poll() is None, agent.log.read_text()
        time.sleep(0.1)
    raise AssertionError(agent.log.read_text())


def main(folder: Path) -> None:
    """Everything."""
    with starting(folder, make_tls(folder / "tls"), None) as begin:
        agent = begin(otlp=NOWHERE)
        agent.server.plans.put(
            NodePlan(hash="h", node="n1", revision=1, profiles=[profile("p", files={"operations": ["Stat"]})])
        )
        found = settled(agent)
        (group,) = found.probes
        agent.stop()
    json.dump([found.reason, group.state, group.reason, group.message], sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
