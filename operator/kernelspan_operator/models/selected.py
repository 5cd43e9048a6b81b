# SPDX-License-Identifier: Apache-2.0
"""A selected pod as plans need it, made from the API server's object."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from sys import intern

import msgspec

from kernelspan_api.objects import Pod
from kernelspan_api.selection import container_names, has_ended, owner

# What service.name, service.version and service.namespace are made from (OpenTelemetry's Kubernetes attributes).
LABELS = (
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
)
STATIC_HASH = "kubernetes.io/config.hash"  # kubelet: ConfigHashAnnotationKey
_MIRROR = "kubernetes.io/config.mirror"


class Container(msgspec.Struct, frozen=True, order=True, gc=False):
    """A container; `id` is empty until the kubelet has said it."""

    name: str
    id: str = ""
    restart_count: int = 0


class SelectedPod(msgspec.Struct, frozen=True, gc=False):
    """A pod that some profile selects. `node` is empty until it is scheduled."""

    uid: str
    namespace: str
    name: str
    node: str
    version: int  # metadata.resourceVersion, or 0 where that is no number
    workload_kind: str = ""
    workload_name: str = ""
    containers: tuple[Container, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    static_hash: str = ""
    ended: bool = False  # Succeeded or Failed: nothing of it runs any more


def selected(pod: Pod) -> SelectedPod:
    """The pod, with the containers of its spec in their order and the ids that its status has."""
    meta, spec, status = pod.metadata, pod.spec, pod.status
    known = {
        one.name: one
        for one in chain(
            status.init_container_statuses or (),
            status.container_statuses or (),
            status.ephemeral_container_statuses or (),
        )
    }
    kind, name = owner(meta)
    labels, annotations = meta.labels or {}, meta.annotations or {}
    return SelectedPod(
        uid=meta.uid,
        namespace=intern(meta.namespace),
        name=meta.name,
        node=intern(spec.node_name),
        version=version(meta.resource_version),
        workload_kind=intern(kind),
        workload_name=intern(name),
        containers=tuple(
            Container(intern(name), bare_id(known[name].container_i_d), max(known[name].restart_count, 0))
            if name in known
            else Container(intern(name))
            for name in container_names(spec)
        ),
        labels=_shared(tuple((key, labels[key]) for key in LABELS if key in labels)),
        static_hash=annotations.get(STATIC_HASH, "") if _MIRROR in annotations else "",
        ended=has_ended(pod),
    )


@lru_cache(4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The same object for the same labels, which the pods of a workload have: with its names, half of what a pod takes."""
    return labels


def version(text: str) -> int:
    """A resourceVersion as a number, to tell the newer of two events that came by two watches."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 24 else 0


def bare_id(container_id: str) -> str:
    """`containerd://5f…` without the runtime's name."""
    return container_id.rpartition("://")[2]
