# SPDX-License-Identifier: Apache-2.0
"""Operations on sockets: what a program says it did, call by call, is exactly what the spans say, in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelspan_agent.probes.source import syscalls
from kernelspan_api.operations import Group
from tests.support import runs
from tests.support.runs import PROGRAMS, SYSTEM_PYTHON, Scenario

NAMES = ["tcp4", "tcp6", "mapped", "refused", "unix_paths", "unix_pairs", "udp4", "udp6", "resolves", "no_sockets"]
ALONE = "slow_resolves"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Every scenario, in one run."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "at").mkdir()
    profile = runs.profile(folder, network={})
    done = runs.run(folder, profile, SYSTEM_PYTHON, "-S", PROGRAMS / "network.py", folder / "at", *NAMES)
    assert done.balance["dropped"] == {}, done.report
    return runs.scenarios(done)


@pytest.mark.parametrize("name", NAMES)
def test_scenario(traced: dict[str, Scenario], name: str) -> None:
    """As many spans as operations, each with both ends as far as they are known, sizes, result and error."""
    found = traced[name]
    assert found.seen == found.said


def test_every_call(traced: dict[str, Scenario]) -> None:
    """No system call of the group is left untried."""
    assert {call.name for call in syscalls(Group.NETWORK)} == set(traced["tcp4"].more["calls"])


@pytest.mark.parametrize("least_us", [0, 2000])
def test_resolve_alone(tmp_path: Path, least_us: int) -> None:
    """A profile of Resolve alone gives name resolutions and nothing of what they consist of; as long as they took."""
    (tmp_path / "at").mkdir()
    profile = runs.profile(tmp_path, network={"operations": ["Resolve"], "minDurationMicroseconds": least_us})
    done = runs.run(tmp_path, profile, SYSTEM_PYTHON, "-S", PROGRAMS / "network.py", tmp_path / "at", ALONE)
    found = runs.scenarios(done)[ALONE]
    assert found.seen == found.said
    assert all(span.end_ns - span.start_ns >= least_us * 1000 for span in found.spans)
