# SPDX-License-Identifier: Apache-2.0
"""Who is selected. That labels are compared as the API server does it, tests/cluster/test_selection_rules.py holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kernelspan_api.objects import Meta, NamedContainer, Pod, PodSpec, PodStatus, Selector, Workload
from kernelspan_api.profile import validate
from kernelspan_api.resource import API_VERSION, Spec
from kernelspan_api.selection import (
    container_names,
    expires,
    has_ended,
    matches,
    owner,
    query_of,
    selectors_of,
    selects_container,
    selects_node,
    unmet,
    workloads_at,
)
from kernelspan_api.selectors import ContainerSelector, WorkloadKind, WorkloadRef


def spec(**more: Any) -> Spec:
    """A profile's."""
    return validate(
        {
            "apiVersion": API_VERSION,
            "kind": "TraceProfile",
            "metadata": {"name": "p"},
            "spec": {"podSelector": {}, "files": {}} | more,
        }
    ).spec


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({}, []),
        ({"matchLabels": {"app": "web"}}, []),
        ({"matchLabels": {"app": "db", "x": "y"}}, ["label app is web, must be db", "label x is absent, must be y"]),
        ({"matchLabels": {"app": ""}}, ["label app is web, must be empty"]),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]},
         ["label app is web, must be one of a, b"]),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
         ["label app is web, must be other than web"]),
        ({"matchExpressions": [{"key": "no", "operator": "NotIn", "values": ["web"]}]}, []),
        ({"matchExpressions": [{"key": "no", "operator": "Exists"}]}, ["label no is absent, must be there"]),
        ({"matchExpressions": [{"key": "bare", "operator": "DoesNotExist"}]}, ["label bare is empty, must be absent"]),
    ],
)  # fmt: skip
def test_what_labels_miss(selector: dict[str, Any], said: list[str]) -> None:
    """Every requirement that does not hold, with the label as it is and as it must be."""
    found = msgspec.convert(selector, Selector)
    labels = {"app": "web", "bare": ""}
    assert [str(one) for one in unmet(found, labels)] == said
    assert matches(found, labels) is (not said)


@pytest.mark.parametrize(
    ("include", "exclude", "name", "expected"),
    [((), (), "x", True), (("a*",), (), "ab", True), (("a*",), (), "b", False), ((), ("a*",), "ab", False),
     (("*",), ("A",), "a", True)],
)  # fmt: skip
def test_globs_of_containers(include: tuple[str, ...], exclude: tuple[str, ...], name: str, expected: bool) -> None:
    """Exclude is stronger; case counts."""
    assert selects_container(ContainerSelector(include=include, exclude=exclude), name) is expected


def workload(name: str, selector: dict[str, Any] | None, controller: dict[str, Any] | None = None) -> Workload:
    """One as the API server has it."""
    meta: dict[str, Any] = {"name": name, "uid": f"uid-{name}"}
    if controller is not None:
        meta["ownerReferences"] = [controller | {"controller": True}]
    return msgspec.convert({"metadata": meta, "spec": {"selector": selector}}, Workload)


def test_a_workloads_own_selector() -> None:
    """None, or one that would select all of the namespace, selects nothing."""
    ref = WorkloadRef(api_version="apps/v1", kind=WorkloadKind.DEPLOYMENT, name="web")
    assert workloads_at("a/b", ref) == ("/apis/apps/v1/namespaces/a%2Fb/deployments", "metadata.name=web")
    assert [query_of(one) for one in selectors_of(ref, [workload("web", {"matchLabels": {"a": "b"}})])] == ["a=b"]
    for selector in (None, {}, {"matchLabels": {}}):
        assert selectors_of(ref, [workload("web", selector)]) == []
    assert selectors_of(ref, []) == []


def test_jobs_of_a_cron_job_by_uid() -> None:
    """Those that it controls; without any there is no selector at all, which would select every pod with the label."""
    ref = WorkloadRef(api_version="batch/v1", kind=WorkloadKind.CRON_JOB, name="nightly")
    assert workloads_at("shop", ref) == ("/apis/batch/v1/namespaces/shop/jobs", "")
    jobs = [
        workload("two", None, {"kind": "CronJob", "name": "nightly"}),
        workload("one", None, {"kind": "CronJob", "name": "nightly"}),
        workload("other", None, {"kind": "CronJob", "name": "daily"}),
        workload("odd", None, {"kind": "Thing", "name": "nightly"}),
        workload("alone", None),
    ]
    (found,) = selectors_of(ref, jobs)
    assert query_of(found) == "batch.kubernetes.io/controller-uid in (uid-one,uid-two)"
    assert selectors_of(ref, jobs[2:]) == []


@pytest.mark.parametrize(
    ("kind", "name", "template", "expected"),
    [
        ("ReplicaSet", "web-5d9", "5d9", ("Deployment", "web")),
        ("ReplicaSet", "web-5d9", "", ("ReplicaSet", "web-5d9")),
        ("ReplicaSet", "web", "5d9", ("ReplicaSet", "web")),
        ("Job", "run-5d9", "5d9", ("Job", "run-5d9")),
    ],
)
def test_owner(kind: str, name: str, template: str, expected: tuple[str, str]) -> None:
    """The Deployment behind a ReplicaSet where both say so."""
    labels = {"pod-template-hash": template} if template else {}
    owners = [{"kind": "Other", "name": "x"}, {"kind": kind, "name": name, "controller": True}]
    assert owner(msgspec.convert({"labels": labels, "ownerReferences": owners}, Meta)) == expected
    assert owner(Meta()) == ("", "")


def test_nodes_containers_ends_and_times() -> None:
    """The rest."""
    assert selects_node(spec(), {})
    assert selects_node(spec(nodeSelector={"a": "b"}), {"a": "b", "c": "d"})
    assert not selects_node(spec(nodeSelector={"a": "b"}), {"a": "c"})
    names = {
        part: (NamedContainer(name=part[:2]),) for part in ("init_containers", "containers", "ephemeral_containers")
    }
    assert container_names(PodSpec(**names)) == ["in", "co", "ep"]
    ended = {phase: has_ended(Pod(status=PodStatus(phase=phase))) for phase in ("", "Pending", "Running", "Unknown")}
    assert not any(ended.values())
    assert all(has_ended(Pod(status=PodStatus(phase=phase))) for phase in ("Succeeded", "Failed"))
    created = datetime(2026, 1, 1, tzinfo=UTC)
    assert expires(spec(), created) is None
    assert expires(spec(ttlSeconds=60), created) == created.timestamp() + 60
