# SPDX-License-Identifier: Apache-2.0
"""A selected pod as plans need it, made from the API server's object."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from sys import intern

import msgspec

from kernelspan_api.control.control_pb2 import Container, PodPlan, Workload
from kernelspan_api.objects import Pod
from kernelspan_api.selection import container_names, has_ended, owner, static_hash

from .addresses import canonical

# What service.name, service.version and service.namespace are made from (OpenTelemetry's Kubernetes attributes).
LABELS = (
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
)
_MOST_RESTARTS = (1 << 32) - 1  # what the field of a plan can hold


class SelectedPod(msgspec.Struct, frozen=True, gc=False):
    """A pod that some profile selects. `node` is empty until it is scheduled.

    What a plan says of it is here as the plan has it: a PodPlan as bytes, without the matches between the two parts.
    """

    uid: str
    node: str
    version: int  # metadata.resourceVersion, or 0 where that is no number
    containers: tuple[str, ...] = ()  # their names, for profiles that select some of them
    before_matches: bytes = b""
    after_matches: bytes = b""
    addresses: tuple[str, ...] = ()  # its own and its node's
    ended: bool = False  # Succeeded or Failed: nothing of it runs any more


def selected(pod: Pod) -> SelectedPod:
    """The pod, with the containers of its spec in their order and the ids that its status has."""
    meta = pod.metadata
    where, order = intern(pod.spec.node_name), version(meta.resource_version)
    if has_ended(pod):
        return SelectedPod(uid=meta.uid, node=where, version=order, ended=True)
    names = container_names(pod.spec)
    labels = meta.labels or {}
    kind, name = owner(meta)
    plan = PodPlan(
        uid=meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        workload=Workload(kind=kind, name=name) if kind else None,
        containers=_containers(pod, names),
        labels={key: labels[key] for key in LABELS if key in labels},
    )
    return SelectedPod(
        uid=meta.uid,
        node=where,
        version=order,
        containers=_shared(tuple(names)),
        before_matches=plan.SerializeToString(deterministic=True),
        after_matches=PodPlan(static_hash=static_hash(meta)).SerializeToString(),
        addresses=_addresses(pod),
    )


def _containers(pod: Pod, names: list[str]) -> list[Container]:
    status = pod.status
    known = {
        one.name: one
        for one in chain(
            status.init_container_statuses or (),
            status.container_statuses or (),
            status.ephemeral_container_statuses or (),
        )
    }
    found = []
    for name in names:
        restarts = known[name].restart_count if name in known else 0
        container_id = bare_id(known[name].container_i_d) if name in known else ""
        found.append(Container(name=name, id=container_id, restart_count=min(max(restarts, 0), _MOST_RESTARTS)))
    return found


def _addresses(pod: Pod) -> tuple[str, ...]:
    status = pod.status
    own = {canonical(one.ip) for one in status.pod_i_ps or () if one.ip}
    hosts = [intern(canonical(each)) for each in (status.host_i_p, *(one.ip for one in status.host_i_ps or ())) if each]
    return tuple(sorted(own | set(hosts)))


@lru_cache(4096)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for the same names, which the pods of a workload have."""
    return names


def version(text: str) -> int:
    """A resourceVersion as a number, to tell the newer of two events that came by two watches."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 24 else 0


def bare_id(container_id: str) -> str:
    """`containerd://5f…` without the runtime's name."""
    return container_id.rpartition("://")[2]
