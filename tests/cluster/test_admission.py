# SPDX-License-Identifier: Apache-2.0
"""What the API server takes and refuses, in the words that users get, held against what `kernelspan check` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings

from kernelspan_api.problems import Findings, ProfileError
from kernelspan_api.profile import validate
from kernelspan_api.rules import RULES
from kernelspan_api.userprobes import UserProbe
from kernelspan_api.yamltext import read
from tests.support.bad_profiles import BAD_PROBES, BAD_SPECS
from tests.support.cluster import Cluster
from tests.support.profile_api import NAMESPACE, Cause, complaints, dry_run, profile
from tests.support.profile_strategies import PROFILES, objects

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").rglob("*.yaml"))

# What only `kernelspan check` and the operator see: a null, which the API server takes for nothing said, 1e3 for 1000,
# half a surrogate pair and NUL, and what a regular expression may cost.
ONLY_CHECK = re.compile(r"stacks: null|operations: \}|1e3|\\ud800|\\0b|redaction: \{paths: ")
NOT_JSON = re.compile(r"\.inf|\.nan|9{40}")

MESSAGES = [  # kubectl's user sees exactly this
    ("{}", "spec", "must trace something: at least one of requests, files, network, processes, waits, probes"),
    (
        "{files: {}, podSelector: {}, workloadRef: {apiVersion: apps/v1, kind: Deployment, name: a}}",
        "spec",
        "must have exactly one of podSelector, workloadRef",
    ),
    (
        "{files: {}, workloadRef: {apiVersion: apps/v1, kind: CronJob, name: a}}",
        "spec.workloadRef.apiVersion",
        "must be apps/v1, or batch/v1 for Job and CronJob",
    ),
    (
        "{files: {paths: [srv/data]}}",
        "spec.files.paths[0]",
        "must be a glob that begins with / or *, each [ closed by a ], 1 to 1024 characters",
    ),
    (
        "{network: {cidrs: [10.0.0.1/8]}}",
        "spec.network.cidrs[0]",
        "must be an address range such as 10.0.0.0/8 or fd00::/8, 1 to 64 characters",
    ),
    (
        "{probes: [{name: a, uprobe: {path: /a/../b, symbols: [f]}}]}",
        "spec.probes[0].uprobe.path",
        "must be Auto, or an absolute path without .., 1 to 1024 characters",
    ),
    (
        "{probes: [{name: a, tracepoint: {category: c, event: e}}]}",
        "spec.probes[0].tracepoint",
        "must be the exitEvent that ends the span in mode Span (the default); mode Event needs none",
    ),
    (
        "{probes: [{name: a, kprobe: {call: f}, match: [{args: [{index: 0, operator: Mask, values: [x]}]}]}]}",
        "spec.probes[0].match[0].args[0].values",
        "must be one whole number for GreaterThan, LessThan, Mask",
    ),
    (
        "{files: {}, nodeSelector: {'a b': c}}",
        "spec.nodeSelector",
        "must have keys each of which is a label's key: [DNS name/]name, 1 to 317 characters",
    ),
]
OTHERS = [  # the API server's own words differ between its versions: a part of them
    ("{files: {minDurationMicroseconds: -1}}", "spec.files.minDurationMicroseconds", "greater than or equal to 0"),
    ("{files: {}, code: {stacks: native}}", "spec.code.stacks", '"Managed", "Native", "None"'),
    ("{files: {operations: [Read, Read]}}", "spec.files.operations[1]", "Duplicate value"),
    ("{probes: [{name: a, kprobe: {call: f}}, {name: a, kprobe: {call: g}}]}", "spec.probes[1]", "Duplicate value"),
    ("{file: {}, files: {}}", "", 'unknown field "spec.file"'),
    ("{files: {paths: /srv}}", "spec.files.paths", "must be of type array"),
]


def said(cluster: Cluster, spec: str) -> list[Cause]:
    """What the API server has against a profile of that spec."""
    return complaints(dry_run(cluster, profile(yaml.safe_load(spec))))


def problems(document: object) -> list[tuple[str, str]]:
    """Path and message of all that `kernelspan check` has against it."""
    try:
        validate(document)
    except ProfileError as error:
        return [(one.path, one.message) for one in error.problems]
    return []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_taken(cluster: Cluster, file: Path) -> None:
    """Every example is a profile to the API server as well."""
    document = yaml.safe_load(file.read_text("utf-8"))
    document["spec"].setdefault("podSelector", {})
    document["metadata"].pop("namespace", None)
    assert complaints(dry_run(cluster, document)) == []


def test_there_are_examples() -> None:
    """An empty list would pass for ever."""
    assert len(EXAMPLES) > 50


@pytest.mark.parametrize(("spec", "field", "message"), MESSAGES)
def test_message(cluster: Cluster, spec: str, field: str, message: str) -> None:
    """One fault, one complaint, at its field, in our words."""
    assert [(one.field, one.rule) for one in said(cluster, spec)] == [(field, message)]


@pytest.mark.parametrize(("spec", "field", "part"), OTHERS)
def test_message_of_the_api_server(cluster: Cluster, spec: str, field: str, part: str) -> None:
    """What the schema alone refuses is said at its field."""
    causes = said(cluster, spec)
    assert any(one.field == field and part in one.message for one in causes), causes


def test_kubectl_tells_it_all(cluster: Cluster) -> None:
    """`kubectl apply` shows every fault of the schema's rules at once, each with its field."""
    spec = {"files": {"paths": ["srv"]}, "network": {"cidrs": ["10.0.0.1/8"]}, "nodeSelector": {"a b": "c"}}
    run = cluster.kubectl("apply", "-f", "-", f"--namespace={NAMESPACE}", document=profile(spec), check=False)
    assert run.returncode != 0
    for field in ("spec.files.paths[0]", "spec.network.cidrs[0]", "spec.nodeSelector"):
        assert re.search(rf"{re.escape(field)}: Invalid value: .*must ", run.stderr), run.stderr


