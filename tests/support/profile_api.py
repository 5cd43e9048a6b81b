# SPDX-License-Identifier: Apache-2.0
"""Profiles at a real API server: sent on trial (server-side dry run), with what is said against them taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kernelspan_api.resource import API_VERSION
from tests.support.cluster import Answer, Cluster

NAMESPACE = "shop"
_RULE = re.compile(r"(?:^|: )(must .*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that the API server has against an object. `field` is empty where it names none."""

    field: str
    message: str

    @property
    def rule(self) -> str:
        """Our own words, without the value that the API server puts before them; empty if they are not ours."""
        found = _RULE.search(self.message)
        return found[1] if found else ""


def path(kind: str, name: str = "", options: str = "") -> str:
    """Where profiles of that kind are; `options` as in a URL's query."""
    scope = f"/namespaces/{NAMESPACE}" if kind == "TraceProfile" else ""
    return f"/apis/{API_VERSION}{scope}/{kind.lower()}s{f'/{name}' if name else ''}{f'?{options}' if options else ''}"


def profile(spec: object, name: str = "x", kind: str = "TraceProfile") -> dict[str, Any]:
    """A profile; one that selects no pods gets every pod."""
    if isinstance(spec, dict) and not {"podSelector", "workloadRef"} & set(spec):
        spec = {**spec, "podSelector": {}}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def dry_run(cluster: Cluster, document: dict[str, Any]) -> Answer:
    """What the API server would answer to its creation; unknown fields are an error, as for kubectl."""
    return cluster.request("POST", path(document["kind"], options="dryRun=All&fieldValidation=Strict"), document)


def complaints(answer: Answer) -> list[Cause]:
    """What was said against the object; none if it was taken. Raises AssertionError for any other answer."""
    if answer.status == 201:
        return []
    assert answer.status in {400, 422}, answer
    causes = answer.body.get("details", {}).get("causes", [])
    # One without a field says that rules were not asked because of the others.
    found = [Cause(one["field"], one["message"]) for one in causes if one.get("field", "<nil>") != "<nil>"]
    return found or [Cause("", answer.body["message"])]
