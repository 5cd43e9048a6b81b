# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain --pod` as a user runs it: a process of its own, with a kubeconfig and nothing else of the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster import Cluster
from tests.support.operators import eventually


def explain(
    pod: str, kubeconfig: Path | None, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run, with what it wrote."""
    named = [] if kubeconfig is None else [f"--kubeconfig={kubeconfig}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("KERNELSPAN_", "KUBE", "OTEL_"))}
    return subprocess.run(
        [Path(sys.executable).parent / "kernelspan", "explain", "--pod", pod, *named, *options],
        env=plain | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def asked(pod: str, kubeconfig: Path) -> dict[str, Any]:
    """What it says, as JSON; AssertionError where it says nothing."""
    return said(explain(pod, kubeconfig, "--json"))


def said(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The same of a run."""
    assert (run.returncode, run.stderr) == (0, ""), run
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def until(pod: str, kubeconfig: Path, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What it says once it is so."""
    last: list[dict[str, Any]] = []

    def holds() -> bool:
        run = explain(pod, kubeconfig, "--json")
        if "ApiServerUnreachable" in run.stderr:  # a busy one: the command waits ten seconds
            return False
        last.append(said(run))
        return bool(condition(last[-1]))

    eventually(holds, 180)
    return last[-1]


def of(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The profile of that name in what is said."""
    (one,) = [each for each in found["profiles"] if each["name"] == name]
    profile: dict[str, Any] = one
    return profile


def objections(found: Mapping[str, Any], name: str) -> dict[str, list[str]]:
    """Messages by part."""
    by_part: dict[str, list[str]] = {}
    for one in of(found, name)["objections"]:
        by_part.setdefault(one["part"], []).append(one["message"])
    return by_part


def kubeconfig_of(cluster: Cluster, path: Path, user: Mapping[str, Any], **more: Any) -> Path:
    """A kubeconfig of the cluster with another user; `more` goes into its cluster."""
    config = yaml.safe_load(cluster.kubeconfig.read_text("utf-8"))
    config["users"][0]["user"] = dict(user)
    config["clusters"][0]["cluster"] |= more
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path
