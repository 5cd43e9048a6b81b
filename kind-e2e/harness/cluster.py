# SPDX-License-Identifier: Apache-2.0
"""The cluster of these tests: one control plane and two workers by kind, with a pod network of routes between them.

It has a name, a kubeconfig and a network of docker's of its own, and touches no other cluster. What an earlier
run left under the name is removed before, and all of it after, also when the run is interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from tests.support.server import ServerError
from tools.build import build, cache_folder
from tools.errors import ToolError
from tools.gotool import Say
from tools.images.docker import Docker
from tools.images.product import CHECKOUT

_T = TypeVar("_T")
NAME = "kernelspan-e2e"
WORKERS = 2
_POD_NETWORK = "10.244.0.0/16"
_SERVICE_NETWORK = "10.97.0.0/16"
_CONTAINER_ROUTE = "0.0.0.0/0"
_TIMEOUT_SECONDS = 600.0
_READY = "180s"
_POLL_SECONDS = 0.3
_CHAIN = "KERNELSPAN-E2E"
_LOADED = "/kind/loaded.json"
_TAIL_CHARACTERS = 4000


@contextlib.contextmanager
def alone(say: Say) -> Iterator[None]:
    """Waits until no other run of this user has the cluster, and keeps others waiting: there is one of its name."""
    folder = cache_folder(os.environ).parent / "e2e"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run has the cluster, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class Node:
    """A node, which is a container of docker's by the same name."""

    name: str
    pods: str  # the network of its pods
    address: str


