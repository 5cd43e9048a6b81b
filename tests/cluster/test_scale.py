# SPDX-License-Identifier: Apache-2.0
"""`make scale` in small: the same code on 20 nodes. What is held are counts; how long things take is the benchmark's."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scale.measure import Effort
from bench.scale.running import run
from bench.scale.sizes import Sizes
from tests.support.cluster import BINARIES
from tests.support.fixtures import built

SIZES = Sizes(nodes=20, pods=200, profiles=5)
CHANGES = 2


@pytest.fixture(scope="module")
def figures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one run."""
    binaries = {name: built(name, "cluster", request) for name in BINARIES}
    return run(binaries, tmp_path_factory.mktemp("scale"), SIZES, Effort(changes=CHANGES, idle_seconds=3), print)


def test_an_idle_operator_asks_and_writes_nothing(figures: dict[str, Any]) -> None:
    """Heartbeats of agents and of nodes cost the API server nothing."""
    idle = figures["idle"]
    assert idle["node_writes_of_kubelets"] >= 1
    assert (idle["api_calls"], idle["plans_built"]) == ({}, 0)


def test_a_change_makes_one_plan_for_each_node_that_it_touches(figures: dict[str, Any]) -> None:
    """Work is in proportion to the nodes of the profile, not to those of the cluster."""
    assert figures["change on all nodes"]["plans_built"] == CHANGES * SIZES.nodes
    assert figures["change on one node"]["plans_built"] == CHANGES


def test_agents_that_come_back_are_sent_nothing(figures: dict[str, Any]) -> None:
    """They say which plan they hold, and an operator that was started anew makes the same one."""
    assert figures["started again, agents with their plans"]["plans"] == 0


def test_each_agent_costs_the_api_server_one_review(figures: dict[str, Any]) -> None:
    """And nothing else, but what the operator asks for itself."""
    for phase in ("started again, agents without plans", "started again, agents with their plans"):
        calls = figures[phase]["api_calls"]
        assert calls.pop("create tokenreviews") >= SIZES.nodes
        assert {name.split()[0] for name in calls} <= {"get", "list", "watch"}
