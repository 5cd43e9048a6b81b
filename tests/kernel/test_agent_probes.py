# SPDX-License-Identifier: Apache-2.0
"""Own probes in a cluster's agent: plans over the real stream, told of by their state, attached while the rest goes on."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kernelspan_api.control.control_pb2 import NodePlan
from tests.support.collector import Collector
from tests.support.node_agents import Running, Start, profile, program, starting
from tests.support.pods import Pod, every_container, line
from tests.support.ports import PortReservation
from tests.support.tls import TlsFiles

STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}
LOOK: dict[str, Any] = {
    "name": "look",
    "kprobe": {"call": "newfstatat", "syscall": True},
    "args": [{"index": 1, "type": "String", "attribute": "looked.at"}],
    "match": [{"args": [{"index": 1, "operator": "Prefix", "values": ["/mark/"]}]}],
}
MISSING = {"name": "missing", "kprobe": {"call": "no_such_function_in_any_kernel"}}
WAITS = {"name": "waits", "usdt": {"path": "/opt/none", "provider": "none", "probe": "none"}, "mode": "Event"}


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> Iterator[Start]:
    """Starts agents that dial one server; ends all."""
    with starting(tmp_path, tls_files, collector) as begin:
        yield begin


def states(agent: Running, uid: str) -> dict[str, tuple[str, str, str]]:
    """State, mechanism and reason of each probe, as the operator heard of them last."""
    found = agent.server.states().get(uid)
    return {one.name: (one.state, one.mechanism, one.reason) for one in found.probes} if found else {}


def seen(collector: Collector, profile_name: str) -> list[str]:
    """What a profile's `look` has seen."""
    spans = [span for span in collector.spans() if span.resource.get("profile") == profile_name]
    return [
        str(span.attributes["looked.at"]).removeprefix("/mark/") for span in spans if "looked.at" in span.attributes
    ]


def own(name: str, *probes: dict[str, Any], generation: int = 1, **spec: Any) -> Any:
    return profile(name, generation, probes=list(probes), resourceAttributes={"profile": name}, **spec)


def until_sees(agent: Running, collector: Collector, process: Any, profile_name: str, mark: str) -> None:
    def there() -> bool:
        line(process, mark)
        return mark in seen(collector, profile_name)

    agent.until(there, f"seen by {profile_name}: {mark}")


def metric(port: int, name: str) -> dict[tuple[str, ...], float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    families = text_string_to_metric_families(text)
    return {tuple(one.labels.values()): one.value for each in families for one in each.samples if one.name == name}


def test_each_probe_has_a_state(start: Start, collector: Collector) -> None:
    """Attached by a mechanism, failed for a reason, pending for a file; a profile of probes alone is traced."""
    with PortReservation(1) as held:
        (number,) = held.ports
    with Pod("web-1") as pod:
        agent = start("--listen", f"127.0.0.1:{number}")
        mine = program(pod)
        plan = [own("p", LOOK, MISSING, WAITS)]
        agent.server.plans.put(_plan(agent, plan, [pod.plan(every_container("p"))]))
        agent.until(lambda: states(agent, "p").get("look", ("",))[0] == "Attached", "attached")
        until_sees(agent, collector, mine, "p", "one")
        expected = {
            "look": ("Attached", "Tracepoint", ""),
            "missing": ("Failed", "", "FunctionNotFound"),
            "waits": ("Failed", "", "BinaryNotFound"),  # given up for now
        }
        agent.until(lambda: states(agent, "p") == expected, "told of each")
        counted = {("shop/p", "Attached"): 1, ("shop/p", "Pending"): 0, ("shop/p", "Failed"): 2}
        agent.until(lambda: metric(number, "kernelspan_probes") == counted, "counted")
        acted = metric(number, "kernelspan_library_operations_total")
        assert set(acted) == {("", "own", "")}  # by library, operation and version
        assert acted["", "own", ""] >= 1
        agent.stop()


def _plan(agent: Running, profiles: list[Any], pods: list[Any]) -> Any:
    agent.revision += 1
    return NodePlan(hash=f"own{agent.revision}", node="n1", revision=1, profiles=profiles, pods=pods)


def test_probes_come_and_go_with_their_profiles(start: Start, collector: Collector) -> None:
    """Later than the engine, which goes on; shared by two; detached with the last; the others' operations never stop."""
    agent = start()
    with Pod("web-1") as pod:
        mine = program(pod)
        files = profile("files", **STATS, resourceAttributes={"profile": "files"})
        agent.follow([files], [pod.plan(every_container("files"))])
        agent.until_seen(collector, mine, "before")
        both = [files, own("a", LOOK), own("b", LOOK)]
        agent.follow(both, [pod.plan(*(every_container(name) for name in ("files", "a", "b")))])
        assert states(agent, "a") == states(agent, "b") == {"look": ("Attached", "Tracepoint", "")}
        until_sees(agent, collector, mine, "a", "shared")
        until_sees(agent, collector, mine, "b", "shared")
        agent.follow([files, own("b", LOOK)], [pod.plan(*(every_container(name) for name in ("files", "b")))])
        agent.until(lambda: agent.log.read_text().count('"plan.followed"') == 3, "followed")
        until_sees(agent, collector, mine, "b", "left")
        agent.follow([files], [pod.plan(every_container("files"))])
        agent.until(lambda: '"event": "probe.detached"' in agent.log.read_text(), "detached")
        agent.until_seen(collector, mine, "after")
        agent.stop()
    assert "left" not in seen(collector, "a")
    assert "after" not in seen(collector, "b")
    assert "engine.replaced" not in agent.log.read_text()
