# SPDX-License-Identifier: Apache-2.0
"""From a plan and a process's cgroup to the profiles that want it."""

from __future__ import annotations

from pathlib import Path

from kernelspan_agent.process import procfs
from kernelspan_agent.targets.cgroups import Place
from kernelspan_agent.targets.pods import PodTargets
from kernelspan_api.control import control_pb2

UID = "3f0f8a43-0a5c-4c2e-9d7c-1c9e6a1b2c3d"
WEB, PROXY, NEW = "5f" * 32, "6a" * 32, "7b" * 32
PLAN = control_pb2.NodePlan(
    node="n1",
    pods=[
        control_pb2.PodPlan(
            uid=UID,
            namespace="shop",
            name="checkout-1",
            workload=control_pb2.Workload(kind="Deployment", name="checkout"),
            labels={"app.kubernetes.io/version": "2"},
            containers=[
                control_pb2.Container(name="web", id=WEB, restart_count=2),
                control_pb2.Container(name="proxy", id=PROXY),
                control_pb2.Container(name="late"),
            ],
            matches=[
                control_pb2.MatchSet(profile_uid="all", all_containers=True),
                control_pb2.MatchSet(profile_uid="web", containers=["web", "late"]),
            ],
        ),
        control_pb2.PodPlan(
            uid="mirror", static_hash="ab" * 16, matches=[control_pb2.MatchSet(profile_uid="web", containers=["x"])]
        ),
    ],
)


def profiles(place: Place) -> set[str]:
    target = PodTargets(PLAN).target(place)
    return set(target.profiles) if target else set()


def test_by_pod_at_once_by_container_when_it_is_known() -> None:
    """A container without an id in the plan is of who wants all; nobody's guess makes it a named one."""
    assert profiles(Place(UID, WEB)) == {"all", "web"}
    assert profiles(Place(UID, PROXY)) == {"all"}
    assert profiles(Place(UID, NEW)) == {"all"}
    assert profiles(Place(UID, "")) == {"all"}
    assert profiles(Place("another", WEB)) == set()
    assert profiles(Place("ab" * 16, NEW)) == set()


def test_a_process_by_its_cgroup(tmp_path: Path) -> None:
    """As /proc has it, and one that has ended."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "cgroup").write_text(f"0::/kubepods/pod{UID}/{WEB}\n")
    targets = PodTargets(PLAN)
    target = targets.of_process(procfs.Process(7, 1, str(tmp_path)))
    assert target is not None
    assert target.container is not None
    assert target.container.name == "web"
    assert targets.of_process(procfs.Process(8, 1, str(tmp_path))) is None
    (folder / "cgroup").write_text("0::/user.slice\n")
    assert targets.of_process(procfs.Process(7, 1, str(tmp_path))) is None


def test_the_resource_of_a_pod() -> None:
    """Names as the conventions have them; nothing that the plan does not say."""
    targets = PodTargets(PLAN)
    target = targets.target(Place(UID, WEB))
    assert target is not None
    assert targets.resource(target) == {
        "k8s.node.name": "n1",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "checkout-1",
        "k8s.pod.uid": UID,
        "k8s.deployment.name": "checkout",
        "k8s.container.name": "web",
        "k8s.container.restart_count": 2,
        "service.namespace": "shop",
        "service.name": "checkout",
        "service.version": "2",
    }
