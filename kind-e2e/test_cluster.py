# SPDX-License-Identifier: Apache-2.0
"""The cluster is one: pods on every node reach each other, Services, names and the API, and are held to their limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.api import Api
from harness.cluster import WORKERS, KindCluster
from tools.errors import ToolError

_SERVE = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["NODE"].encode())
http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""
_ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).read().decode())"


def _hello(image: str) -> list[object]:
    """A pod on every node that answers with the node's name, and a Service before them."""
    container = {
        "name": "hello",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", _SERVE],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "resources": {"limits": {"memory": "64Mi"}},
    }
    labels = {"app": "hello"}
    spec = {"containers": [container], "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "hello", "namespace": "hello"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "hello", "namespace": "hello"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]


@pytest.fixture(scope="module")
def pods(cluster: KindCluster, images: dict[str, str]) -> Iterator[dict[str, dict[str, str]]]:
    """The pods of the Service by their nodes' names: name and address."""
    with cluster.namespace("hello"):
        cluster.apply(*_hello(images["shop"]))
        cluster.kubectl("-n", "hello", "rollout", "status", "daemonset/hello", "--timeout=120s")
        found = cluster.get("pods", "-n", "hello")["items"]
        yield {
            pod["spec"]["nodeName"]: {"name": pod["metadata"]["name"], "address": pod["status"]["podIP"]}
            for pod in found
        }


def _ask(cluster: KindCluster, pod: str, url: str) -> str:
    return cluster.kubectl("-n", "hello", "exec", pod, "--", "python3", "-c", _ASK, url).strip()


def test_pods_reach_each_other(cluster: KindCluster, pods: dict[str, dict[str, str]]) -> None:
    """From every node to every node, by address."""
    assert len(pods) == WORKERS + 1
    for source in pods.values():
        for node, target in pods.items():
            assert _ask(cluster, source["name"], f"http://{target['address']}:8080/") == node


def test_a_service_is_found_by_name(cluster: KindCluster, pods: dict[str, dict[str, str]]) -> None:
    """From every node, and it gives requests to more than one pod."""
    for source in pods.values():
        answers = {_ask(cluster, source["name"], "http://hello.hello.svc.cluster.local/") for _ in range(12)}
        assert answers <= set(pods)
        assert len(answers) > 1


def test_a_service_answers_through_the_api(cluster: KindCluster, pods: dict[str, dict[str, str]]) -> None:
    """The API server reaches pods on every node: Jaeger is asked so."""
    api = Api(cluster.kubeconfig)
    answers = {api.service("hello", "hello", 80, "/")[1].decode() for _ in range(40)}
    assert answers == set(pods)


def test_nothing_outside_is_reached(cluster: KindCluster, pods: dict[str, dict[str, str]]) -> None:
    """An address of the Services' network that none has is refused by the node, whoever would answer beyond it."""
    for source in pods.values():
        with pytest.raises(ToolError, match="Connection refused"):
            _ask(cluster, source["name"], "http://10.97.255.250/")


def test_memory_limits_hold(cluster: KindCluster, pods: dict[str, dict[str, str]]) -> None:
    """A container cannot have more than its limit."""
    name = next(iter(pods.values()))["name"]
    greedy = ["python3", "-c", "len(bytes(200 << 20).replace(b'\\0', b'1'))"]
    with pytest.raises(Exception, match="137"):
        cluster.kubectl("-n", "hello", "exec", name, "--", *greedy)
