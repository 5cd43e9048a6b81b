# SPDX-License-Identifier: Apache-2.0
"""Profiles of measurements: nothing limited, so that every operation is captured and the figures are of the whole work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNLIMITED = {"eventsPerSecond": 10_000_000, "spansPerSecond": 10_000_000, "cpuMillicores": 64_000}


def profile(
    *,
    files: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
    stacks: str = "Managed",
    limits: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """A TraceProfile with those groups."""
    groups = {"files": files, "network": network}
    spec: dict[str, Any] = {name: dict(group) for name, group in groups.items() if group is not None}
    return _whole({**spec, "code": {"stacks": stacks}, "limits": dict(UNLIMITED if limits is None else limits)})


def own_probe(probe: Mapping[str, Any]) -> dict[str, Any]:
    """A TraceProfile with that one of spec.probes, and no stacks."""
    return _whole({"probes": [{"name": "own", **probe}], "code": {"stacks": "None"}, "limits": UNLIMITED})


def _whole(spec: Mapping[str, Any]) -> dict[str, Any]:
    named = {"apiVersion": "kernelspan.io/v1alpha1", "kind": "TraceProfile", "metadata": {"name": "bench"}}
    return {**named, "spec": dict(spec)}
