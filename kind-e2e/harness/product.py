# SPDX-License-Identifier: Apache-2.0
"""What is tested, installed by its chart: the release, its profiles, and the spans that come out at its Jaeger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from harness.api import Api
from harness.cluster import KindCluster
from tests.support.helm import CHART, NAMESPACE, RELEASE, Helm
from tests.support.jaeger import JaegerApi
from tests.support.otlp_json import ReceivedSpan
from tools.gotool import Say

_READY = "180s"
_JAEGER_PORT = 16686
_AGENT_PORT = 9465
_LIMIT = 20_000
_TRACES = 3_000  # the shop's are of some hundred spans: more would fill Jaeger's memory before the tests end
WORKLOADS = ("deployment/kernelspan-operator", "deployment/kernelspan-jaeger", "deployment/kernelspan-collector")
AGENTS = "daemonset/kernelspan-agent"

Object = dict[str, Any]


class Product:
    """The release of the chart in a cluster."""

    def __init__(self, cluster: KindCluster, helm: Helm, say: Say) -> None:
        self.cluster, self.helm, self.say = cluster, helm, say
        self.api = Api(cluster.kubeconfig)
        self.jaeger = JaegerApi(lambda path: self.api.service(NAMESPACE, "kernelspan-jaeger", _JAEGER_PORT, path))

    def install(self, images: Mapping[str, str]) -> float:
        """Installs or upgrades the release with Jaeger, and returns how many seconds it took until all was ready.

        `images`: ids by name; pods of another image than these are replaced.
        """
        started = time.monotonic()
        options = ["--set=jaeger.enabled=true", f"--set=jaeger.maxTraces={_TRACES}", "--set=policy.probes=true"]
        options += [f"--set-string={part}.podAnnotations.image={images[part]}" for part in ("operator", "agent")]
        self.helm.run(
            "upgrade", "--install", RELEASE, CHART, f"--namespace={NAMESPACE}", "--create-namespace", *options
        )
        for workload in (*WORKLOADS, AGENTS):
            self.kubectl("rollout", "status", workload, f"--timeout={_READY}")
        return time.monotonic() - started

    def uninstall(self) -> None:
        """Removes the release, and returns when its pods are gone."""
        self.helm.run("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--ignore-not-found")
        self.cluster.wait("the release's pods to go", lambda: not self.cluster.get("pods", "-n", NAMESPACE)["items"])

    def notes(self) -> str:
        """What Helm told whoever installed it."""
        return self.helm.run("get", "notes", RELEASE, f"--namespace={NAMESPACE}").stdout

    def kubectl(self, *arguments: str) -> str:
        """kubectl in the release's namespace."""
        return self.cluster.kubectl("-n", NAMESPACE, *arguments)

    @contextlib.contextmanager
    def profile(self, document: Object) -> Iterator[Object]:
        """A profile as long as the block lasts, from when it is ready."""
        self.cluster.apply(document)
        try:
            self.wait_ready(document)
            yield document
        finally:
            metadata = document["metadata"]
            self.cluster.kubectl("-n", metadata["namespace"], "delete", "tprof", metadata["name"], "--ignore-not-found")

    def wait_ready(self, document: Object) -> None:
        """Returns when the profile is ready. Raises ToolError with what its status says if it never is."""
        metadata = document["metadata"]
        name = ["-n", metadata["namespace"], f"tprof/{metadata['name']}"]
        said = self.cluster.kubectl("wait", "--for=condition=Ready", *name, "--timeout=180s", check=False)
        assert "condition met" in said, self.cluster.get(*name).get("status")

    def agents(self) -> dict[str, Object]:
        """The agents' pods by their nodes' names."""
        found = self.cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent")["items"]
        return {pod["spec"]["nodeName"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def metrics(self, pod: Object) -> dict[str, float]:
        """An agent's metrics, name with labels to value."""
        status, body = self.api.pod(NAMESPACE, pod["metadata"]["name"], _AGENT_PORT, "/metrics")
        assert status == 200, body
        pairs = (line.rsplit(" ", 1) for line in body.decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def spans(self, service: str, since: float = 0.0) -> list[ReceivedSpan]:
        """The spans of a service that began since then (seconds of the epoch)."""
        begin = datetime.fromtimestamp(max(since - 60.0, 0.0), UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )  # traces go back further
        traces = self.jaeger.traces(service, limit=_LIMIT, since=begin)
        return [span for spans in traces.values() for span in spans if span.start_ns >= since * 1e9]

    def wait_for_spans(self, service: str, since: float, wanted: int = 1, **resource: str) -> list[ReceivedSpan]:
        """The spans of a service since then whose resource is so, as soon as there are that many."""

        def look() -> Sequence[ReceivedSpan]:
            found = [
                span
                for span in self.spans(service, since)
                if all(span.resource.get(name.replace("_", ".")) == value for name, value in resource.items())
            ]
            return found if len(found) >= wanted else ()

        return list(self.cluster.wait(f"{wanted} spans of {service} with {resource}", look))


class Shop:
    """The sample application in a namespace of its own."""

    NAMESPACE = "shop"
    _MANIFEST = Path(__file__).parents[1] / "app/shop.yaml"

    def __init__(self, cluster: KindCluster) -> None:
        self.cluster = cluster

    def start(self, image: str, number: str) -> None:
        """Applies the manifest with this image and returns when it serves; `number`: the image's id."""
        documents = list(yaml.safe_load_all(self._MANIFEST.read_text("utf-8")))
        for document in documents:
            document["metadata"]["namespace"] = self.NAMESPACE
            if document["kind"] == "Deployment":
                template = document["spec"]["template"]
                template["metadata"]["annotations"] = {"image": number}
                template["spec"]["containers"][0]["image"] = image
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.NAMESPACE}})
        self.cluster.apply(*documents)
        for document in documents:
            if document["kind"] == "Deployment":
                self.cluster.kubectl(
                    "-n",
                    self.NAMESPACE,
                    "rollout",
                    "status",
                    f"deployment/{document['metadata']['name']}",
                    f"--timeout={_READY}",
                )

    def pods(self, app: str = "shop") -> dict[str, Object]:
        """The running pods of one of its parts, by name."""
        found = self.cluster.get("pods", "-n", self.NAMESPACE, "-l", f"app={app}")["items"]
        return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def scale(self, replicas: int) -> None:
        """Returns when the shop has so many pods, and they serve."""
        name = "deployment/shop"
        self.cluster.kubectl("-n", self.NAMESPACE, "scale", name, f"--replicas={replicas}")
        self.cluster.kubectl("-n", self.NAMESPACE, "rollout", "status", name, f"--timeout={_READY}")
        self.cluster.wait("the shop's pods", lambda: len(self.pods()) == replicas)
