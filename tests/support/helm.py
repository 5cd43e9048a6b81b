# SPDX-License-Identifier: Apache-2.0
"""The real helm on our chart: what it renders, as objects, and releases of it in a cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from kernelspan_api.resource import API_VERSION, KINDS
from tests.support.cluster import DEFINITIONS, Cluster
from tests.support.operators import eventually
from tests.support.server import ServerError

CHART = Path(__file__).resolve().parents[2] / "charts/kernelspan"
VALUE_SETS = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE, RELEASE = "kernelspan", "kernelspan"
_TIMEOUT_SECONDS = 120.0

Object = dict[str, Any]


class Helm:
    """helm with folders of its own; `kubeconfig` for what needs a cluster."""

    def __init__(self, binary: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self._binary = binary
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self._environment |= {f"HELM_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        if kubeconfig is not None:
            self._environment["KUBECONFIG"] = str(kubeconfig)

    def run(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command. Raises ServerError with what it said if it fails, unless `check` is false."""
        ended = subprocess.run(
            [self._binary, *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if check and ended.returncode:
            raise ServerError(f"helm {' '.join(map(str, arguments))} ended with {ended.returncode}: {ended.stderr}")
        return ended

    def text(self, *options: object, release: str = RELEASE) -> str:
        """What `helm template` writes."""
        return self.run("template", release, CHART, f"--namespace={NAMESPACE}", *options).stdout

    def render(self, *options: object, release: str = RELEASE) -> list[Object]:
        """The objects, in the order of their installation."""
        return list(parse(self.text(*options, release=release)))


class _Strict(yaml.CSafeLoader):
    """YAML in which no key stands twice: a template that writes one twice has lost one of the two."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise yaml.MarkedYAMLError(problem=f"twice: {sorted(twice)}", problem_mark=node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str) -> Iterator[Object]:
    """Objects of a stream; documents that are empty are left out. Raises yaml.YAMLError."""
    return (one for one in yaml.load_all(text, _Strict) if one)


def find(objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of that kind whose name ends so. Raises AssertionError if there is none, or are several."""
    found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)]
    assert len(found) == 1, (kind, name, [one["metadata"]["name"] for one in objects if one["kind"] == kind])
    return found[0]


def pod_of(obj: Object) -> Object | None:
    """The spec of the pods that it makes; None: it makes none."""
    if obj["kind"] == "Pod":
        return dict(obj["spec"])
    template = obj["spec"].get("template") if obj["kind"] in {"Deployment", "DaemonSet"} else None
    return dict(template["spec"]) if template else None


def served(plane: Cluster) -> None:
    """Waits until profiles can be made: an API server calls a definition established a little before."""
    plane.establish(*DEFINITIONS)
    for kind in KINDS:
        path = f"/apis/{API_VERSION}/{kind.lower()}s"
        eventually(lambda path=path: plane.request("GET", path).status == 200)  # type: ignore[misc]
