# SPDX-License-Identifier: Apache-2.0
"""What the environment says of a resource, as OpenTelemetry has it."""

from __future__ import annotations

import msgspec
import pytest

from kernelspan_agent.cli.outputs import resource_settings
from kernelspan_agent.errors import UsageError
from kernelspan_api.resource import TraceProfile

PROFILE = msgspec.yaml.decode(
    """
apiVersion: kernelspan.io/v1alpha1
kind: TraceProfile
metadata: {name: x}
spec: {files: {}, resourceAttributes: {a: of the profile, b: of the profile}}
""",
    type=TraceProfile,
)


def test_values_are_decoded_as_in_a_url() -> None:
    """A comma or an equals sign in a value can be said no other way; the environment goes before the profile."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "b=a%20b%2Cc%3D%C3%BC, k8s.cluster.name = 1+1 "}
    found = resource_settings(PROFILE, environ).attributes
    assert found == {"a": "of the profile", "b": "a b,c=ü", "k8s.cluster.name": "1+1"}


def test_what_is_no_pair_is_refused() -> None:
    """By name, with the part that is wrong."""
    with pytest.raises(UsageError, match="OTEL_RESOURCE_ATTRIBUTES: 'alone' is not key=value"):
        resource_settings(PROFILE, {"OTEL_RESOURCE_ATTRIBUTES": "a=b,alone"})
