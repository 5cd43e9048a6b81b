# SPDX-License-Identifier: Apache-2.0
"""`kernelspan explain --pod`: the ways to an API server, and what is said where there is none or it tells too little."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import BINARIES, Cluster
from tests.support.explaining import asked, explain, kubeconfig_of, objections, of
from tests.support.fixtures import built
from tests.support.operators import Kubernetes, profile_path
from tests.support.tcp_proxy import TcpProxy

SPACE = "access"
POD = f"{SPACE}/a"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
GROUP = "rbac.authorization.k8s.io"
IN_NAMESPACE: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": ["kernelspan.io"], "resources": ["traceprofiles"], "verbs": ["list"]},
]


@pytest.fixture(scope="module", autouse=True)
def pod(kubernetes: Kubernetes) -> Iterator[None]:
    """A pod, and a profile that asks for its node and for a workload."""
    kubernetes.namespace(SPACE)
    kubernetes.node("acc-1", disk="ssd")
    kubernetes.pod(SPACE, "a", "acc-1", {"app": "checkout"})
    kubernetes.apply(SPACE, "p", nodeSelector={"disk": "ssd"})
    kubernetes.apply(SPACE, "w", workloadRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"})
    yield
    kubernetes.cluster.request("DELETE", profile_path(SPACE))
    kubernetes.delete(f"/api/v1/namespaces/{SPACE}/pods/a")
    kubernetes.delete("/api/v1/nodes/acc-1")


@pytest.fixture(scope="module")
def token(kubernetes: Kubernetes) -> str:
    """That of a user with rights in the namespace alone."""
    account = {"kind": "ServiceAccount", "name": "reader", "namespace": SPACE}
    kubernetes.make(f"/api/v1/namespaces/{SPACE}/serviceaccounts", {"metadata": {"name": "reader"}})
    kubernetes.make(f"{ROLES}/namespaces/{SPACE}/roles", {"metadata": {"name": "reader"}, "rules": IN_NAMESPACE})
    ref = {"apiGroup": GROUP, "kind": "Role", "name": "reader"}
    body = {"metadata": {"name": "reader"}, "roleRef": ref, "subjects": [account]}
    kubernetes.make(f"{ROLES}/namespaces/{SPACE}/rolebindings", body)
    return kubernetes.token(SPACE, "reader")


def test_few_rights(kubernetes: Kubernetes, token: str, tmp_path: Path) -> None:
    """What may not be read is named, what depends on it stays unknown, and nothing is advised."""
    config = kubeconfig_of(kubernetes.cluster, tmp_path / "config", {"token": token})
    found = asked(POD, config)
    assert {one["what"] for one in found["notRead"]} == {"ClusterTraceProfiles", "node acc-1", "Deployment web"}
    assert (found["traced"], of(found, "p")["selected"], of(found, "w")["selected"]) == (None, None, None)
    assert objections(found, "p") == {"nodeSelector": ["node acc-1 may not be read by you"]}
    text = explain(POD, config).stdout
    assert "verdict     not known whether it is traced" in text
    assert 'cannot get resource "nodes"' in text


def test_pod_that_may_not_be_read(kubernetes: Kubernetes, token: str, tmp_path: Path) -> None:
    """Another namespace's: 3, and whom to ask for what."""
    config = kubeconfig_of(kubernetes.cluster, tmp_path / "config", {"token": token})
    run = explain("default/a", config)
    assert (run.returncode, run.stdout) == (3, "")
    assert "PermissionDenied" in run.stderr
    assert "kubectl auth can-i get pods -n default" in run.stderr


def test_ways_to_be_known(kubernetes: Kubernetes, token: str, tmp_path: Path) -> None:
    """Certificates in files and inline, a token, a file with one, a plugin that gives one: each reads the pod."""
    cluster = kubernetes.cluster
    admin = yaml.safe_load(cluster.kubeconfig.read_text("utf-8"))
    user, authority = admin["users"][0]["user"], admin["clusters"][0]["cluster"]["certificate-authority"]

    def inline(path: str) -> str:
        return base64.b64encode(Path(path).read_bytes()).decode()

    (tmp_path / "token").write_text(f"{token}\n", "ascii")
    plugin = tmp_path / "plugin"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    plugin.write_text(f"#!/bin/sh\ntest \"$1 $WHO\" = 'get me' && echo '{json.dumps(answer)}'\n", "utf-8")
    plugin.chmod(0o755)
    asks = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin",
        "args": ["get"],
        "env": [{"name": "WHO", "value": "me"}],
        "interactiveMode": "IfAvailable",
    }
    users: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        (user, {}),
        (
            {f"{one}-data": inline(user[one]) for one in ("client-certificate", "client-key")},
            {"certificate-authority-data": inline(authority)},
        ),
        ({"token": token}, {}),
        ({"token": token}, {"certificate-authority": "", "insecure-skip-tls-verify": True}),
        ({"tokenFile": "token"}, {}),
        ({"exec": asks}, {}),
    ]
    for number, (each, more) in enumerate(users):
        config = kubeconfig_of(cluster, tmp_path / f"config-{number}", each, **more)
        assert asked(POD, config)["pod"]["node"] == "acc-1"


