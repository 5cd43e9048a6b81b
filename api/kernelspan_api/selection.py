# SPDX-License-Identifier: Apache-2.0
"""Who is selected: the rules by which the operator decides, and by which `kernelspan explain --pod` says why. All pure.

A workload that does not exist (yet) selects nothing. A CronJob has no selector: its pods are those of its Jobs, which
their controller-uid labels name. A pod that has ended is nobody's any more; one that is being deleted is traced to its
end.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain
from urllib.parse import quote

import msgspec

from .objects import Expression, Meta, Pod, PodSpec, Selector, Workload
from .resource import Spec
from .selectors import ContainerSelector, LabelSelector, WorkloadKind, WorkloadRef

_PATHS = {
    WorkloadKind.DEPLOYMENT: "/apis/apps/v1/namespaces/{}/deployments",
    WorkloadKind.STATEFUL_SET: "/apis/apps/v1/namespaces/{}/statefulsets",
    WorkloadKind.DAEMON_SET: "/apis/apps/v1/namespaces/{}/daemonsets",
    WorkloadKind.REPLICA_SET: "/apis/apps/v1/namespaces/{}/replicasets",
    WorkloadKind.JOB: "/apis/batch/v1/namespaces/{}/jobs",
    WorkloadKind.CRON_JOB: "/apis/batch/v1/namespaces/{}/jobs",
}
_JOB_LABEL = "batch.kubernetes.io/controller-uid"  # job controller, since 1.27
_ENDED = ("Succeeded", "Failed")
STATIC_HASH = "kubernetes.io/config.hash"  # kubelet: ConfigHashAnnotationKey
_MIRROR = "kubernetes.io/config.mirror"
# A ReplicaSet of a Deployment is named by it and the hash of the pod's template (rand.SafeEncodeString's alphabet).
TEMPLATE_HASH = "pod-template-hash"


# --- labels ---------------------------------------------------------------------------------------------------------


class Unmet(msgspec.Struct, frozen=True):
    """One requirement that labels do not fulfil. `value` None: there is no such label."""

    key: str
    value: str | None
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        found = "absent" if self.value is None else self.value or "empty"
        wanted = ", ".join(one or "empty" for one in self.values)
        match self.operator:
            case "In":
                must = wanted if len(self.values) == 1 else f"one of {wanted}"
            case "NotIn":
                must = f"other than {wanted}" if len(self.values) == 1 else f"none of {wanted}"
            case "Exists":
                must = "there"
            case _:
                must = "absent"
        return f"label {self.key} is {found}, must be {must}"


def unmet(selector: LabelSelector | Selector, labels: Mapping[str, str]) -> list[Unmet]:
    """What the API server would miss in an object with these labels; empty: the selector selects it."""
    found = [
        Unmet(key, labels.get(key), "In", (value,))
        for key, value in (selector.match_labels or {}).items()
        if labels.get(key) != value
    ]
    for one in selector.match_expressions or ():
        operator, values = _operator(one.operator), tuple(one.values or ())
        there, value = one.key in labels, labels.get(one.key)
        match operator:
            case "In":
                good = there and value in values
            case "NotIn":
                good = not there or value not in values
            case "Exists":
                good = there
            case _:
                good = not there
        if not good:
            found.append(Unmet(one.key, value, operator, values))
    return found


def matches(selector: LabelSelector | Selector, labels: Mapping[str, str]) -> bool:
    """What the API server would say of an object with these labels."""
    return not unmet(selector, labels)


def query_of(selector: LabelSelector | Selector) -> str:
    """A labelSelector; two selectors that say the same in another order give the same text. Empty: selects all."""
    parts = {f"{key}={value}" for key, value in (selector.match_labels or {}).items()}
    for one in selector.match_expressions or ():
        values = ",".join(sorted(set(one.values or ())))
        match _operator(one.operator):
            case "In":
                parts.add(f"{one.key} in ({values})")
            case "NotIn":
                parts.add(f"{one.key} notin ({values})")
            case "Exists":
                parts.add(one.key)
            case _:
                parts.add(f"!{one.key}")
    return ",".join(sorted(parts))


def _operator(operator: object) -> str:
    return operator if isinstance(operator, str) else str(getattr(operator, "value", operator))


# --- workloads ------------------------------------------------------------------------------------------------------


def workloads_at(namespace: str, ref: WorkloadRef) -> tuple[str, str]:
    """Where the objects are that say what a workload's pods are: a path and a fieldSelector (empty: all of them)."""
    path = _PATHS[ref.kind].format(quote(namespace, safe=""))
    return path, "" if ref.kind is WorkloadKind.CRON_JOB else f"metadata.name={ref.name}"


