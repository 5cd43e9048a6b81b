# SPDX-License-Identifier: Apache-2.0
"""The parts of Kubernetes' objects that the operator and `kernelspan explain --pod` read, and nothing else of them.

Decoding into these skips what is not named here, so a selected pod takes a kilobyte, whatever its manifest holds.
Everything has a default: an object that lacks a part is no error of ours.
"""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Camel case on the wire; unknown fields are skipped."""


class OwnerReference(Part, frozen=True, kw_only=True):
    """metav1.OwnerReference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Meta(Part, frozen=True, kw_only=True):
    """metav1.ObjectMeta."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None
    deletion_timestamp: str | None = None

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages the object."""
        return next((owner for owner in self.owner_references or () if owner.controller), None)


class Metadata(Part, frozen=True, kw_only=True):
    """metav1.PartialObjectMetadata: nodes and namespaces."""

    metadata: Meta = Meta()


class Secret(Part, frozen=True, kw_only=True):
    """core/v1 Secret; `data` is decoded."""

    metadata: Meta = Meta()
    data: dict[str, bytes] | None = None


class NamedContainer(Part, frozen=True, kw_only=True):
    """A container of a pod's spec."""

    name: str = ""


class PodSpec(Part, frozen=True, kw_only=True):
    """core/v1 PodSpec."""

    node_name: str = ""
    init_containers: tuple[NamedContainer, ...] | None = None
    containers: tuple[NamedContainer, ...] | None = None
    ephemeral_containers: tuple[NamedContainer, ...] | None = None


class ContainerStatus(Part, frozen=True, kw_only=True):
    """core/v1 ContainerStatus."""

    name: str = ""
    container_i_d: str = msgspec.field(default="", name="containerID")
    restart_count: int = 0


class Address(Part, frozen=True, kw_only=True):
    """core/v1 PodIP and HostIP."""

    ip: str = ""


class PodStatus(Part, frozen=True, kw_only=True):
    """core/v1 PodStatus. `host_i_ps` is there since Kubernetes 1.29, `host_i_p` always."""

    phase: str = ""
    pod_i_ps: tuple[Address, ...] | None = msgspec.field(default=None, name="podIPs")
    host_i_p: str = msgspec.field(default="", name="hostIP")
    host_i_ps: tuple[Address, ...] | None = msgspec.field(default=None, name="hostIPs")
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Part, frozen=True, kw_only=True):
    """core/v1 Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Expression(Part, frozen=True, kw_only=True):
    """metav1.LabelSelectorRequirement."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None


class Selector(Part, frozen=True, kw_only=True):
    """metav1.LabelSelector."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Expression, ...] | None = None


class WorkloadSpec(Part, frozen=True, kw_only=True):
    """What the specs of apps/v1 kinds and of Job have in common."""

    selector: Selector | None = None


class Workload(Part, frozen=True, kw_only=True):
    """A Deployment, StatefulSet, DaemonSet, ReplicaSet or Job."""

    metadata: Meta = Meta()
    spec: WorkloadSpec = WorkloadSpec()
