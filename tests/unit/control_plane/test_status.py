# SPDX-License-Identifier: Apache-2.0
"""What is written of a profile: the right thing, once, and not more often than it may be."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kernelspan_api.control import control_pb2
from kernelspan_api.reasons import Reason
from kernelspan_api.status import Status
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.services import agents as agents_module
from kernelspan_operator.services import status as status_module
from kernelspan_operator.services.aggregate import OnNode, status_of
from kernelspan_operator.services.profiles import parse
from kernelspan_operator.services.status import plain
from tests.support.apiserver import until
from tests.unit.control_plane.cluster import PODS, Agent, Cluster, cluster_profile, pod, profile, run, stored, token

SHOP = PODS.format("shop")
NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def state(generation: int = 1, **more: Any) -> control_pb2.ProfileState:
    return control_pb2.ProfileState(uid="uid-checkout", generation=generation, **more)


def conditions(status: Status) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status.value, one.reason) for one in status.conditions}


def made(nodes: list[OnNode], pods: int = 1, before: Status | None = None, now: float = NOW, **spec: Any) -> Status:
    return status_of(parse(profile(**spec), Policy()), pods, nodes, before, now)


FAILED = control_pb2.ProbeState(name="p", state="Failed", reason="FunctionNotFound", message="no such")
ATTACHED = control_pb2.ProbeState(name="files", state="Attached", mechanism="Fentry")


@pytest.mark.parametrize(
    ("nodes", "pods", "attached", "ready"),
    [
        ([], 0, ("False", "NoMatchingPods"), ("False", "NoMatchingPods")),
        ([], 1, ("Unknown", "Attached"), ("Unknown", "Ready")),
        ([OnNode("n1")], 1, ("Unknown", "Attached"), ("Unknown", "Ready")),
        ([OnNode("n1", state=state(generation=0))], 1, ("Unknown", "Attached"), ("Unknown", "Ready")),
        ([OnNode("n1", state=state())], 1, ("True", "Attached"), ("True", "Ready")),
        ([OnNode("n1", state=state()), OnNode("n2")], 2, ("Unknown", "Attached"), ("Unknown", "Ready")),
        ([OnNode("n1", state=state(), unreachable=True)], 1, ("False", "AgentUnreachable"), ("False", "AgentUnreachable")),
        ([OnNode("n1", outdated=True)], 1, ("False", "AgentOutdated"), ("False", "AgentOutdated")),
        ([OnNode("n1", state=state(reason="KernelTooOld"))], 1, ("False", "KernelTooOld"), ("False", "KernelTooOld")),
        ([OnNode("n1", state=state(probes=[ATTACHED, FAILED]))], 1, ("False", "FunctionNotFound"), ("False", "FunctionNotFound")),
        ([OnNode("n1", state=state(export_reason="CollectorUnreachable"))], 1, ("True", "Attached"), ("False", "CollectorUnreachable")),
    ],
)  # fmt: skip
def test_conditions(nodes: list[OnNode], pods: int, attached: tuple[str, str], ready: tuple[str, str]) -> None:
    """From what the nodes say."""
    found = conditions(made(nodes, pods))
    assert found["Accepted"] == ("True", "Accepted")
    assert (found["Attached"], found["Ready"]) == (attached, ready)


def test_paused_and_expired() -> None:
    """Have a condition of their own, only then; no node is desired."""
    nodes = [OnNode("n1", state=state())]
    paused = made(nodes, paused=True)
    assert conditions(paused) == {
        "Accepted": ("True", "Accepted"),
        "Attached": ("False", "Paused"),
        "Ready": ("False", "Paused"),
        "Paused": ("True", "Paused"),
    }
    assert (paused.summary.nodes_desired, paused.plan_hash) == (0, "")
    assert conditions(made(nodes, ttlSeconds=1))["Expired"] == ("True", "Expired")
    assert "Expired" not in conditions(made(nodes, ttlSeconds=31_000_000))


def test_a_refused_profile_says_why() -> None:
    """And is not ready."""
    found = made([], files={"operations": ["Fly"]})
    assert conditions(found)["Accepted"] == ("False", "InvalidSpec")
    assert "Fly" in found.conditions[0].message


def test_sums_and_the_order_of_nodes() -> None:
    """Failing nodes first, fifty at most; counters and runtimes over all."""
    python = control_pb2.RuntimeCount(runtime="Python", processes=2, unwinding=1)
    counters = control_pb2.Counters(seen=10, exported=7, dropped=3)
    good = [OnNode(f"n{number:03}", state=state(processes=3, runtimes=[python], counters=counters, probes=[ATTACHED]))
            for number in range(60)]  # fmt: skip
    php = control_pb2.RuntimeCount(runtime="PHP", processes=1, reason="RuntimeUnsupported", message="PHP 8.4 has ZTS")
    good[7].state.runtimes.append(php)
    found = made([*good, OnNode("z", state=state(reason="PermissionDenied"))], pods=61)
    assert (found.summary.nodes_ready, found.summary.nodes_desired, found.summary.processes) == (60, 61, 180)
    assert (found.summary.probes_attached, found.events.seen, found.events.dropped) == (60, 600, 180)
    assert (found.runtimes[0].processes, found.runtimes[0].unwinding, found.runtimes[0].reason) == (120, 60, None)
    told = found.runtimes[1]
    assert (told.processes, told.unwinding, told.reason) == (1, 0, Reason.RUNTIME_UNSUPPORTED)
    assert told.message == "PHP 8.4 has ZTS"
    assert (found.nodes[0].node, len(found.nodes)) == ("z", 50)
    assert found.nodes[0].message  # the remedy, where the agent gave no word


def test_transition_times_are_stable() -> None:
    """They move with the status, not with the reason, the message, or time."""
    first = made([OnNode("n1")])
    second = made([OnNode("n1", state=state(reason="KernelTooOld"))], before=first, now=NOW + 10)
    third = made([OnNode("n1", state=state(reason="PermissionDenied"))], before=second, now=NOW + 20)
    times = [{one.type: one.last_transition_time for one in status.conditions} for status in (first, second, third)]
    assert times[0]["Accepted"] == times[2]["Accepted"] == "2026-06-01T00:00:00Z"
    assert times[1]["Attached"] == times[2]["Attached"] == "2026-06-01T00:00:10Z"
    assert third.conditions[1].reason == "PermissionDenied"


def test_what_a_newer_agent_says_is_kept_in_bounds() -> None:
    """States and reasons that are not known here, and texts without end."""
    probe = control_pb2.ProbeState(name="p" * 999, state="Levitating", reason="New", message="m" * 9999)
    found = made([OnNode("n1", state=state(probes=[probe] * 99))])
    assert msgspec.convert(plain(found), Status) == found


def test_zeros_are_written() -> None:
    """The columns of kubectl show 0, not nothing."""
    found = plain(made([], 0))
    assert found["summary"]["pods"] == 0
    assert found["events"]["seen"] == 0
    assert "reason" not in plain(made([OnNode("n1", state=state())]))["nodes"][0]


# --- writing ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals short enough to wait for."""
    monkeypatch.setattr(status_module, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(status_module, "RETRY_SECONDS", (0.05, 0.1))


def writes(cluster: Cluster) -> int:
    return cluster.server.count("PATCH")


def test_from_applied_to_ready() -> None:
    """And nothing is written while nothing changes."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile())
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            plan = await agent.plan()
            await agent.state(plan)
            await until(lambda: cluster.condition(profile(), "Ready") == ("True", "Ready"))
            found = cluster.status(profile())
            assert found["summary"]["pods"] == found["summary"]["nodesReady"] == 1
            assert found["nodes"][0]["kernel"] == "6.1"
            await asyncio.sleep(0.3)
            before = writes(cluster)
            for _ in range(20):
                await agent.state(plan)
                cluster.system.statuses.touch_node("n1")
                await asyncio.sleep(0.02)
            assert writes(cluster) == before

    run(test)


def test_counters_alone_are_written_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else that changes is written at once, with the counters as they were."""

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile())
        async with Agent(cluster, token("n1")) as agent:
            await agent.hello("n1")
            plan = await agent.plan()
            await agent.state(plan)
            await until(lambda: cluster.condition(profile(), "Ready") == ("True", "Ready"))
            await asyncio.sleep(0.3)
            before = writes(cluster)
            await agent.state(plan, counters=control_pb2.Counters(seen=5, exported=5))
            await until(lambda: cluster.system.agents.reported("n1").profile("uid-checkout").counters.seen == 5)  # type: ignore[union-attr]
            # Exporting has become true, which is news; the counters are none yet.
            await until(lambda: cluster.condition(profile(), "Exporting")[0] == "True")
            await asyncio.sleep(0.3)
            assert writes(cluster) == before + 1
            assert cluster.status(profile())["events"]["seen"] == 0
            monkeypatch.setattr(status_module, "COUNTERS_SECONDS", 0.0)
            cluster.system.statuses.touch_node("n1")
            await until(lambda: cluster.status(profile())["events"]["seen"] == 5)

    run(test)