def selectors_of(ref: WorkloadRef, workloads: Iterable[Workload]) -> list[Selector]:
    """What selects a workload's pods in its namespace, from the objects that are there. None of them: no pod is meant."""
    if ref.kind is WorkloadKind.CRON_JOB:
        jobs = [one.metadata for one in workloads]
        uids = sorted(
            meta.uid for meta in jobs if (by := meta.controller) and (by.kind, by.name) == ("CronJob", ref.name)
        )
        if not uids:
            return []
        return [Selector(match_expressions=(Expression(key=_JOB_LABEL, operator="In", values=tuple(uids)),))]
    selectors = [one.spec.selector for one in workloads]
    # A workload without a selector is none of ours: an empty one would select the whole namespace.
    return [one for one in selectors if one is not None and query_of(one)]


def owner(meta: Meta) -> tuple[str, str]:
    """Kind and name of what the pod belongs to: its controller, or the Deployment behind a ReplicaSet.

    Only the deployment controller sets the label, and names its ReplicaSets so. A Job says nothing on its pods of the
    CronJob behind it: it stays a Job.
    """
    controller = meta.controller
    if controller is None:
        return "", ""
    kind, name = controller.kind, controller.name
    template = (meta.labels or {}).get(TEMPLATE_HASH, "")
    if kind == "ReplicaSet" and template and name.endswith(f"-{template}"):
        return "Deployment", name.removesuffix(f"-{template}")
    return kind, name


# --- nodes, containers, time ----------------------------------------------------------------------------------------


def unmet_by_node(spec: Spec, labels: Mapping[str, str]) -> list[Unmet]:
    """What the profile's nodeSelector misses in a node with these labels."""
    return unmet(Selector(match_labels=spec.node_selector), labels)


def selects_node(spec: Spec, labels: Mapping[str, str]) -> bool:
    """Whether the profile's nodeSelector allows a node with these labels."""
    return not unmet_by_node(spec, labels)


def container_names(spec: PodSpec) -> list[str]:
    """The containers of a pod: init (and sidecars), main, ephemeral, in their order."""
    found = chain(spec.init_containers or (), spec.containers or (), spec.ephemeral_containers or ())
    return [one.name for one in found if one.name]


def selects_container(selector: ContainerSelector | None, name: str) -> bool:
    """Whether a container of that name is meant."""
    if selector is None:
        return True
    included = not selector.include or any(fnmatch.fnmatchcase(name, glob) for glob in selector.include)
    return included and not any(fnmatch.fnmatchcase(name, glob) for glob in selector.exclude)


def has_ended(pod: Pod) -> bool:
    """Whether it is Succeeded or Failed: nothing of it runs any more."""
    return pod.status.phase in _ENDED


def static_hash(meta: Meta) -> str:
    """What the cgroup of a static pod is named by, in place of its mirror's uid; empty: it is no static pod."""
    annotations = meta.annotations or {}
    return annotations.get(STATIC_HASH, "") if _MIRROR in annotations else ""


def expires(spec: Spec, created: datetime) -> float | None:
    """When the profile ends by its ttl, in seconds since the epoch; None: never."""
    return None if spec.ttl_seconds is None else created.timestamp() + spec.ttl_seconds
