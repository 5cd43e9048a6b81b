# SPDX-License-Identifier: Apache-2.0
"""Which profiles of a node's plan want a process: by the pod it is in, and by its container where a profile asks for one.

By the pod's uid a process is known before anybody has said its container's id. Where a profile names containers, a
process of a container that has no id in the plan yet is of nobody until the next plan: a guess could trace what was
excluded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernelspan_agent.process import procfs
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.targets.cgroups import Place, place_of
from kernelspan_agent.targets.select import all_processes
from kernelspan_api import semconv

if TYPE_CHECKING:
    from kernelspan_api.control.control_pb2 import Container, NodePlan, PodPlan

MAX_PLACES = 65536


@dataclass(frozen=True, slots=True)
class PodTarget:
    """A process's pod, its container (None: not known by name), and the uids of the profiles that want it."""

    pod: PodPlan
    container: Container | None
    profiles: frozenset[str]


def processes_of(pod_uid: str, proc_root: str = "/proc") -> list[procfs.Process]:
    """The processes of a pod that run here, whatever their container. `pod_uid`: of a static pod its hash."""
    found = []
    for process in all_processes(proc_root):
        place = _place_of(process)
        if place is not None and place.pod_uid == pod_uid:
            found.append(process)
    return found


def _place_of(process: procfs.Process) -> Place | None:
    try:
        return place_of(entry.path for entry in procfs.read_cgroups(process))
    except ProcessError:
        return None


class PodTargets:
    """One plan, made ready to be asked of processes."""

    def __init__(self, plan: NodePlan) -> None:
        self._node = plan.node
        # What a static pod's cgroup is called by is the hash of its manifest; its mirror has another uid.
        self._pods: dict[str, PodPlan] = {pod.static_hash or pod.uid: pod for pod in plan.pods}
        self._targets: dict[Place, PodTarget | None] = {}
        self._running: Counter[str] | None = None

    def target(self, place: Place) -> PodTarget | None:
        """What is wanted of a process at this place; None: nothing."""
        pod = self._pods.get(place.pod_uid)
        if pod is None:
            return None
        if place not in self._targets:
            if len(self._targets) >= MAX_PLACES:
                self._targets.clear()
            self._targets[place] = self._target(pod, place)
        return self._targets[place]

    @staticmethod
    def _target(pod: PodPlan, place: Place) -> PodTarget | None:
        container = next((one for one in pod.containers if one.id and one.id == place.container_id), None)
        wanted = frozenset(
            match.profile_uid
            for match in pod.matches
            if match.all_containers or (container is not None and container.name in match.containers)
        )
        return PodTarget(pod, container, wanted) if wanted else None

    def of_process(self, process: procfs.Process) -> PodTarget | None:
        """The same for a process that runs; None also where it has ended."""
        place = _place_of(process)
        return self.target(place) if place is not None else None

    def running(self, profile_uid: str) -> int:
        """How many pods have a container with an id that a profile selects."""
        if self._running is None:
            self._running = Counter()
            for pod in self._pods.values():
                names = {one.name for one in pod.containers if one.id}
                self._running.update(
                    {
                        match.profile_uid
                        for match in pod.matches
                        if names and (match.all_containers or not names.isdisjoint(match.containers))
                    }
                )
        return self._running[profile_uid]

    def resource(self, target: PodTarget) -> Mapping[str, str | int]:
        """The resource attributes that its pod gives a process.

        service.name in OpenTelemetry's order for Kubernetes: the labels instance and name, the workload, the pod.
        """
        pod, labels = target.pod, target.pod.labels
        kind, workload = pod.workload.kind, pod.workload.name
        found: dict[str, str | int] = {
            semconv.K8S_NODE_NAME: self._node,
            semconv.K8S_NAMESPACE_NAME: pod.namespace,
            semconv.K8S_POD_NAME: pod.name,
            semconv.K8S_POD_UID: pod.uid,
            semconv.SERVICE_NAMESPACE: pod.namespace,
            semconv.SERVICE_NAME: labels.get("app.kubernetes.io/instance")
            or labels.get("app.kubernetes.io/name")
            or workload
            or pod.name,
        }
        if version := labels.get("app.kubernetes.io/version"):
            found[semconv.SERVICE_VERSION] = version
        if kind in semconv.K8S_WORKLOADS:
            found[semconv.K8S_WORKLOADS[kind][0]] = workload
        if target.container is not None:
            found[semconv.K8S_CONTAINER_NAME] = target.container.name
            found[semconv.K8S_CONTAINER_RESTART_COUNT] = target.container.restart_count
        return found