@pytest.mark.parametrize("spec", [spec for spec, *_ in BAD_SPECS if not NOT_JSON.search(spec)])
def test_bad_spec_is_refused_by_both(cluster: Cluster, spec: str) -> None:
    """What `kernelspan check` refuses the API server refuses, but for what it cannot see."""
    value = read(f"spec: {spec}", Findings()).value
    assert isinstance(value, dict)
    document = profile(value["spec"])
    assert problems(document)
    assert bool(complaints(dry_run(cluster, document))) != bool(ONLY_CHECK.search(spec))


@pytest.mark.parametrize("probe", [probe for probe, *_ in BAD_PROBES])
def test_bad_probe_is_refused_by_both(cluster: Cluster, probe: str) -> None:
    """The same for probes of the user's own."""
    document = profile({"probes": [{"name": "p", **yaml.safe_load(probe)}]})
    assert problems(document)
    assert complaints(dry_run(cluster, document))


def _bare(path: str) -> str:
    return re.sub(r"\[.*?\]", "", path)


PROBE_PROFILES = objects(UserProbe).map(lambda probe: profile({"probes": [probe]}))


# Probes have most of the rules, and are rare among the profiles.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(document=PROFILES | PROBE_PROFILES | PROBE_PROFILES)
def test_rules_are_the_same_on_both_sides(cluster: Cluster, document: dict[str, Any]) -> None:
    """A profile within the types breaks the same rules for the API server as for us, at the same place or above it.

    Where a field is at fault already, we do not ask the rules that read it; the API server asks them all.
    """
    document = {**document, "metadata": {"name": "x"}}
    ours = problems(document)
    causes = complaints(dry_run(cluster, document))
    event("taken" if not causes else "refused")
    more = {one.rule for one in causes} - {message for _, message in ours}
    faulty = {name for path, _ in ours for name in _bare(path).split(".")}
    assert all(any(rule.message == said and faulty & set(rule.fields) for rule in RULES) for said in more), more
    for path, message in ours:
        assert any(_bare(path).startswith(_bare(one.field)) and message == one.rule for one in causes), causes
