# SPDX-License-Identifier: Apache-2.0
"""Tricks in every string of a profile that is not a probe's: each is refused, or what is compiled is the same to a letter."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import pytest

from kernelspan_agent.probes import constants
from kernelspan_agent.probes.build import request
from kernelspan_agent.probes.modules import modules_of
from kernelspan_api.plan import wanted
from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import load
from kernelspan_api.resource import ClusterSpec
from tests.unit.own.test_injection import TRICKS, put, strings

_SELECTOR = {"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}
_OTLP = {
    "endpoint": "https://collector.example.com:4317",
    "headersSecretRef": {"name": "headers"},
    "tls": {"caSecretRef": {"name": "ca"}, "certificateSecretRef": {"name": "client"}, "serverName": "collector"},
}
_BASE: dict[str, Any] = {
    "podSelector": _SELECTOR,
    "namespaceSelector": _SELECTOR,
    "nodeSelector": {"disk": "ssd"},
    "containerSelector": {"include": ["web"], "exclude": ["proxy"]},
    "processSelector": {"executables": ["/usr/bin/shop"]},
    "code": {"appPaths": ["/srv/app"], "libraryPaths": ["/srv/lib"]},
    "files": {"operations": ["Open"], "paths": ["/etc/*"]},
    "network": {"operations": ["Connect"], "cidrs": ["10.0.0.0/8"]},
    "requests": [
        {"protocol": "HTTP", "captureHeaders": ["x-tenant"], "ignorePaths": ["/healthz"], "routes": ["/a/{b}"]}
    ],
    "redaction": {"arguments": ["secret"], "headers": ["x-key"], "paths": ["/home/*"]},
    "resourceAttributes": {"team": "shop"},
    "export": {"otlp": _OTLP},
}
_BY_WORKLOAD = {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}}
STRINGS = sorted(path for path in set(strings(ClusterSpec)) if not path.startswith("probes"))


def _document(path: str, text: str | None) -> dict[str, Any]:
    spec = copy.deepcopy(_BASE)
    kind = "ClusterTraceProfile"
    if path.startswith("workloadRef"):
        del spec["podSelector"], spec["namespaceSelector"]
        kind, spec = "TraceProfile", {**spec, **copy.deepcopy(_BY_WORKLOAD)}
    if text is not None:
        put(spec, re.findall(r"[^.\[\]{}]+|\[\]|\{\w+\}", path), text)
    return {"apiVersion": "kernelspan.io/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def _compiled(path: str, text: str | None) -> dict[str, Any]:
    """All that the compiler is given. Raises ProfileError."""
    profile = load(json.dumps(_document(path, text)).encode(), standalone=True)
    plan = wanted(profile.metadata.name, profile.spec)
    defines = constants.defines(ring_bytes=4096, watch_exec=False, raw=True, executables=plan.by_executable)
    return request(modules_of(plan), defines, {})


@cache
def _base(is_by_workload: bool) -> dict[str, Any]:
    return _compiled("workloadRef" if is_by_workload else "", None)


def test_all_strings_are_known() -> None:
    """Each is in the profile that the tricks are put into."""
    assert len(STRINGS) > 25
    for path in STRINGS:
        assert _document(path, "xyzzy") != _document(path, None), path


def _taken(path: str) -> int:
    """How many of the tricks a profile may say at that place; the compiler is given the same by each."""
    taken = 0
    for trick in TRICKS:
        try:
            compiled = _compiled(path, trick)
        except ProfileError:
            continue
        assert compiled == _base(path.startswith("workloadRef")), trick
        taken += 1
    return taken


@pytest.mark.parametrize("path", STRINGS)
def test_tricks(path: str) -> None:
    """Each is refused, or does not reach the compiler."""
    assert _taken(path) < len(TRICKS)  # no place takes a zero


def test_free_texts_take_some() -> None:
    """So that the above says something of them."""
    assert {path for path in STRINGS if _taken(path)} >= {"resourceAttributes{value}", "files.paths[]"}
