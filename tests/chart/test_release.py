# SPDX-License-Identifier: Apache-2.0
"""Releases in a real API server: installed, upgraded, uninstalled; and what stays behind."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from kernelspan_api.resource import API_VERSION
from tests.support.cluster import Cluster
from tests.support.helm import CHART, DEFINITIONS, NAMESPACE, RELEASE, Helm, served
from tests.support.operators import eventually
from tests.support.server import ServerError

IN = f"--namespace={NAMESPACE}"
PROFILE = {
    "apiVersion": API_VERSION,
    "kind": "TraceProfile",
    "metadata": {"name": "x"},
    "spec": {"podSelector": {}, "files": {}},
}
PROFILES = f"/apis/{API_VERSION}/namespaces/shop/traceprofiles"


@pytest.fixture
def empty(releases: Helm, plane: Cluster) -> Iterator[Helm]:
    """A cluster that has never heard of us, before and after."""
    _clear(releases, plane)
    yield releases
    _clear(releases, plane)


def _clear(releases: Helm, plane: Cluster) -> None:
    releases.run("uninstall", RELEASE, IN, "--ignore-not-found", "--wait")
    try:
        plane.kubectl("delete", "crd", "--ignore-not-found", "--timeout=110s", *DEFINITIONS)
    except ServerError as error:
        conditions = plane.kubectl("get", "crd", "-o", "jsonpath={.items[*].status.conditions}", check=False).stdout
        error.add_note(f"the definitions that are left: {conditions}")
        raise


def test_first_install_brings_everything(empty: Helm, plane: Cluster) -> None:
    """One command on an empty cluster: definitions that can be used, the workloads, and no pod of the test."""
    empty.run("install", RELEASE, CHART, IN, "--set=jaeger.enabled=true")
    served(plane)
    plane.kubectl("create", "--namespace=shop", "-f", "-", document=PROFILE)
    names = plane.kubectl("get", "deploy,ds,svc,cm,sa,netpol", IN, "-o", "name").stdout.split()
    assert {
        "deployment.apps/kernelspan-operator",
        "daemonset.apps/kernelspan-agent",
        "deployment.apps/kernelspan-jaeger",
        "deployment.apps/kernelspan-collector",
        "service/kernelspan-operator",
        "service/kernelspan-jaeger",
    } <= set(names)
    # Made by their controllers, so admitted; the agents' wait for a node.
    expected = ["kernelspan-collector", "kernelspan-jaeger", "kernelspan-operator"]
    eventually(lambda: _pods(plane) == expected)
    hooks = empty.run("get", "hooks", RELEASE, IN).stdout
    assert "helm.sh/hook: test" in hooks


def _pods(plane: Cluster) -> list[str]:
    """By what made them."""
    names = plane.kubectl("get", "pods", IN, "-o", "jsonpath={.items[*].metadata.generateName}").stdout.split()
    return sorted(name.rsplit("-", 2)[0] for name in names)


def test_upgrade_brings_newer_definitions(empty: Helm, plane: Cluster) -> None:
    """What Helm's crds/ folder would not do. Profiles stay, and nothing is made anew."""
    empty.run("install", RELEASE, CHART, IN)
    served(plane)
    assert plane.request("POST", PROFILES, PROFILE).status == 201
    before = plane.request("GET", f"{PROFILES}/x").body["metadata"]["uid"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{DEFINITIONS[0]}"
    # An older chart's definition: without a short name.
    older = [{"op": "remove", "path": "/spec/names/shortNames"}]
    assert plane.request("PATCH", path, older, "application/json-patch+json").status == 200
    uids = _uids(plane)
    empty.run("upgrade", RELEASE, CHART, IN, "--set=policy.probes=true,jaeger.enabled=true")
    assert plane.request("GET", path).body["spec"]["names"]["shortNames"] == ["tprof"]
    assert plane.request("GET", f"{PROFILES}/x").body["metadata"]["uid"] == before
    assert uids.items() <= _uids(plane).items()
    policy = plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/kernelspan-policy").body
    assert "probes: true" in policy["data"]["policy.yaml"]
    empty.run("rollback", RELEASE, "1", IN)
    kinds = plane.kubectl("get", "deploy", IN, "-o", "name").stdout.split()
    assert kinds == ["deployment.apps/kernelspan-operator"]


def _uids(plane: Cluster) -> dict[str, str]:
    text = plane.kubectl("get", "deploy,ds,svc,sa", IN, "-o", "json").stdout
    return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["uid"] for one in json.loads(text)["items"]}


