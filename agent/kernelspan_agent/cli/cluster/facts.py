# SPDX-License-Identifier: Apache-2.0
"""What the API server holds of a pod and of the profiles that could select it.

A user may see less than the operator: what may not be read is noted, and what depends on it stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from kernelspan_agent.cli.cluster.api import Api, RefusedError
from kernelspan_agent.errors import MachineError, UsageError
from kernelspan_api.objects import Metadata, Pod, Workload
from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import validate
from kernelspan_api.resource import API_VERSION, ClusterSpec, Spec
from kernelspan_api.selection import workloads_at
from kernelspan_api.selectors import LabelSelector, WorkloadRef
from kernelspan_api.status import Status, read_status

T = TypeVar("T")
CLUSTER_KIND = "ClusterTraceProfile"
_FORBIDDEN, _NOT_FOUND = 403, 404


class _Object(msgspec.Struct, frozen=True):
    """A profile as the API server has it."""

    metadata: dict[str, Any]
    spec: Any = None
    status: Any = None


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile. `spec` None: it breaks a rule, `problem` says which."""

    kind: str
    namespace: str  # empty: a ClusterTraceProfile
    name: str
    generation: int
    created: datetime
    spec: Spec | None
    problem: str
    status: Status | None
    strange_status: bool = False  # there is one, of a form that is not known here

    @property
    def is_fresh(self) -> bool:
        """Whether its status is about the spec as it is now."""
        return self.status is not None and self.status.observed_generation >= self.generation


@dataclass(slots=True)
class Facts:
    """All that is known. None: it may not be read."""

    pod: Pod
    now_seconds: float = 0.0
    installed: bool = True  # the cluster knows what a TraceProfile is
    profiles: list[Profile] = field(default_factory=list)
    namespace_labels: dict[str, str] | None = None
    node_labels: dict[str, str] | None = None
    workloads: dict[WorkloadRef, list[Workload] | None] = field(default_factory=dict)
    not_read: list[tuple[str, str]] = field(default_factory=list)  # what, and why

    def note(self, what: str, error: RefusedError) -> None:
        """Something could not be read."""
        self.not_read.append((what, str(error)))


def split(text: str) -> tuple[str, str]:
    """NAMESPACE/NAME. Raises UsageError."""
    namespace, slash, name = text.partition("/")
    if not (slash and namespace and name) or "/" in name:
        raise UsageError(f"--pod {text!r}: must be NAMESPACE/NAME", hint="kubectl get pods -A lists them")
    return namespace, name


def gather(api: Api, namespace: str, name: str) -> Facts:
    """Reads it all. Raises UsageError where there is no such pod, MachineError where it may not be read."""
    facts = Facts(read_pod(api, namespace, name))
    for kind, space in (("TraceProfile", namespace), (CLUSTER_KIND, "")):
        scope = f"/namespaces/{quote(space, safe='')}" if space else ""
        path = f"/apis/{API_VERSION}{scope}/{kind.lower()}s"
        try:
            facts.profiles += [_profile(kind, one) for one in api.items(path, _Object)]
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                facts.installed = False
            else:
                facts.note(f"{kind}s", error)
    _read_labels(api, facts)
    for ref in dict.fromkeys(one.spec.workload_ref for one in facts.profiles if one.spec is not None):
        if ref is not None:
            path, fields = workloads_at(namespace, ref)
            query = {"fieldSelector": fields} if fields else {}
            what = f"{ref.kind.value} {ref.name}"
            facts.workloads[ref] = _try(facts, what, lambda p=path, q=query: api.items(p, Workload, **q))  # type: ignore[misc]
    facts.now_seconds = api.now_seconds
    return facts


def read_pod(api: Api, namespace: str, name: str) -> Pod:
    """Raises UsageError where there is no such pod, MachineError where it may not be read."""
    try:
        return api.one(f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}", Pod)
    except RefusedError as error:
        if error.status == _NOT_FOUND:
            raise UsageError(
                f"there is no pod {name} in namespace {namespace}",
                reason="NotFound",
                hint=f"kubectl get pods -n {namespace} lists them; --context chooses another cluster",
            ) from error
        if error.status == _FORBIDDEN:
            hint = f"ask for the right to get pods: kubectl auth can-i get pods -n {namespace}"
            raise MachineError(str(error), reason="PermissionDenied", hint=hint) from error
        raise MachineError(str(error), reason="ApiServerUnreachable") from error


def _read_labels(api: Api, facts: Facts) -> None:
    """Of the namespace and of the node, where a profile asks for them. A node that is gone has none, as for the operator."""
    namespace, node = facts.pod.metadata.namespace, facts.pod.spec.node_name
    specs = [one.spec for one in facts.profiles if one.spec is not None]
    if any(
        isinstance(one, ClusterSpec) and (one.namespace_selector or LabelSelector()) != LabelSelector() for one in specs
    ):
        facts.namespace_labels = _try(
            facts, f"namespace {namespace}", lambda: _labels(api, f"/api/v1/namespaces/{quote(namespace, safe='')}")
        )
    if node and any(one.node_selector for one in specs):
        facts.node_labels = _try(facts, f"node {node}", lambda: _labels(api, f"/api/v1/nodes/{quote(node, safe='')}"))


def _labels(api: Api, path: str) -> dict[str, str]:
    try:
        return api.one(path, Metadata).metadata.labels or {}
    except RefusedError as error:
        if error.status == _NOT_FOUND:
            return {}
        raise


def _try(facts: Facts, what: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RefusedError as error:
        facts.note(what, error)
        return None


def _profile(kind: str, found: _Object) -> Profile:
    meta = found.metadata
    namespace, name = str(meta.get("namespace") or ""), str(meta.get("name", ""))
    spec, problem = None, ""
    # Only what the operator looks at: labels and annotations are the API server's to judge.
    head = {"name": name} | ({"namespace": namespace} if namespace else {})
    try:
        spec = validate({"apiVersion": API_VERSION, "kind": kind, "metadata": head, "spec": found.spec}).spec
    except ProfileError as error:
        problem = "; ".join(str(one) for one in error.problems)
    status = read_status(found.status)
    return Profile(
        kind,
        namespace,
        name,
        int(meta.get("generation") or 0),
        datetime.fromisoformat(str(meta.get("creationTimestamp"))).astimezone(UTC),
        spec,
        problem,
        status,
        strange_status=status is None and bool(found.status),
    )
