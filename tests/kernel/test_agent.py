# SPDX-License-Identifier: Apache-2.0
"""`kernelspan agent` on this machine's kernel: plans over the real stream, processes in cgroups as the kubelet names them,
spans in a real collector. Several profiles at once, each with what it asked for and nothing of another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kernelspan_api.control.control_pb2 import ExportSecret, MatchSet
from tests.support.collector import Collector
from tests.support.node_agents import WAIT_SECONDS, Start, profile, program, starting
from tests.support.otlp_json import ReceivedSpan
from tests.support.plan_server import PlanServer
from tests.support.pods import FORMS, Pod, cgroup_root, every_container, line, v1_root
from tests.support.tls import TlsFiles, make_tls


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles, collector: Collector) -> Iterator[Start]:
    """Starts agents that dial one server; ends all."""
    with starting(tmp_path, tls_files, collector) as begin:
        yield begin


def marks(spans: Sequence[ReceivedSpan]) -> set[tuple[str, str]]:
    """Marks, each with the profile (by its resource attribute) that saw it."""
    found = set()
    for span in spans:
        path = str(span.attributes.get("file.path", ""))
        if path.startswith("/mark/"):
            found.add((str(span.resource.get("profile", "")), path.removeprefix("/mark/")))
    return found


STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}


def marked(name: str) -> dict[str, Any]:
    return {"resourceAttributes": {"profile": name}}


def test_a_pod_is_traced_as_what_it_is(start: Start, collector: Collector) -> None:
    """Pod, workload, container, node and function on its spans; nothing of a pod that no profile selects."""
    agent = start()
    with Pod("web-1", labels={"app.kubernetes.io/version": "7"}) as pod, Pod("other-1") as other:
        mine, others = program(pod), program(other)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        line(mine, "seen")
        line(others, "unseen")
        late = program(pod)
        agent.until_seen(collector, late, "late")
        (span,) = collector.wait_for_spans(1, where=lambda span: span.attributes.get("file.path") == "/mark/seen")
        assert span.attributes["code.function.name"] == "__main__.look"
        assert {name: span.resource.get(name) for name in (
            "k8s.node.name", "k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid", "k8s.deployment.name",
            "k8s.container.name", "service.name", "service.version", "host.name", "process.runtime.name", "container.id",
        )} == {
            "k8s.node.name": "n1", "k8s.namespace.name": "shop", "k8s.pod.name": "web-1", "k8s.pod.uid": pod.uid,
            "k8s.deployment.name": "web", "k8s.container.name": "main", "service.name": "web", "service.version": "7",
            "host.name": "n1", "process.runtime.name": "CPython", "container.id": pod.ids["main"],
        }  # fmt: skip
        agent.stop()
    assert {name for _, name in marks(collector.spans())} == {"seen", "late"}


def test_how_long_a_pod_ran_unobserved(start: Start, collector: Collector) -> None:
    """One that its plan knew before, one whose plan came late, one that ran before anybody asked: each as long as it was."""
    agent = start()

    def told() -> dict[str, float]:
        lines = (json.loads(one) for one in agent.log.read_text().splitlines() if one.startswith("{"))
        return {one["pod"]: one["unobserved_ms"] / 1000 for one in lines if one["event"] == "pod.traced"}

    def until_told(pod: Pod) -> float:
        agent.until(lambda: f"shop/{pod.name}" in told(), f"said of {pod.name}")
        return told()[f"shop/{pod.name}"]

    with Pod("early-1") as early, Pod("late-1") as late, Pod("old-1") as old:
        began_old = time.monotonic()
        program(old)
        time.sleep(1)
        plans = [one.plan(every_container("p")) for one in (old, early)]
        asked = time.monotonic()
        agent.follow([profile("p", **STATS)], plans)
        assert until_told(old) <= time.monotonic() - asked < time.monotonic() - began_old
        began_early = time.monotonic()
        running = program(early)
        assert until_told(early) <= time.monotonic() - began_early
        agent.until_seen(collector, running, "early")
        began_late = time.monotonic()
        program(late)
        time.sleep(1)
        agent.follow([profile("p", **STATS)], [*plans, late.plan(every_container("p"))])
        assert 1 <= until_told(late) <= time.monotonic() - began_late + 0.02  # in steps of 10 ms
        agent.stop()
    assert len(told()) == 3


def test_profiles_share_programs_and_nothing_else(start: Start, collector: Collector) -> None:
    """Two on one pod, one of them on another too: each sees what it asked for, with its own depth, names and limits."""
    agent = start()
    with Pod("web-1") as both, Pod("api-1") as single:
        first, second = program(both), program(single)
        everything = profile("all", **STATS, **marked("all"))
        only_b = profile(
            "b", files={"operations": ["Stat"], "paths": ["/mark/b*"]}, code={"stacks": "None"}, **marked("b")
        )
        agent.follow(
            [everything, only_b],
            [both.plan(every_container("all"), every_container("b")), single.plan(every_container("b"))],
        )
        line(first, "a b1")
        line(second, "a b2")
        collector.wait_for_spans(2, where=lambda span: str(span.attributes.get("file.path")).startswith("/mark/b"))
        # one of the two leaves, the other goes on
        agent.follow([everything], [both.plan(every_container("all"))])
        line(first, "c")
        agent.until_seen(collector, first, "c")
        line(second, "c")
        # another operation than is attached: more is seen, nothing is lost on the way
        more = profile("all", 2, files={"operations": ["Stat"]}, network={}, processes={}, waits={}, **marked("all"))
        agent.follow([more], [both.plan(every_container("all"))])
        agent.until_seen(collector, first, "d")
        states = agent.server.states()
        assert {probe.name for probe in states["all"].probes} == {"files", "network", "processes", "waits"}
        agent.stop()
    spans = collector.spans()
    assert marks(spans) == {("all", "a"), ("all", "b1"), ("b", "b1"), ("b", "b2"), ("all", "c"), ("all", "d")}
    functions = {
        span.resource["profile"]: span.attributes.get("code.function.name")
        for span in spans
        if "file.path" in span.attributes
    }
    assert functions == {"all": "__main__.look", "b": None}


def test_containers_by_name(start: Start, collector: Collector) -> None:
    """A container whose id is not known yet is nobody's; once it is, from then on."""
    agent = start()
    wanted = MatchSet(profile_uid="p", containers=["main"])
    with Pod("web-1", containers=("main", "proxy")) as pod:
        main, proxy = program(pod), program(pod, "proxy")
        agent.follow([profile("p", **STATS)], [pod.plan(wanted, known=False)])
        line(main, "early")
        line(proxy, "proxy1")
        agent.follow([profile("p", **STATS)], [pod.plan(wanted)])
        agent.until_seen(collector, main, "known")
        line(proxy, "proxy2")
        agent.until_seen(collector, main, "last")
        agent.stop()
    assert {name for _, name in marks(collector.spans())} == {"known", "last"}


