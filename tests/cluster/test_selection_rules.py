# SPDX-License-Identifier: Apache-2.0
"""Labels are compared as the API server compares them: what `kernelspan explain --pod` says is what a watch would select."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from kernelspan_api.objects import Selector
from kernelspan_api.selection import matches, query_of
from tests.support.operators import Kubernetes

SPACE = "rules"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
LABELS: dict[str, dict[str, str]] = {
    "none": {},
    "web": {"app": "web"},
    "upper": {"app": "Web"},
    "empty": {"app": ""},
    "both": {"app": "db", "example.com/tier": "back"},
}
EXPRESSIONS: list[dict[str, Any]] = [
    {"key": "app", "operator": "In", "values": ["web"]},
    {"key": "app", "operator": "In", "values": ["web", "db"]},
    {"key": "app", "operator": "In", "values": [""]},
    {"key": "app", "operator": "NotIn", "values": ["web"]},
    {"key": "app", "operator": "NotIn", "values": ["", "db"]},
    {"key": "app", "operator": "Exists"},
    {"key": "example.com/tier", "operator": "DoesNotExist"},
]
SELECTORS: list[dict[str, Any]] = [
    {},
    {"matchLabels": {"app": "web"}},
    {"matchLabels": {"app": ""}},
    {"matchLabels": {"app": "db", "example.com/tier": "back"}},
    *({"matchExpressions": [one]} for one in EXPRESSIONS),
    {"matchLabels": {"app": "db"}, "matchExpressions": [EXPRESSIONS[6]]},
    {"matchExpressions": [EXPRESSIONS[3], EXPRESSIONS[5]]},
]


@pytest.fixture(scope="module", autouse=True)
def pods(kubernetes: Kubernetes) -> None:
    """One for each set of labels."""
    kubernetes.namespace(SPACE)
    for name, labels in LABELS.items():
        kubernetes.pod(SPACE, name, labels=labels)


@pytest.mark.parametrize("selector", SELECTORS, ids=str)
def test_same_as_the_api_server(kubernetes: Kubernetes, selector: dict[str, Any]) -> None:
    """By the query that the operator watches with, and by our own comparison."""
    found = msgspec.convert(selector, Selector)
    items = kubernetes.ask("GET", f"{PODS}?labelSelector={quote(query_of(found))}")["items"]
    ours = {name for name, labels in LABELS.items() if matches(found, labels)}
    assert {one["metadata"]["name"] for one in items} == ours
