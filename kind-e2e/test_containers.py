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

_SPACE = "containers"
# Opens a file of its container's name again and again, in a function; so many times.
_PROGRAM = """
import sys, time
def mark():
    with open("/tmp/" + sys.argv[1], "w"): pass
for _ in range(int(sys.argv[2])):
    mark()
    time.sleep(0.05)
"""
_FOREVER = 1_000_000


def _container(image: str, name: str, times: int = _FOREVER, **more: Any) -> Object:
    command = ["python3", "-c", _PROGRAM, name, str(times)]
    return {"name": name, "image": image, "imagePullPolicy": "Never", "command": command, **more}


def _profile(name: str, **spec: Any) -> Object:
    base = {"podSelector": {"matchLabels": {"app": "kinds"}}, "files": {"operations": ["Open"]}}
    return {
        "apiVersion": "kernelspan.io/v1alpha1",
        "kind": "TraceProfile",
        "metadata": {"name": name, "namespace": _SPACE},
        "spec": base | {"resourceAttributes": {"profile": name}} | spec,
    }


@pytest.fixture(scope="module")
def pod(cluster: KindCluster, images: dict[str, str], product: Product) -> Iterator[str]:
    """The pod's image; two profiles, one of some containers, were there before it."""
    image = images["shop"]
    with cluster.namespace(_SPACE):
        some = {"include": ["*"], "exclude": ["main", "side"]}
        cluster.apply(_profile("all"), _profile("some", containerSelector=some))
        spec = {
            "terminationGracePeriodSeconds": 1,
            "initContainers": [
                _container(image, "setup", 100),
                _container(image, "side", restartPolicy="Always"),
            ],
            "containers": [_container(image, "main")],
        }
        metadata = {"name": "kinds", "namespace": _SPACE, "labels": {"app": "kinds"}}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        cluster.kubectl("-n", _SPACE, "wait", "--for=condition=Ready", "pod/kinds", "--timeout=120s")
        product.wait_ready(_profile("all"))  # of the other nothing runs once the init container has ended
        yield image


def _seen(product: Product, since: float) -> dict[tuple[str, str], ReceivedSpan]:
    """The last span of each container, by profile and by the name of the file that it opened.

    A container that has just begun bears its name as soon as the kubelet has said which it is; its pod's is there at once.
    """
    found = {}
    for span in product.spans("kinds", since):
        path = str(span.attributes.get("file.path", ""))
        is_named = "k8s.container.name" in span.resource
        if is_named and path in {f"/tmp/{name}" for name in ("setup", "side", "main", "debug-1")}:
            found[str(span.resource["profile"]), path.removeprefix("/tmp/")] = span
    return found


def test_every_kind_of_container(product: Product, cluster: KindCluster, pod: str) -> None:
    """Each is traced under its own name and id, by the profile of all; by the other those alone that it names."""
    began = time.time() - 60  # the init container has been
    command = ["python3", "-c", _PROGRAM, "debug-1", str(_FOREVER)]
    options = [f"--image={pod}", "--container=debug-1", "--image-pull-policy=Never", "--profile=general"]
    cluster.kubectl("-n", _SPACE, "debug", "kinds", *options, "--", *command)
    expected = {("all", name) for name in ("setup", "side", "main", "debug-1")}
    expected |= {("some", name) for name in ("setup", "debug-1")}
    product.cluster.wait("spans of every container", lambda: _seen(product, began).keys() >= expected, 60.0)
    found = _seen(product, began)
    assert found.keys() == expected
    status = cluster.get("-n", _SPACE, "pod/kinds")["status"]
    places = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    ids = {one["name"]: one["containerID"].rpartition("/")[2] for place in places for one in status[place]}
    for (_, name), span in found.items():
        assert (span.resource["k8s.container.name"], span.resource["container.id"]) == (name, ids[name])
        assert span.resource["k8s.pod.name"] == "kinds"