def test_whatever_a_container_is_called(start: Start, collector: Collector) -> None:
    """By every runtime's and kubelet's name for it, on cgroup v2 and (where it is) v1: each is known as what it is."""
    roots = {"v2": cgroup_root()} | ({"v1": v1} if (v1 := v1_root()) else {})
    agent = start()
    wanted = MatchSet(profile_uid="p", containers=["main"])
    with contextlib.ExitStack() as stack:
        pods = {}
        for number, (name, form) in enumerate(FORMS.items()):
            for version, root in roots.items():
                made = Pod(f"{version}-{number}", containers=("main", "other"), form=form, root=root)
                pods[name, version] = stack.enter_context(made)
        programs = {key: (program(pod), program(pod, "other")) for key, pod in pods.items()}
        agent.follow([profile("p", **STATS)], [pod.plan(wanted) for pod in pods.values()])
        for key, (main, other) in programs.items():
            line(main, pods[key].name)
            line(other, f"not-{pods[key].name}")
        found = collector.wait_for_spans(
            len(pods), where=lambda span: str(span.attributes.get("file.path")).startswith("/mark/")
        )
        agent.stop()
    said = {
        str(span.attributes["file.path"]).removeprefix("/mark/"): (
            span.resource["k8s.pod.name"], span.resource["k8s.container.name"], span.resource["container.id"],
        )
        for span in found
    }  # fmt: skip
    assert said == {pod.name: (pod.name, "main", pod.ids["main"]) for pod in pods.values()}
    assert {name for _, name in marks(collector.spans())} == {pod.name for pod in pods.values()}


