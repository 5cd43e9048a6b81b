# SPDX-License-Identifier: Apache-2.0
"""What follows for a pod: which profiles select it and which part of the others does not, and how it stands on its node.

Pure. Every part that says no is told, not only the first. `None` is not known: nothing is called traced that no status
says, and nothing untraced because something could not be read. What selects is `kernelspan_api.selection`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kernelspan_agent.cli.cluster.facts import Facts, Profile
from kernelspan_api.reasons import Reason
from kernelspan_api.resource import ClusterSpec, Spec
from kernelspan_api.selection import (
    container_names,
    expires,
    has_ended,
    owner,
    selectors_of,
    selects_container,
    unmet,
    unmet_by_node,
)
from kernelspan_api.selectors import LabelSelector, WorkloadKind, WorkloadRef
from kernelspan_api.status import MAX_NODES, ConditionStatus, NodeStatus, ProbeState, Status

_DENIED = "may not be read by you"


@dataclass(frozen=True, slots=True)
class Objection:
    """A part of a profile that does not select the pod. `certain` False: whether it does is not known."""

    part: str
    message: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """One profile and the pod. `traced` None: not known; `message` says why it is not, or not known."""

    profile: Profile
    objections: tuple[Objection, ...]
    containers: tuple[str, ...]
    traced: bool | None
    message: str
    node: NodeStatus | None = None

    @property
    def selected(self) -> bool | None:
        """Whether the profile is meant for the pod; None: not known."""
        if any(one.certain for one in self.objections):
            return False
        return None if self.objections else True


def judge(facts: Facts) -> list[Verdict]:
    """One for each profile, in the order of the facts."""
    return [_verdict(facts, one) for one in facts.profiles]


def overall(verdicts: list[Verdict]) -> bool | None:
    """Whether any of them traces the pod; None: not known."""
    if any(one.traced for one in verdicts):
        return True
    return None if any(one.traced is None for one in verdicts) else False


def _verdict(facts: Facts, profile: Profile) -> Verdict:
    objections = tuple(_objections(facts, profile))
    selector = profile.spec.container_selector if profile.spec is not None else None
    names = tuple(one for one in container_names(facts.pod.spec) if selects_container(selector, one))
    if any(one.certain for one in objections):
        return Verdict(profile, objections, (), traced=False, message="")
    if objections:
        return Verdict(profile, objections, names, traced=None, message="")
    traced, message, node = _standing(facts, profile)
    return Verdict(profile, objections, names, traced, message, node)


# --- who is selected ------------------------------------------------------------------------------------------------


def _objections(facts: Facts, profile: Profile) -> Iterator[Objection]:
    refused = _refusal(profile)
    if refused is not None:
        yield refused
    spec = profile.spec
    if spec is None:
        return
    if spec.paused:
        yield Objection("paused", f"{Reason.PAUSED.meaning} {Reason.PAUSED.remedy}")
    ends = expires(spec, profile.created)
    if ends is not None and facts.now_seconds >= ends:
        yield Objection("ttlSeconds", f"{Reason.EXPIRED.meaning} {Reason.EXPIRED.remedy}")
    yield from _of_pod(facts, spec)
    yield from _of_node(facts, spec)
    names = container_names(facts.pod.spec)
    if names and not any(selects_container(spec.container_selector, one) for one in names):
        yield Objection("containerSelector", f"leaves out every container: {', '.join(names)}")


def _refusal(profile: Profile) -> Objection | None:
    status = profile.status if profile.is_fresh else None
    accepted = next((one for one in status.conditions if one.type == "Accepted"), None) if status else None
    if accepted is not None and accepted.status is ConditionStatus.FALSE:
        return Objection("Accepted", f"{accepted.reason}: {accepted.message}")
    if profile.spec is not None:
        return None
    if accepted is not None:
        text = f"the operator takes it, this kernelspan does not know all of it: {profile.problem}"
        return Objection("spec", text, certain=False)
    return Objection("spec", f"{Reason.INVALID_SPEC.value}: {profile.problem}. {Reason.INVALID_SPEC.remedy}")


def _of_pod(facts: Facts, spec: Spec) -> Iterator[Objection]:
    labels = facts.pod.metadata.labels or {}
    if isinstance(spec, ClusterSpec):
        namespaces = spec.namespace_selector or LabelSelector()
        if namespaces != LabelSelector():
            if facts.namespace_labels is None:
                yield Objection("namespaceSelector", f"the namespace {_DENIED}", certain=False)
            else:
                for each in unmet(namespaces, facts.namespace_labels):
                    yield Objection("namespaceSelector", f"namespace {facts.pod.metadata.namespace}: {each}")
    elif spec.workload_ref is not None:
        yield from _of_workload(facts, spec.workload_ref)
        return
    for each in unmet(spec.pod_selector or LabelSelector(), labels):
        yield Objection("podSelector", str(each))


def _of_workload(facts: Facts, ref: WorkloadRef) -> Iterator[Objection]:
    part, what = "workloadRef", f"{ref.kind.value} {ref.name}"
    found, meta = facts.workloads.get(ref), facts.pod.metadata
    if found is None:
        yield Objection(part, f"{what} {_DENIED}", certain=False)
        return
    kind, name = owner(meta)
    whose = f"the pod belongs to {kind} {name}" if kind else "the pod belongs to no workload"
    selectors = selectors_of(ref, found)
    if ref.kind is WorkloadKind.CRON_JOB:
        if not any(not unmet(one, meta.labels or {}) for one in selectors):
            yield Objection(part, f"{whose}, and to no Job of {what}" if selectors else f"{what} has no Job; {whose}")
    elif not selectors:
        wrong = "has no selector" if found else f"is not in namespace {meta.namespace}"
        yield Objection(part, f"{what} {wrong}; {whose}")
    else:
        for each in unmet(selectors[0], meta.labels or {}):
            yield Objection(part, f"{what} selects other pods: {each}; {whose}")


def _of_node(facts: Facts, spec: Spec) -> Iterator[Objection]:
    node = facts.pod.spec.node_name
    if not node or not spec.node_selector:
        return
    if facts.node_labels is None:
        yield Objection("nodeSelector", f"node {node} {_DENIED}", certain=False)
        return
    for each in unmet_by_node(spec, facts.node_labels):
        yield Objection("nodeSelector", f"node {node}: {each}")


# --- how it stands on the node --------------------------------------------------------------------------------------


def _standing(facts: Facts, profile: Profile) -> tuple[bool | None, str, NodeStatus | None]:
    node = facts.pod.spec.node_name
    if has_ended(facts.pod):
        return False, f"the pod has ended ({facts.pod.status.phase}): nothing of it runs any more", None
    if not node:
        return False, _unscheduled(profile), None
    if profile.status is None:
        text = "has a status that this kernelspan does not understand: use the operator's version"
        if not profile.strange_status:
            text = "has no status yet: does the operator run? kubectl get pods -A -l app.kubernetes.io/name=kernelspan"
        return None, text, None
    if not profile.is_fresh:
        text = f"its status is about generation {profile.status.observed_generation}, the spec is generation "
        return None, f"{text}{profile.generation}: the operator has not answered to the change yet", None
    found = next((one for one in profile.status.nodes if one.node == node), None)
    if found is None:
        return None, _absent(node, profile.status), None
    return *_of_entry(found), found


def _unscheduled(profile: Profile) -> str:
    wanted = profile.spec.node_selector if profile.spec is not None else {}
    where = f" to a node with {', '.join(f'{key}={value}' for key, value in wanted.items())}" if wanted else ""
    return f"the pod is on no node yet: it is traced from its start once it is scheduled{where}"


def _absent(node: str, status: Status) -> str:
    if len(status.nodes) >= MAX_NODES:
        ready, desired = status.summary.nodes_ready, status.summary.nodes_desired
        text = f"the status lists {MAX_NODES} of its {desired} nodes, failing ones first, and {node} is not among them"
        return f"{text}; {ready} of {desired} are ready"
    return f"the status does not name {node} yet: the pod may be new there, or the operator may not run"


def _of_entry(found: NodeStatus) -> tuple[bool | None, str]:
    """A node whose agent is away goes on with its last plan: what it does is not known here."""
    attached = [one for one in found.probes if one.state is ProbeState.ATTACHED]
    failed = [one for one in found.probes if one.state is ProbeState.FAILED]
    if found.reason is Reason.AGENT_UNREACHABLE:
        return None, f"{found.reason.value}: {found.message}"
    if found.reason is not None:
        nobody = found.reason is Reason.NO_MATCHING_PROCESSES
        return bool(attached) and not nobody, f"{found.reason.value}: {found.message}"
    if attached:
        return True, f"{len(failed)} of {len(found.probes)} probes failed" if failed else ""
    if failed:
        return False, "every probe failed"
    return None, "its agent has not answered yet" if not found.ready else "its agent has attached nothing yet"
