# SPDX-License-Identifier: Apache-2.0
"""The two custom resources: TraceProfile, of one namespace, and ClusterTraceProfile, of all.

Changes to these types are additive only: there is no conversion between versions.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from .fields import AttributeName, AttributeText, DnsLabel, DnsSubdomain, LabelKey, LabelValue, Part
from .handling import Code, Correlation, Export, Limits, Redaction, Sampling
from .selectors import ContainerSelector, LabelSelector, ProcessSelector, WorkloadRef
from .status import Status
from .subjects import Files, Network, Processes, Request, Waits
from .userprobes import UserProbe

GROUP = "kernelspan.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
_SERVER = "Kept by the API server; not looked at."


class ObjectMeta(Part, frozen=True, kw_only=True):
    """metav1.ObjectMeta: the name, the namespace, labels and annotations are the user's; the rest is not looked at."""

    name: Annotated[DnsSubdomain, Meta(description="The profile's name.")]
    namespace: Annotated[DnsLabel | None, Meta(description="The profile's namespace.")] = None
    labels: Annotated[dict[LabelKey, LabelValue], Meta(max_length=256, description="Labels.")] = field(
        default_factory=dict
    )
    annotations: Annotated[
        dict[LabelKey, Annotated[str, Meta(max_length=262_144)]], Meta(max_length=256, description="Annotations.")
    ] = field(default_factory=dict)
    generate_name: Annotated[Any, Meta(description=_SERVER)] = None
    uid: Annotated[Any, Meta(description=_SERVER)] = None
    generation: Annotated[Any, Meta(description=_SERVER)] = None
    resource_version: Annotated[Any, Meta(description=_SERVER)] = None
    creation_timestamp: Annotated[Any, Meta(description=_SERVER)] = None
    deletion_timestamp: Annotated[Any, Meta(description=_SERVER)] = None
    deletion_grace_period_seconds: Annotated[Any, Meta(description=_SERVER)] = None
    finalizers: Annotated[Any, Meta(description=_SERVER)] = None
    owner_references: Annotated[Any, Meta(description=_SERVER)] = None
    managed_fields: Annotated[Any, Meta(description=_SERVER)] = None
    self_link: Annotated[Any, Meta(description=_SERVER)] = None


class Spec(Part, frozen=True, kw_only=True):
    """Whom to trace, what, and how."""

    pod_selector: Annotated[
        LabelSelector | None, Meta(description="Pods of the namespace by label; {} is every pod. Or workloadRef.")
    ] = None
    workload_ref: Annotated[WorkloadRef | None, Meta(description="The pods of one workload. Or podSelector.")] = None
    container_selector: Annotated[
        ContainerSelector | None, Meta(description="Containers by name. Absent: every container.")
    ] = None
    node_selector: Annotated[
        dict[LabelKey, LabelValue], Meta(max_length=64, description="Only on nodes with these labels.")
    ] = field(default_factory=dict)
    process_selector: Annotated[
        ProcessSelector, Meta(description="Processes by executable and runtime; children follow their parent.")
    ] = ProcessSelector()

    requests: Annotated[tuple[Request, ...], Meta(max_length=32, description="Spans of requests, by protocol.")] = ()
    files: Annotated[Files | None, Meta(description="Operations on files. Absent: none; {}: all.")] = None
    network: Annotated[Network | None, Meta(description="Operations on sockets. Absent: none; {}: all.")] = None
    processes: Annotated[Processes | None, Meta(description="The life of processes. Absent: none; {}: all.")] = None
    waits: Annotated[Waits | None, Meta(description="Time in which threads wait. Absent: none; {}: all.")] = None
    probes: Annotated[
        tuple[UserProbe, ...],
        Meta(max_length=32, extra={"list": "map:name"}, description="Probes of the user's own."),
    ] = ()

    code: Annotated[Code, Meta(description="Application context.")] = Code()
    correlation: Annotated[Correlation, Meta(description="Which spans belong together.")] = Correlation()
    sampling: Annotated[Sampling, Meta(description="Which traces are kept.")] = Sampling()
    limits: Annotated[Limits, Meta(description="What the profile may cost on one node.")] = Limits()
    redaction: Annotated[Redaction, Meta(description="What never leaves the node.")] = Redaction()
    resource_attributes: Annotated[
        dict[AttributeName, AttributeText], Meta(max_length=32, description="Attributes that every resource gets.")
    ] = field(default_factory=dict)
    export: Annotated[Export | None, Meta(description="Where spans go. Absent: to the chart's collector.")] = None
    paused: Annotated[bool, Meta(description="Trace nothing for now.")] = False
    ttl_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=31_536_000)] | None,
        Meta(description="Stop tracing so many seconds after the profile was made. Absent: never."),
    ] = None


class ClusterSpec(Spec, frozen=True, kw_only=True):
    """A Spec for pods of several namespaces."""

    namespace_selector: Annotated[
        LabelSelector | None, Meta(description="Namespaces by label. Absent or {}: every namespace.")
    ] = None


class TraceProfile(Part, frozen=True, kw_only=True):
    """What to trace in one namespace, or on one machine."""

    api_version: Annotated[str, Meta(max_length=64, extra={"enum": (API_VERSION,)}, description=API_VERSION)]
    kind: Annotated[str, Meta(max_length=64, extra={"enum": ("TraceProfile",)}, description="TraceProfile")]
    metadata: Annotated[ObjectMeta, Meta(description="Name, namespace, labels, annotations.")]
    spec: Annotated[Spec, Meta(description="Whom to trace, what, and how.")]
    status: Annotated[Status | None, Meta(description="Written by the operator.")] = None


class ClusterTraceProfile(TraceProfile, frozen=True, kw_only=True):
    """What to trace in several namespaces."""

    kind: Annotated[
        str, Meta(max_length=64, extra={"enum": ("ClusterTraceProfile",)}, description="ClusterTraceProfile")
    ]
    spec: Annotated[ClusterSpec, Meta(description="Whom to trace, what, and how.")]


KINDS: dict[str, type[TraceProfile]] = {"TraceProfile": TraceProfile, "ClusterTraceProfile": ClusterTraceProfile}