class KindCluster:
    """The cluster as long as it stands; `create` and `delete` may each be called at any time."""

    def __init__(self, docker: Docker, say: Say) -> None:
        """Nothing is made yet; the kubeconfig will stand in the user's cache folder."""
        programs = build(("kind", "kubectl"), say)
        self._docker, self._say = docker, say
        self._kind, self._kubectl = programs["kind"], programs["kubectl"]
        self._folder = cache_folder(os.environ).parent / "e2e"
        self.kubeconfig = self._folder / "kubeconfig"
        self._folder.mkdir(parents=True, exist_ok=True)

    def stands(self, image: str) -> bool:
        """Whether the cluster is there, of this node image, and its API answers."""
        nodes = self._node_names()
        images = {self._docker.run("inspect", "--format", "{{.Config.Image}}", name, check=False) for name in nodes}
        if len(nodes) != WORKERS + 1 or images != {image} or not self.kubeconfig.exists():
            return False
        return self.kubectl("get", "--raw", "/readyz", "--request-timeout=5s", check=False) == "ok"

    def create(self, image: str) -> None:
        """Makes the cluster anew and returns when its nodes are ready and names are answered."""
        self.delete()
        started = time.monotonic()
        configuration = self._folder / "kind.yaml"
        configuration.write_text(json.dumps(_configuration()), "utf-8")
        self._run_kind("create", "cluster", f"--config={configuration}", f"--image={image}")
        self._say(f"kind: {WORKERS + 1} nodes, {time.monotonic() - started:.0f} s")
        self._connect()
        self.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={_READY}")
        self._say(f"network: nodes are ready, {time.monotonic() - started:.0f} s")
        self.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", f"--timeout={_READY}")
        self.kubectl("-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", f"--timeout={_READY}")
        self._say(f"cluster: ready, {time.monotonic() - started:.0f} s")

    def delete(self) -> None:
        """Removes the cluster, or what there is of it."""
        if self._node_names():
            started = time.monotonic()
            self._run_kind("delete", "cluster")
            self._say(f"kind: deleted the cluster, {time.monotonic() - started:.0f} s")
        self._docker.run("network", "rm", NAME, check=False)
        self.kubeconfig.unlink(missing_ok=True)

    def load(self, *images: str) -> None:
        """Gives the project's images to every node as its users do, unless all have them as they are now."""
        started = time.monotonic()
        wanted = {image: self._docker.image_id(image) for image in images}
        if all(self._loaded(name) == wanted for name in self._node_names()):
            return
        command = ["make", "--no-print-directory", "images", f"KIND={NAME}", "ARGS="]  # those are this run's own
        self._run(command, {**self._environment(), "MAKEFLAGS": ""}, CHECKOUT)
        for name in self._node_names():
            self.exec_in_node(name, "tee", _LOADED, script=json.dumps(wanted))
        self._say(f"kind: make images loaded {', '.join(images)}, {time.monotonic() - started:.0f} s")

    def images(self, node: str) -> list[str]:
        """The names of the images that a node's containerd has."""
        return self.exec_in_node(node, "ctr", "--namespace=k8s.io", "images", "list", "--quiet").split()

    def kubectl(self, *arguments: str, document: object = None, check: bool = True) -> str:
        """What kubectl prints, as the cluster's administrator; `document` goes to its input (name it by `-f -`).

        Raises ToolError with what it said if it fails, unless `check` is false.
        """
        ended = subprocess.run(
            [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=None if document is None else json.dumps(document),
            stdin=subprocess.DEVNULL if document is None else None,
            env={**self._environment(), "KUBERC": "off"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if check and ended.returncode:
            raise ToolError(f"kubectl {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr.strip()}")
        return ended.stdout

    @contextlib.contextmanager
    def forwarded(self, namespace: str, what: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to `what`'s (such as service/name) as long as the block lasts, by kubectl."""
        command = [self._kubectl, f"--kubeconfig={self.kubeconfig}", "-n", namespace, "port-forward", what, f":{port}"]
        environment = {**self._environment(), "KUBERC": "off"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()  # Forwarding from 127.0.0.1:41235 -> 16686
                if not said.startswith("Forwarding from"):
                    raise ToolError(f"kubectl port-forward {what}: {said.strip()}")
                yield int(said.split()[2].rpartition(":")[2])
            finally:
                process.terminate()

    def get(self, *arguments: str) -> Any:
        """What `kubectl get ARGUMENTS -o json` says."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *documents: object) -> None:
        """Applies these objects."""
        self.kubectl(
            "apply", "--server-side", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": documents}
        )

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace that is empty at the beginning and gone, with all that is in it, at the end."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s")
        self.kubectl("create", "namespace", name)
        try:
            self.wait("its service account", lambda: self.kubectl("-n", name, "get", "sa", "default", check=False))
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--timeout=120s")

    def wait(self, what: str, look: Callable[[], _T], seconds: float = 120.0) -> _T:
        """What `look` returns as soon as it is true. Raises ToolError with its last answer, or why it had none, if it never is."""
        deadline = time.monotonic() + seconds
        while True:
            last: object
            try:
                if found := look():
                    return found
                last = found
            except (OSError, HTTPException, ServerError, ToolError) as error:  # of a server that is busy
                last = error
            if time.monotonic() > deadline:
                raise ToolError(f"{what}: not within {seconds:.0f} s; last {last!r}")
            time.sleep(_POLL_SECONDS)

    def exec_in_node(self, node: str, *command: str, script: str | None = None) -> str:
        """Runs a command in a node's container; `script` is its input."""
        data = None if script is None else script.encode()
        return self._docker.run("exec", *(["--interactive"] if data else []), node, *command, data=data)

    def nodes(self) -> list[Node]:
        """The nodes with their networks, once every one has got its own."""

        def complete() -> list[Node]:
            found = [_node(each) for each in self.get("nodes")["items"]]
            return found if len(found) == WORKERS + 1 and all(node.pods for node in found) else []

        return self.wait("every node's pod network", complete)

    def _connect(self) -> None:
        nodes = self.nodes()
        for node in nodes:
            self.exec_in_node(node.name, "bash", "-eu", script=_network(node, nodes))

    def _loaded(self, node: str) -> dict[str, str]:
        """Which images of ours a node has, with docker's ids of them: containerd has ids of its own."""
        said = self._docker.run("exec", node, "cat", _LOADED, check=False)
        return dict(json.loads(said)) if said else {}

    def _node_names(self) -> list[str]:
        label = f"label=io.x-k8s.kind.cluster={NAME}"
        return self._docker.run("ps", "--all", "--filter", label, "--format", "{{.Names}}").split()

    def _run_kind(self, *arguments: str) -> None:
        command = [str(self._kind), *arguments, f"--name={NAME}", f"--kubeconfig={self.kubeconfig}"]
        self._run(command, self._environment())

    def _run(self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
        # A session of its own: what interrupts us must not interrupt kind in the middle of docker's work.
        ended = subprocess.run(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            start_new_session=True,
        )
        if ended.returncode:
            raise ToolError(
                f"{' '.join(command[:3])} ended with {ended.returncode}: {ended.stdout[-_TAIL_CHARACTERS:]}"
            )

    def _environment(self) -> dict[str, str]:
        # kind takes `docker` from PATH
        path = f"{Path(self._docker.command).parent}:{os.environ['PATH']}"
        return {
            **self._docker.environment,
            "PATH": path,
            "KUBECACHEDIR": str(self._folder / "kubectl"),
            "KIND_EXPERIMENTAL_DOCKER_NETWORK": NAME,
        }


def _node(item: Mapping[str, Any]) -> Node:
    addresses = {each["type"]: each["address"] for each in item["status"].get("addresses", [])}
    return Node(item["metadata"]["name"], item["spec"].get("podCIDR", ""), addresses.get("InternalIP", ""))


def _configuration() -> object:
    """kind's configuration. JSON is YAML as well."""
    kubelet = {"kind": "KubeletConfiguration", "failCgroupV1": False}  # not every machine has the second version
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": NAME,
        "kubeadmConfigPatches": [json.dumps(kubelet)],
        "networking": {
            "ipFamily": "ipv4",
            "apiServerAddress": "127.0.0.1",
            "disableDefaultCNI": True,
            "kubeProxyMode": "iptables",
            "podSubnet": _POD_NETWORK,
            "serviceSubnet": _SERVICE_NETWORK,
        },
        "nodes": [{"role": "control-plane"}, *({"role": "worker"} for _ in range(WORKERS))],
    }


def _network(node: Node, nodes: Sequence[Node]) -> str:
    """A script that gives a node its pod network: a plugin's configuration, routes to the others', a way to the nodes.

    Pods reach pods and nodes, and nothing outside. The address of a Service that the node does not know yet would be
    outside too: a connection to whoever answers there stays open, and goes on failing when the Service is known.

    It also mounts what a node's systemd would, were it not in a container: the kernel's tracing files.
    """
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/cni-ipam-state",
            "routes": [{"dst": _CONTAINER_ROUTE}],
            "ranges": [[{"subnet": node.pods}]],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    plugins = {"cniVersion": "0.4.0", "name": NAME, "plugins": [plugin, ports]}
    away = f"POSTROUTING --source {node.pods} ! --destination {_POD_NETWORK} --jump MASQUERADE"
    inside = [_POD_NETWORK, *(other.address for other in nodes)]
    return "\n".join(
        [
            *(f"ip route replace {other.pods} via {other.address}" for other in nodes if other != node),
            f"iptables --table nat --check {away} 2>/dev/null || iptables --table nat --append {away}",
            f"iptables --new-chain {_CHAIN}",
            *(f"iptables --append {_CHAIN} --destination {place} --jump RETURN" for place in inside),
            f"iptables --append {_CHAIN} --jump REJECT",
            f"iptables --insert FORWARD --source {node.pods} --jump {_CHAIN}",
            "mountpoint -q /sys/kernel/tracing || mount -t tracefs nodev /sys/kernel/tracing",
            f"cat > /etc/cni/net.d/10-{NAME}.conflist <<'END'",
            json.dumps(plugins),
            "END",
            "",
        ]
    )
