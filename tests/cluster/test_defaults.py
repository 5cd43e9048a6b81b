# SPDX-License-Identifier: Apache-2.0
"""What the API server fills in is what the types say, and what a user who said nothing reads in the documentation."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from kernelspan_api.problems import ProfileError
from kernelspan_api.profile import validate
from kernelspan_api.resource import KINDS
from tests.support.cluster import Cluster
from tests.support.profile_api import dry_run, profile
from tests.support.profile_strategies import PROFILES

FILLED_IN = {
    "code": {"stacks": "Managed", "maxDepth": 64, "functions": True, "stackTrace": "None", "kernelStack": False},
    "correlation": {"traceparent": "Read", "acrossServices": True, "orphans": "Activity"},
    "sampling": {"percent": 100, "parentBased": True, "keepErrors": False, "keepSlowerThanMilliseconds": 0},
    "limits": {"eventsPerSecond": 10_000, "spansPerSecond": 5_000, "cpuMillicores": 200, "onExceed": "Throttle"},
    "redaction": {"commandLine": "Drop"},
    "paused": False,
}


def filled_in(cluster: Cluster, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec as it would be stored."""
    answer = dry_run(cluster, profile(spec))
    assert answer.status == 201, answer
    stored: dict[str, Any] = answer.body["spec"]
    return stored


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        ({"files": {}}, {"files": {"minDurationMicroseconds": 0}}),
        ({"network": {}}, {"network": {"minDurationMicroseconds": 0}}),
        ({"processes": {}}, {"processes": {}}),
        ({"waits": {}}, {"waits": {"minDurationMicroseconds": 0}}),
        (
            {"requests": [{"protocol": "HTTP"}]},
            {"requests": [{"protocol": "HTTP", "captureQuery": False, "statement": "Sanitized", "tls": "None"}]},
        ),
        (
            {"files": {}, "export": {"otlp": {}}},
            {
                "files": {"minDurationMicroseconds": 0},
                "export": {"otlp": {"protocol": "GRPC", "compression": "Gzip"}},
            },
        ),
        (
            {"files": {}, "export": {"otlp": {"tls": {}}}},
            {
                "files": {"minDurationMicroseconds": 0},
                "export": {"otlp": {"protocol": "GRPC", "compression": "Gzip", "tls": {"insecureSkipVerify": False}}},
            },
        ),
        (
            {"probes": [{"name": "a", "kprobe": {"call": "f"}}]},
            {
                "probes": [
                    {
                        "name": "a",
                        "kprobe": {"call": "f", "syscall": False, "mechanism": "Auto"},
                        "span": {"kind": "Internal"},
                        "mode": "Span",
                        "minDurationMicroseconds": 0,
                    }
                ]
            },
        ),
    ],
    ids=["files", "network", "processes", "waits", "requests", "export", "tls", "probes"],
)
def test_defaults(cluster: Cluster, spec: dict[str, Any], more: dict[str, Any]) -> None:
    """Scalars are filled in; empty lists and those that mean "all" stay away (see `kernelspan_api.crd`)."""
    assert filled_in(cluster, spec) == {"podSelector": {}, **FILLED_IN, **more}


def test_what_is_said_stays(cluster: Cluster) -> None:
    """A default never replaces what a user wrote, be it nothing."""
    spec = {"files": {"operations": ["Read"]}, "correlation": {"acrossServices": False}, "limits": {"cpuMillicores": 7}}
    stored = filled_in(cluster, spec)
    assert stored["files"]["operations"] == ["Read"]
    assert stored["correlation"]["acrossServices"] is False
    assert stored["limits"] == {**FILLED_IN["limits"], "cpuMillicores": 7}  # type: ignore[dict-item]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(document=PROFILES)
def test_stored_profile_reads_as_the_one_that_was_sent(cluster: Cluster, document: dict[str, Any]) -> None:
    """The operator, which reads what is stored, sees what `kernelspan run` sees in the file."""
    document = {**document, "metadata": {"name": "x"}}
    try:
        sent = validate(document)
    except ProfileError:
        return
    answer = dry_run(cluster, document)
    assert answer.status == 201, answer
    stored = msgspec.convert({**document, "spec": answer.body["spec"]}, KINDS[document["kind"]])
    if sent.spec.correlation.across_services is None:  # told apart from true only where no API server fills it in
        correlation = msgspec.structs.replace(sent.spec.correlation, across_services=True)
        sent = msgspec.structs.replace(sent, spec=msgspec.structs.replace(sent.spec, correlation=correlation))
    assert stored == sent
