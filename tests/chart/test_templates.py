# SPDX-License-Identifier: Apache-2.0
"""What the chart renders, for every set of values in its ci folder: whole, valid, and nothing by accident."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from kernelspan_agent.cli.agent import command as agent_command
from kernelspan_api import crd
from kernelspan_api.resource import KINDS
from kernelspan_operator.main import command as operator_command
from kernelspan_operator.models.policy import Policy
from tests.support.cluster import Cluster
from tests.support.helm import CHART, NAMESPACE, VALUE_SETS, Helm, Object, find, parse, pod_of

ROOT = CHART.parents[1]
SETS = [pytest.param(path, id=path.name.removesuffix("-values.yaml")) for path in VALUE_SETS]
# What only clusters with an operator of their own know; their definitions are not here.
FOREIGN = {"monitoring.coreos.com/v1", "security.openshift.io/v1"}
CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PriorityClass",
    "SecurityContextConstraints",
}


@pytest.mark.parametrize("values", SETS)
def test_lint_finds_nothing(helm: Helm, values: Path) -> None:
    """`helm lint --strict`: a warning is a failure."""
    said = helm.run("lint", "--strict", CHART, f"--values={values}").stdout
    assert "0 chart(s) failed" in said


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("values", SETS)
def test_an_api_server_takes_every_object(helm: Helm, plane: Cluster, values: Path, tmp_path: Path) -> None:
    """On trial, with unknown and doubled fields refused: by the API server's own types, and by its admission."""
    kept = [text for text in helm.text(f"--values={values}").split("\n---\n") if not _foreign(text)]
    assert len(kept) > 5
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("\n---\n".join(kept), "utf-8")
    ended = plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", str(manifest)
    )
    assert len(ended.stdout.splitlines()) == len(list(parse("\n---\n".join(kept))))
    assert _warnings(ended.stderr) == []


def _foreign(text: str) -> bool:
    return any(one["apiVersion"] in FOREIGN for one in parse(text))


def _warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Warning")]


@pytest.mark.parametrize("values", SETS)
def test_nothing_is_left_open(helm: Helm, values: Path) -> None:
    """No value that was not there, no template that was not run, no image without a version, no account by default."""
    text = helm.text(f"--values={values}")
    ours = re.sub(
        r"\{\{(?: \$labels\.)?\w+ ?\}\}", "", text
    )  # Prometheus' templates in its rules, Grafana's in legends
    assert re.findall(r"\{\{.*|<no value>|<nil>|%!.*", ours) == []
    for obj in parse(text):
        pod = pod_of(obj)
        if pod is None:
            continue
        for container in pod["containers"]:
            assert re.search(r"[^/]:[\w][\w.-]*$|@sha256:[0-9a-f]{64}$", container["image"]), container["image"]
            assert container["imagePullPolicy"]
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == {"memory"}  # of CPU: what is late is lost
        assert pod["automountServiceAccountToken"] is (
            obj["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
        )
        assert pod["enableServiceLinks"] is False


@pytest.mark.parametrize("values", SETS)
def test_every_object_has_its_place_and_its_labels(helm: Helm, values: Path) -> None:
    """Each is of the release's namespace (or of one that the values name), labelled, and there once."""
    objects = helm.render(f"--values={values}")
    keys = [(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in objects]
    assert len(keys) == len(set(keys))
    for obj in objects:
        meta = obj["metadata"]
        assert ("namespace" in meta) is (obj["kind"] not in CLUSTER_WIDE), obj["kind"]
        assert meta.get("namespace", NAMESPACE) in {NAMESPACE, "shop", "pay"}
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "helm.sh/chart"} <= meta["labels"].keys()


def test_every_template_is_rendered_by_some_values(helm: Helm) -> None:
    """What no set of values reaches is tried by nobody."""
    text = "".join(helm.text(f"--values={path}") for path in VALUE_SETS)
    sources = set(re.findall(r"^# Source: kernelspan/(\S+)$", text, re.MULTILINE))
    there = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert there - sources == set()


@pytest.mark.parametrize("values", SETS)
def test_selectors_find_their_own_pods_and_no_others(helm: Helm, values: Path) -> None:
    """Of Deployments, Services and NetworkPolicies: each finds the pods of one component."""
    objects = helm.render(f"--values={values}")
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] in {"Deployment", "DaemonSet"}
    }
    for obj in objects:
        selector = _selector(obj)
        if selector is None:
            continue
        found = [name for name, labels in pods.items() if selector.items() <= labels.items()]
        assert found == [obj["metadata"]["name"]], (obj["kind"], obj["metadata"]["name"])