def test_uninstall_leaves_definitions_and_profiles(empty: Helm, plane: Cluster) -> None:
    """With them every profile; all else goes. A new release takes them over as they are."""
    empty.run("install", RELEASE, CHART, IN)
    served(plane)
    assert plane.request("POST", PROFILES, PROFILE).status == 201
    said = empty.run("uninstall", RELEASE, IN, "--wait").stdout
    assert all(name in said for name in DEFINITIONS)
    assert plane.request("GET", f"{PROFILES}/x").status == 200
    assert _left(plane) == []
    empty.run("install", RELEASE, CHART, IN)
    assert plane.request("GET", f"{PROFILES}/x").status == 200


def test_uninstall_takes_all_where_it_is_told(empty: Helm, plane: Cluster) -> None:
    """crds.keep=false: definitions and profiles go with the release."""
    empty.run("install", RELEASE, CHART, IN, "--set=crds.keep=false")
    served(plane)
    assert plane.request("POST", PROFILES, PROFILE).status == 201
    empty.run("uninstall", RELEASE, IN, "--wait")
    plane.kubectl("wait", "--for=delete", *[f"crd/{name}" for name in DEFINITIONS], "--timeout=60s")
    assert _left(plane) == []


def _left(plane: Cluster) -> list[str]:
    """Everything that bears the release's label, in any namespace or none, but definitions."""
    kinds = "deploy,ds,rs,po,svc,cm,secret,sa,role,rolebinding,clusterrole,clusterrolebinding,netpol,priorityclass"
    found = plane.kubectl(
        "get", kinds, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
    ).stdout.split()
    return [name for name in found if not name.startswith(("pod/", "replicaset.apps/"))]  # the garbage collector's


def test_second_release_is_told_about_the_first(empty: Helm) -> None:
    """The definitions are one release's; another one is refused, and can do without."""
    empty.run("install", RELEASE, CHART, IN)
    ended = empty.run("install", "other", CHART, "--namespace=shop", check=False)
    assert "exists and cannot be imported into the current release" in ended.stderr
    empty.run("install", "other", CHART, "--namespace=shop", "--set=crds.install=false")
    empty.run("uninstall", "other", "--namespace=shop", "--wait")


def test_release_fits_into_its_secret(empty: Helm, plane: Cluster) -> None:
    """Helm keeps the whole chart, definitions included, in a Secret of at most 1 MiB: three times what it is now."""
    empty.run("install", RELEASE, CHART, IN, f"--values={CHART / 'ci/jaeger-values.yaml'}")
    secret = plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/sh.helm.release.v1.{RELEASE}.v1").body
    stored = base64.b64decode(secret["data"]["release"])
    assert len(stored) < (1 << 20) / 3
    release: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(stored)))
    files = {one["name"] for one in release["chart"]["files"]}
    assert not [name for name in files if name.startswith("ci/")]


def test_uninstall_leaves_the_authority(empty: Helm, plane: Cluster) -> None:
    """What the operator made is not the release's: agents of a new one trust the same authority."""
    empty.run("install", RELEASE, CHART, IN)
    folder = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    assert plane.request("POST", folder, {"metadata": {"name": "kernelspan-ca"}}).status == 201
    empty.run("uninstall", RELEASE, IN, "--wait")
    assert plane.request("DELETE", f"{folder}/kernelspan-ca").status == 200


def test_roles_of_users_come_with_the_release(empty: Helm, plane: Cluster) -> None:
    """Whoever may view, edit or administrate a namespace may do so with its profiles; a cluster's are another matter."""
    empty.run("install", RELEASE, CHART, IN)
    served(plane)
    for role in ("view", "edit", "admin"):
        plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "--namespace=shop")
    expected = {"view": {"get", "list", "watch"}}
    expected["edit"] = expected["admin"] = {*expected["view"], "create", "update", "patch", "delete"}
    for user, verbs in expected.items():
        eventually(lambda: all(_may(plane, user, verb, "traceprofiles") for verb in verbs))  # noqa: B023 - at once
        for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
            assert _may(plane, user, verb, "traceprofiles") is (verb in verbs), (user, verb)
            assert not _may(plane, user, verb, "clustertraceprofiles")
            assert not _may(plane, user, verb, "traceprofiles/status") or verb == "get"
    plane.kubectl("delete", "rolebinding", *expected, "--namespace=shop")


def _may(plane: Cluster, user: str, verb: str, resource: str) -> bool:
    """By the API server's own review."""
    resource, _, subresource = resource.partition("/")
    attributes = {"group": "kernelspan.io", "resource": resource, "verb": verb}
    if not resource.startswith("cluster"):
        attributes["namespace"] = "shop"
    if subresource:
        attributes["subresource"] = subresource
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    answer = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    assert answer.status == 201, answer
    return bool(answer.body["status"]["allowed"])
