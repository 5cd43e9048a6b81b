# SPDX-License-Identifier: Apache-2.0
"""Every kind of container of a real pod: init, sidecar, main, and one that `kubectl debug` adds while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.cluster import KindCluster
from harness.product import Object, Product
from tests.support.otlp_json import ReceivedSpan
from tools.errors import ToolError

_SPACE = "containers"
# Opens a file of its container's name again and again, in a function, until somebody makes the file that ends it. Seldom:
# Jaeger is asked for all of them each time that one looks.
_PROGRAM = """
import os, sys, time
def mark():
    with open("/tmp/" + sys.argv[1], "w"): pass
while not os.path.exists("/tmp/end"):
    mark()
    time.sleep(0.5)
"""
_CONTAINERS = ("setup", "side", "main", "debug-1")

_Seen = dict[tuple[str, str], ReceivedSpan]


def _container(image: str, name: str, **more: Any) -> Object:
    command = ["python3", "-c", _PROGRAM, name]
    return {"name": name, "image": image, "imagePullPolicy": "Never", "command": command, **more}


def _profile(name: str) -> Object:
    return {
        "apiVersion": "kernelspan.io/v1alpha1",
        "kind": "TraceProfile",
        "metadata": {"name": name, "namespace": _SPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": "kinds"}},
            "files": {"operations": ["Open"]},
            "resourceAttributes": {"profile": name},
        },
    }


def _cluster_profile(name: str, **spec: Any) -> Object:
    """The same of the whole cluster, of this one namespace in it."""
    profile = _profile(name)
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": _SPACE}}}
    return profile | {
        "kind": "ClusterTraceProfile",
        "metadata": {"name": name},
        "spec": profile["spec"] | selector | spec,
    }


@pytest.fixture(scope="module")
def pod(images: dict[str, str], product: Product) -> Iterator[str]:
    """The pod's image; two profiles, the cluster's of some of its containers, were there before it. Its init container runs."""
    image = images["shop"]
    cluster = product.cluster
    with cluster.namespace(_SPACE):
        some = {"include": ["*"], "exclude": ["main", "side"]}
        cluster.apply(_profile("all"), _cluster_profile("some", containerSelector=some))
        spec = {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [_container(image, "setup"), _container(image, "side", restartPolicy="Always")],
            "containers": [_container(image, "main")],
        }
        metadata = {"name": "kinds", "namespace": _SPACE, "labels": {"app": "kinds"}}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        try:
            yield image
        finally:
            cluster.kubectl("delete", "ctprof", "some", "--ignore-not-found")


def _see(product: Product, since: float, found: _Seen, expected: set[tuple[str, str]]) -> None:
    """Adds a span of each container, by profile and by the name of the file that it opened, until all expected are there.

    A container that has just begun bears its name as soon as the kubelet has said which it is; its pod's is there at once.
    Raises ToolError with those that are missing.
    """

    def look() -> bool:
        for span in product.spans("kinds", since):
            name = str(span.attributes.get("file.path", "")).removeprefix("/tmp/")
            if "k8s.container.name" in span.resource and name in _CONTAINERS:
                found[str(span.resource["profile"]), name] = span
        return found.keys() >= expected

    try:
        product.cluster.wait("spans of every container", look)
    except ToolError as error:
        raise ToolError(f"{error}; without any: {sorted(expected - found.keys())}") from None


def test_every_kind_of_container(product: Product, cluster: KindCluster, pod: str) -> None:
    """Each is traced under its own name and id, by the profile of all; by the other those alone that it names."""
    began = time.time()
    found: _Seen = {}
    expected = {("all", "setup"), ("some", "setup")}
    _see(product, began, found, expected)
    cluster.kubectl("-n", _SPACE, "exec", "kinds", "--container=setup", "--", "touch", "/tmp/end")
    cluster.kubectl("-n", _SPACE, "wait", "--for=condition=Ready", "pod/kinds", "--timeout=120s")
    product.wait_ready(_profile("all"))  # of the other nothing runs now that the init container has ended
    options = [f"--image={pod}", "--container=debug-1", "--image-pull-policy=Never", "--profile=general"]
    cluster.kubectl("-n", _SPACE, "debug", "kinds", *options, "--", "python3", "-c", _PROGRAM, "debug-1")
    expected |= {("all", name) for name in ("side", "main", "debug-1")} | {("some", "debug-1")}
    _see(product, began, found, expected)
    assert found.keys() == expected
    status = cluster.get("-n", _SPACE, "pod/kinds")["status"]
    places = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    ids = {one["name"]: one["containerID"].rpartition("/")[2] for place in places for one in status[place]}
    for (_, name), span in found.items():
        assert (span.resource["k8s.container.name"], span.resource["container.id"]) == (name, ids[name])
        assert span.resource["k8s.pod.name"] == "kinds"