def _selector(obj: Object) -> dict[str, str] | None:
    spec: dict[str, Any] = obj.get("spec", {})
    if obj["kind"] == "Service":
        return dict(spec["selector"])
    if obj["kind"] in {"Deployment", "DaemonSet"}:
        return dict(spec["selector"]["matchLabels"])
    return dict(spec["podSelector"]["matchLabels"]) if obj["kind"] == "NetworkPolicy" else None


@pytest.mark.parametrize("values", SETS)
def test_ports_lead_somewhere(helm: Helm, values: Path) -> None:
    """A Service's port is one of its pods', a probe's too, and a NetworkPolicy opens what is listened at."""
    objects = helm.render(f"--values={values}")
    ports = {
        one["metadata"]["name"]: {port["name"]: port["containerPort"] for port in container["ports"]}
        for one in objects
        if (pod := pod_of(one)) and one["kind"] != "Pod"
        for container in pod["containers"]
    }
    for obj in objects:
        name = obj["metadata"]["name"]
        if obj["kind"] == "Service":
            assert {port["targetPort"] for port in obj["spec"]["ports"]} <= ports[name].keys()
        if obj["kind"] == "NetworkPolicy":
            opened = {port["port"] for rule in obj["spec"]["ingress"] for port in rule["ports"]}
            assert opened <= set(ports[name].values())
        for container in (pod_of(obj) or {"containers": []})["containers"]:
            probes = [container[key] for key in container if key.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports.get(name, {}).keys()


def test_definitions_are_those_of_the_types(helm: Helm) -> None:
    """Nothing is lost on the way through the template; added are labels and, with crds.keep, the policy."""
    for keep in ("true", "false"):
        objects = helm.render(f"--set=crds.keep={keep}")
        found = {one["metadata"]["name"]: one for one in objects if one["kind"] == "CustomResourceDefinition"}
        for one in found.values():
            assert one["metadata"].pop("labels")
            policy = one["metadata"].pop("annotations", {})
            assert policy == ({"helm.sh/resource-policy": "keep"} if keep == "true" else {})
        expected = [crd.manifest(cls) for cls in KINDS.values()]
        assert found == {one["metadata"]["name"]: one for one in expected}
    kinds = {one["kind"] for one in helm.render("--set=crds.install=false")}
    assert "CustomResourceDefinition" not in kinds


def test_images_are_of_this_version(plain: list[Object]) -> None:
    """The chart's appVersion is the project's version: what `make images` tags them with."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == version
    images = {c["image"] for one in plain for c in (pod_of(one) or {"containers": []})["containers"]}
    assert images == {f"kernelspan/operator:{version}", f"kernelspan/agent:{version}"}


@pytest.mark.parametrize("values", SETS)
def test_programs_take_their_options(helm: Helm, values: Path) -> None:
    """By their own command lines; and what they read and write by default is where something is mounted."""
    objects = helm.render(f"--values={values}")
    (container,) = find(objects, "Deployment", "-operator")["spec"]["template"]["spec"]["containers"]
    operator = operator_command.make_context("kernelspan-operator", list(container["args"]))
    _is_mounted(container, operator.params["policy_path"])
    assert operator.params["agent_service_account"] == find(objects, "ServiceAccount", "-agent")["metadata"]["name"]
    (container,) = find(objects, "DaemonSet", "-agent")["spec"]["template"]["spec"]["containers"]
    name, *options = [option.replace("$(NODE_NAME)", "node-1") for option in container["args"]]
    assert name == agent_command.name
    agent = agent_command.make_context(name, options)
    assert agent.params["node"] == "node-1"
    for path in ("token_path", "ca_path", "state", "secrets"):
        _is_mounted(container, agent.params[path])
    # Agents dial a name that the operator's certificate has, at the port of its Service.
    host, _, port = agent.params["operator_address"].partition(":")
    assert host in operator.params["server_names"]
    service = find(objects, "Service", "-operator")
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert int(port) in {one["port"] for one in service["spec"]["ports"] if one["targetPort"] == "grpc"}
    authority = [one for one in _volumes(objects) if one["name"] == "authority"]
    assert [one["configMap"]["name"] for one in authority] == [operator.params["authority"]]


def _is_mounted(container: Object, path: str) -> None:
    assert any(Path(path).is_relative_to(one["mountPath"]) for one in container["volumeMounts"]), path


def _volumes(objects: list[Object]) -> list[Object]:
    found: list[Object] = find(objects, "DaemonSet", "-agent")["spec"]["template"]["spec"]["volumes"]
    return found


@pytest.mark.parametrize("values", SETS)
def test_every_mount_is_of_a_volume(helm: Helm, values: Path) -> None:
    """And every volume is mounted."""
    for obj in helm.render(f"--values={values}"):
        pod = pod_of(obj) or {"containers": []}
        volumes = {one["name"] for one in pod.get("volumes", ())}
        mounts = {one["name"] for container in pod["containers"] for one in container.get("volumeMounts", ())}
        assert volumes == mounts, obj["metadata"]["name"]


@pytest.mark.parametrize("values", SETS)
def test_policy_is_what_the_operator_reads(helm: Helm, values: Path) -> None:
    """Decoded by the operator's own type, which refuses what it does not know; no switch of it is missing."""
    config = find(helm.render(f"--values={values}"), "ConfigMap", "-policy")
    text = config["data"]["policy.yaml"]
    policy = msgspec.yaml.decode(text, type=Policy)
    assert yaml.safe_load(text).keys() == {field.encode_name for field in msgspec.structs.fields(Policy)}
    if values.name.startswith("everything"):
        assert policy == Policy(
            cluster_profiles=False,
            probes=True,
            raw_statements=True,
            user_probes=True,
            endpoints=("https://other.example.com:4317",),
        )
    else:
        assert policy == Policy()


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("kernelspan", "kernelspan"),
        ("kernelspan-eu", "kernelspan-eu"),
        ("x", "x-kernelspan"),
        ("a" * 53, "a" * 40),
    ],
)
def test_names_follow_the_release(helm: Helm, release: str, name: str) -> None:
    """All begin alike and fit into a label, with the longest release that Helm allows."""
    objects = helm.render("--set=jaeger.enabled=true,policy.secretNamespaces={shop}", release=release)
    names = {one["metadata"]["name"] for one in objects if one["kind"] != "CustomResourceDefinition"}
    assert all(one.startswith(name) and len(one) <= 63 for one in names)