def test_an_agent_and_pods_in_nested_namespaces(start: Start, collector: Collector) -> None:
    """As in a node that is a container: ids are those of the agent's namespace, other nodes' processes none of its own."""
    agent = start(under=("unshare", "-pf", "--mount-proc", "--kill-child"))
    with Pod("far-1") as far:  # beside the agent's namespace, not in it
        outside = program(far)
        agent.follow([profile("p", **STATS)], [far.plan(every_container("p"))])
        line(outside, "outside")
        inner = _child_of(agent.process.pid)
        with Pod("near-1") as near:
            into = ("nsenter", "-t", str(inner), "-p", "-m", "unshare", "-pf", "--mount-proc")
            inside = program(near, under=into)
            agent.follow([profile("p", **STATS)], [far.plan(every_container("p")), near.plan(every_container("p"))])
            span = agent.until_seen(collector, inside, "inside")
            line(outside, "outside")
            last = agent.until_seen(collector, inside, "last")
            assert last.attributes["code.function.name"] == "__main__.look"
            assert span.resource["process.vpid"] == 1
            assert span.resource["k8s.pod.name"] == "near-1"
            os.kill(inner, signal.SIGTERM)
            agent.process.wait(WAIT_SECONDS)
    assert {name for _, name in marks(collector.spans())} == {"inside", "last"}


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_the_plan_outlives_operator_and_agent(start: Start, collector: Collector, tmp_path: Path) -> None:
    """Without an operator an agent goes on, and one that starts goes on with what was in effect."""
    agent = start()
    with Pod("web-1") as pod:
        running = program(pod)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        agent.server.close()
        agent.until_seen(collector, running, "alone")
        agent.process.kill()
        agent.process.wait()
        again = start()
        again.until_seen(collector, running, "again")
        again.stop()
    assert not (tmp_path / "state" / "secrets").exists()


def test_what_is_rotated_on_disk(start: Start, collector: Collector, tls_files: TlsFiles, tmp_path: Path) -> None:
    """Token and authorities are files that the kubelet changes; an agent has the new ones when it dials anew."""
    agent = start()
    with Pod("web-1") as pod:
        running = program(pod)
        agent.follow([profile("p", **STATS)], [pod.plan(every_container("p"))])
        newer = make_tls(tmp_path / "newer")
        (tmp_path / "token").write_text("newer")
        newer.ca.replace(tls_files.ca)
        agent.server.close()
        after = PlanServer(newer, agent.server.port)
        try:
            agent.until(lambda: after.tokens, "back")
            assert set(after.tokens) == {"Bearer newer"}
            assert agent.server.tokens == ["Bearer secret"]
            agent.until_seen(collector, running, "after")
        finally:
            after.close()
        agent.stop()


def test_what_a_profile_cannot_have(start: Start, collector: Collector) -> None:
    """A bad profile, one beyond this version and one without a way out stop no other; each says why."""
    agent = start()
    with Pod("web-1") as pod:
        running = program(pod)
        profiles = [
            profile("good", **STATS, **marked("good")),
            profile("part", requests=[{"protocol": "HTTP", "tls": "UserProbes"}], **STATS, **marked("part")),
            profile("whole", code={"kernelStack": True}, **STATS),
            profile("unknown", files={"operations": ["Dream"]}),
            profile("nowhere", export={"otlp": {"endpoint": "https://127.0.0.1:1", "tls": {}}}, **STATS),
        ]
        secrets = [ExportSecret(profile_uid="nowhere", ca=b"no certificate")]
        agent.follow(profiles, [pod.plan(*(every_container(one.uid) for one in profiles))], secrets)
        line(running, "x")
        collector.wait_for_spans(2, where=lambda span: span.attributes.get("file.path") == "/mark/x")
        states = agent.server.states()
        assert {uid: state.reason for uid, state in states.items()} == {
            "good": "", "part": "", "whole": "AgentOutdated", "unknown": "AgentOutdated", "nowhere": "InvalidSpec",
        }  # fmt: skip
        assert "kernelStack" in states["whole"].message
        assert "Dream" in states["unknown"].message
        failed = {probe.name: probe.reason for probe in states["part"].probes if probe.state == "Failed"}
        assert failed == {"requests": "AgentOutdated"}
        agent.stop()
    assert marks(collector.spans()) == {("good", "x"), ("part", "x")}
    assert "no certificate" not in agent.log.read_text()


def test_the_balance_that_is_told(start: Start, collector: Collector) -> None:
    """Of profiles that share a process, and of one whose spec has changed: what is told adds up, and nothing is dropped."""
    agent = start()
    with Pod("web-1") as pod:
        running = program(pod)
        pods = [pod.plan(every_container("a"), every_container("b"))]
        other = profile("b", files={"operations": ["Open"]}, **marked("b"))
        agent.follow([profile("a", **STATS), other], pods)
        line(running, " ".join(f"x{number}" for number in range(500)))
        agent.follow([profile("a", 2, **STATS), other], pods)
        line(running, " ".join(f"y{number}" for number in range(500)))
        collector.wait_for_spans(1000, where=lambda span: str(span.attributes.get("file.path")).startswith("/mark/"))

        def told() -> bool:
            states = agent.server.states()
            return states["a"].counters.exported >= 1000 and states["b"].counters.filtered >= 1000

        agent.until(told, "told")
        for state in agent.server.states().values():
            counted = state.counters
            rest = counted.exported + counted.filtered + counted.sampled_out + counted.rate_limited
            assert counted.seen == rest + counted.in_flight + counted.dropped
            assert counted.dropped == 0
        agent.stop()