def test_another_name_and_a_proxy_that_is_none(kubernetes: Kubernetes, tmp_path: Path) -> None:
    """tls-server-name is what the certificate is checked for; proxy-url is where the connection goes."""
    cluster = kubernetes.cluster
    user = yaml.safe_load(cluster.kubeconfig.read_text("utf-8"))["users"][0]["user"]
    with TcpProxy(int(cluster.url.rpartition(":")[2])) as proxy:
        server = f"https://127.0.0.1:{proxy.port}"
        good = kubeconfig_of(cluster, tmp_path / "good", user, server=server, **{"tls-server-name": "localhost"})
        assert asked(POD, good)["pod"]["node"] == "acc-1"
        bad = kubeconfig_of(cluster, tmp_path / "bad", user, server=server, **{"tls-server-name": "elsewhere"})
        run = explain(POD, bad)
        assert (run.returncode, run.stdout) == (3, "")
        assert "elsewhere" in run.stderr
    gone = kubeconfig_of(cluster, tmp_path / "gone", user, **{"proxy-url": f"http://127.0.0.1:{proxy.port}"})
    run = explain(POD, gone)
    assert (run.returncode, run.stdout) == (3, "")
    assert "ApiServerUnreachable" in run.stderr


def test_kubeconfigs_of_the_environment(kubernetes: Kubernetes, tmp_path: Path) -> None:
    """KUBECONFIG's files are one; else the home's; --context chooses."""
    config = yaml.safe_load(kubernetes.cluster.kubeconfig.read_text("utf-8"))
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(yaml.safe_dump({key: config[key] for key in ("users", "clusters")}), "utf-8")
    second.write_text(yaml.safe_dump({"contexts": config["contexts"]}), "utf-8")
    environment = {"KUBECONFIG": f"{first}:{tmp_path / 'none'}:{second}"}
    assert explain(POD, None, "--context=test", environment=environment).returncode == 0
    run = explain(POD, None, environment=environment)
    assert (run.returncode, run.stdout) == (2, "")
    assert "has no current-context" in run.stderr
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    (home / ".kube" / "config").write_text(yaml.safe_dump(config), "utf-8")
    assert explain(POD, None, environment={"HOME": str(home)}).returncode == 0


@pytest.mark.parametrize(
    ("user", "more", "code", "words"),
    [
        ({"token": "wrong"}, {}, 3, "Unauthorized"),
        ({}, {"server": "https://127.0.0.1:1"}, 3, "ApiServerUnreachable"),
        ({}, {"certificate-authority": ""}, 3, "CERTIFICATE_VERIFY_FAILED"),
        ({"auth-provider": {"name": "x"}}, {}, 2, "auth-provider in a user"),
        ({"as": "someone"}, {}, 2, "as in a user"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/such"}}, {}, 3, "NoCredentials"),
        ({"exec": {"apiVersion": "x/v1", "command": "true"}}, {}, 2, "apiVersion x/v1 is not one of"),
        ({"client-certificate": "/no/such", "client-key": "/no/such"}, {}, 2, "No such file"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_no_way(
    kubernetes: Kubernetes, tmp_path: Path, user: dict[str, Any], more: dict[str, Any], code: int, words: str
) -> None:
    """The reason on standard error, nothing on the other, no traceback."""
    run = explain(POD, kubeconfig_of(kubernetes.cluster, tmp_path / "config", user, **more))
    assert (run.returncode, run.stdout) == (code, "")
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_pod_that_is_not_there(kubernetes: Kubernetes) -> None:
    """2, and how to find it."""
    run = explain(f"{SPACE}/none", kubernetes.cluster.kubeconfig)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"NotFound: there is no pod none in namespace {SPACE}" in run.stderr


def test_cluster_without_our_definitions(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What to install is said."""
    binaries = {name: built(name, "cluster", request) for name in BINARIES}
    with Cluster(binaries, tmp_path / "plane") as plane:
        bare = Kubernetes(plane)
        bare.pod("default", "a")
        found = asked("default/a", plane.kubeconfig)
        assert (found["traced"], found["notRead"]) == (False, [])
        assert "install kernelspan" in found["advice"][0]
        assert "helm install" in explain("default/a", plane.kubeconfig).stdout
