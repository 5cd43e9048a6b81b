# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain --pod`: why a pod is, or is not, traced, as the API server and the profiles' statuses have it."""

from __future__ import annotations

import json
import os
from typing import Any

import click
import msgspec

from kernelspan_agent.cli.cluster import kubeconfig
from kernelspan_agent.cli.cluster.advice import advice
from kernelspan_agent.cli.cluster.api import Api
from kernelspan_agent.cli.cluster.facts import Facts, gather, split
from kernelspan_agent.cli.cluster.page import page
from kernelspan_agent.cli.cluster.verdict import Verdict, judge, overall
from kernelspan_agent.cli.terminal import Painter
from kernelspan_api.selection import container_names, has_ended, owner


def explain(pod: str, context: str, path: str, *, as_json: bool) -> int:
    """Prints it; the exit code. Raises UsageError or MachineError where nothing can be said."""
    namespace, name = split(pod)
    api = Api(kubeconfig.read(kubeconfig.find(path, os.environ), context, os.environ))
    shown = as_object(gather(api, namespace, name))
    click.echo(json.dumps(shown, indent=1) if as_json else "\n".join(page(shown, Painter.of_stdout(os.environ))))
    return 0


def as_object(facts: Facts) -> dict[str, Any]:
    """All that follows from the facts, as --json shows it."""
    pod, verdicts = facts.pod, judge(facts)
    kind, name = owner(pod.metadata)
    known = {
        one.name: one.container_i_d
        for part in (
            pod.status.init_container_statuses,
            pod.status.container_statuses,
            pod.status.ephemeral_container_statuses,
        )
        for one in part or ()
    }
    return {
        "pod": {
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
            "node": pod.spec.node_name,
            "phase": pod.status.phase,
            "ended": has_ended(pod),
            "deleting": pod.metadata.deletion_timestamp is not None,
            "workload": {"kind": kind, "name": name} if kind else None,
        },
        "traced": overall(verdicts),
        "containers": [
            {
                "name": each,
                "started": bool(known.get(each)),
                "profiles": [_name(one) for one in verdicts if one.selected and each in one.containers],
            }
            for each in container_names(pod.spec)
        ],
        "profiles": [_profile(one) for one in verdicts],
        "notRead": [{"what": what, "why": why} for what, why in facts.not_read],
        "advice": advice(facts, verdicts),
    }


def _name(verdict: Verdict) -> str:
    """As kubectl names it: the kind, then the name."""
    return f"{verdict.profile.kind} {verdict.profile.name}"


def _profile(verdict: Verdict) -> dict[str, Any]:
    profile, status = verdict.profile, verdict.profile.status
    chosen = profile.spec.process_selector if profile.spec is not None else None
    return {
        "kind": profile.kind,
        "namespace": profile.namespace,
        "name": profile.name,
        "generation": profile.generation,
        "statusGeneration": status.observed_generation if status is not None else None,
        "selected": verdict.selected,
        "traced": verdict.traced,
        "message": verdict.message,
        "objections": [
            {"part": one.part, "certain": one.certain, "message": one.message} for one in verdict.objections
        ],
        "containers": list(verdict.containers),
        "processSelector": msgspec.to_builtins(chosen) if chosen is not None else {},
        "node": msgspec.to_builtins(verdict.node) | {"ready": verdict.node.ready} if verdict.node is not None else None,
        "conditions": [
            {"type": one.type, "status": one.status.value, "reason": one.reason, "message": one.message}
            for one in (status.conditions if status is not None else ())
        ],
    }