def test_policy_changes_restart_the_operator(helm: Helm) -> None:
    """It reads the file once: another policy is another pod; and nothing else of the chart's is."""

    def annotations(*options: str) -> dict[str, str]:
        found = find(helm.render(*options), "Deployment", "-operator")
        return dict(found["spec"]["template"]["metadata"]["annotations"])

    assert annotations() != annotations("--set=policy.probes=true")
    assert annotations() == annotations("--set=policy.secretNamespaces={shop}")


def test_notes_say_what_to_do_next(releases: Helm) -> None:
    """The profile in them is one that `kernelspan check` takes, and Jaeger's door is named where there is one."""

    def notes(*options: str) -> str:
        client = ["--dry-run=client", "--set=crds.install=false", f"--namespace={NAMESPACE}"]
        ended = releases.run("install", "k", CHART, *client, *options)
        return ended.stdout.partition("\nNOTES:\n")[2]

    text = notes("--set=jaeger.enabled=true")
    manifest = text.partition("<<EOF\n")[2].partition("  EOF\n")[0]
    msgspec.yaml.decode(manifest, type=KINDS["TraceProfile"])
    assert "port-forward service/k-kernelspan-jaeger 16686" in text
    assert "WARNING" not in text
    assert "WARNING: there is no otlp.endpoint" in notes()
    assert "The traces go to https://c:4317" in notes("--set=otlp.endpoint=https://c:4317")
    assert "WARNING: rbac.create is false" in notes("--set=rbac.create=false")


@pytest.mark.parametrize("values", SETS)
def test_the_oldest_kubernetes_has_every_field(helm: Helm, values: Path) -> None:
    """By the schemas of the version that Chart.yaml names, strictly: what it has no field for it would drop."""
    required = re.search(r">=(\d+\.\d+)\.", yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["kubeVersion"])
    assert required
    checked = 0
    for obj in helm.render(f"--values={values}"):
        if obj["apiVersion"] in FOREIGN or obj["kind"] == "CustomResourceDefinition":  # its schema may hold anything
            continue
        assert kubernetes_validate.validate(obj, required[1], strict=True) == required[1]
        checked += 1
    assert checked > 5
