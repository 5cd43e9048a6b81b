# SPDX-License-Identifier: Apache-2.0
"""What to do about a pod that no profile selects: where none is that could, the smallest one that does."""

from __future__ import annotations

import yaml

from kernelspan_agent.cli.cluster.facts import Facts
from kernelspan_agent.cli.cluster.verdict import Verdict
from kernelspan_api.resource import API_VERSION
from kernelspan_api.selection import TEMPLATE_HASH, has_ended, owner
from kernelspan_api.selectors import WorkloadKind

# Labels that name an application by custom (kubernetes.io's recommended ones first), and those that controllers put on
# pods, which the next pod has not.
_NAMING = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app", "k8s-app", "run")
_OF_CONTROLLERS = (
    TEMPLATE_HASH,
    "controller-revision-hash",
    "pod-template-generation",
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
)
_SWITCHES = ("Accepted", "spec", "paused", "ttlSeconds")
_BATCH = (WorkloadKind.JOB, WorkloadKind.CRON_JOB)


def advice(facts: Facts, verdicts: list[Verdict]) -> list[str]:
    """Lines for the reader; none where the verdicts say all."""
    if not facts.installed:
        return [
            "This cluster does not know TraceProfiles: install kernelspan.",
            "helm install kernelspan charts/kernelspan -n kernelspan --create-namespace",
        ]
    if any(one.selected is not False for one in verdicts) or facts.not_read or has_ended(facts.pod):
        return []
    if any(all(each.part in _SWITCHES for each in one.objections) for one in verdicts):
        return []  # that profile is meant for the pod, and its objection says what to do
    space = facts.pod.metadata.namespace
    if verdicts:
        return [f"Mend what says no above, or apply a profile of the pod's own in namespace {space}:", *_example(facts)]
    return [f"Namespace {space} has no TraceProfile, and there is no ClusterTraceProfile. Apply one:", *_example(facts)]


def _example(facts: Facts) -> list[str]:
    meta = facts.pod.metadata
    kind, name = owner(meta)
    whom: dict[str, object] = {"podSelector": {"matchLabels": _labels(meta.labels or {})}}
    if kind in {one.value for one in WorkloadKind}:
        version = "batch/v1" if WorkloadKind(kind) in _BATCH else "apps/v1"
        whom = {"workloadRef": {"apiVersion": version, "kind": kind, "name": name}}
    elif not _labels(meta.labels or {}):
        whom = {"podSelector": {}}
    profile = {
        "apiVersion": API_VERSION,
        "kind": "TraceProfile",
        "metadata": {"name": name or meta.name, "namespace": meta.namespace},
        "spec": {**whom, "files": {}, "network": {}},
    }
    return yaml.safe_dump(profile, sort_keys=False).splitlines()


def _labels(labels: dict[str, str]) -> dict[str, str]:
    own = {key: value for key, value in labels.items() if key not in _OF_CONTROLLERS}
    return {key: own[key] for key in _NAMING if key in own} or own