def test_many_changes_are_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one in each interval, and the last one holds."""
    monkeypatch.setattr(status_module, "WRITE_SECONDS", 30.0)

    async def test(cluster: Cluster) -> None:
        cluster.apply(profile())
        await until(lambda: cluster.condition(profile(), "Attached") == ("False", "NoMatchingPods"))
        for number in range(30):
            cluster.server.put(SHOP, pod(f"p{number}", node=""))
        await until(lambda: len(cluster.system.pods) == 30)
        await asyncio.sleep(0.2)
        assert writes(cluster) == 1
        monkeypatch.setattr(status_module, "WRITE_SECONDS", 0.0)
        cluster.server.put(SHOP, pod("last", node=""))
        await until(lambda: cluster.status(profile())["summary"]["pods"] == 31)

    run(test)


def test_a_write_that_fails_is_tried_again() -> None:
    """And a profile that is gone is not."""

    async def test(cluster: Cluster) -> None:
        answers = iter([500, 409, 0])
        cluster.server.refuse = lambda verb, _path: next(answers, 0) if verb == "PATCH" else 0
        cluster.apply(profile())
        await until(lambda: cluster.condition(profile(), "Ready") == ("False", "NoMatchingPods"))
        assert writes(cluster) == 3

    run(test)


def test_an_object_made_anew_is_another_one() -> None:
    """A status is never written onto an object of another uid."""

    async def test(cluster: Cluster) -> None:
        body = profile()
        cluster.apply(body)
        await until(lambda: cluster.condition(body, "Ready")[0] == "False")
        cluster.server.put(stored(body), profile(uid="new"))  # the event is still on its way
        cluster.server.put(SHOP, pod("a", node=""))
        await until(lambda: writes(cluster) >= 2)
        assert cluster.status(body) == {}
        cluster.apply(profile(uid="new"))
        await until(lambda: cluster.status(body).get("summary", {}).get("pods") == 1)

    run(test)


def test_a_cluster_profile_is_written_where_it_is() -> None:
    """Without a namespace."""

    async def test(cluster: Cluster) -> None:
        cluster.apply(cluster_profile())
        await until(lambda: cluster.condition(cluster_profile(), "Ready") == ("False", "NoMatchingPods"))

    run(test)


def test_a_restart_says_nothing_before_the_agents_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the object says stays until its nodes have reported, or have been away for the grace."""
    before = plain(made([OnNode("n1", state=state())]))

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        body = profile() | {"status": before}
        cluster.apply(body)
        await until(lambda: cluster.system.plans.is_open and cluster.names())
        await asyncio.sleep(0.4)
        assert writes(cluster) == 0
        monkeypatch.setattr(agents_module, "GRACE_SECONDS", 0.0)
        await until(lambda: cluster.condition(body, "Ready") == ("False", "AgentUnreachable"))
        times = {one["type"]: one["lastTransitionTime"] for one in cluster.status(body)["conditions"]}
        assert times["Accepted"] == "2026-06-01T00:00:00Z"

    run(test)
