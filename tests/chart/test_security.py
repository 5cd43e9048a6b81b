# SPDX-License-Identifier: Apache-2.0
"""What the pods may do: no more than they need, by the manifest and by the API server's own Pod Security."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.guard.capabilities import NEEDS
from tests.support.cluster import Cluster
from tests.support.helm import NAMESPACE, VALUE_SETS, Helm, Object, find, pod_of

SETS = [pytest.param(path, id=path.name.removesuffix("-values.yaml")) for path in VALUE_SETS]


def agent_security(objects: list[Object]) -> dict[str, Any]:
    """The security context of the agent's container."""
    (container,) = find(objects, "DaemonSet", "-agent")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container["securityContext"]
    return found


def test_agent_has_the_capabilities_that_it_asks_for_and_no_other(plain: list[Object]) -> None:
    """Those of its own list, which `kernelspan check` goes by too; all others are dropped."""
    security = agent_security(plain)
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["capabilities"]["add"] == [need.name.removeprefix("CAP_") for need in NEEDS]
    assert security["privileged"] is False
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True


def test_sys_admin_stands_for_what_it_includes(helm: Helm) -> None:
    """Where BPF and PERFMON are not known; what is said to have it in its stead is left out."""
    added = agent_security(helm.render("--set=agent.sysAdmin=true"))["capabilities"]["add"]
    assert added == ["SYS_ADMIN", *[need.name[4:] for need in NEEDS if need.instead != "CAP_SYS_ADMIN"]]


def test_privileged_is_only_a_switch(helm: Helm, plain: list[Object]) -> None:
    """No set of values but the one that says so has a privileged container; nothing else of the kind is asked for."""
    for path in VALUE_SETS:
        for obj in helm.render(f"--values={path}"):
            for container in (pod_of(obj) or {"containers": []})["containers"]:
                privileged = container["securityContext"].get("privileged", False)
                assert privileged is (path.name.startswith("privileged") and container["name"] == "agent")
    pod = pod_of(find(plain, "DaemonSet", "-agent"))
    assert pod is not None
    assert {key for key in pod if key.startswith("host")} == {"hostPID"}
    paths = {one["hostPath"]["path"] for one in pod["volumes"] if "hostPath" in one}
    assert paths == {"/var/lib/kernelspan", "/sys/kernel/tracing"}


def test_every_capability_has_its_reason_beside_it(helm: Helm) -> None:
    """A reviewer of the rendered DaemonSet need not look elsewhere."""
    lines = helm.text("--show-only=templates/agent/daemonset.yaml").partition("            add:\n")[2].splitlines()
    added = [line.strip() for line in lines if line.startswith("            - ")][: len(NEEDS)]
    assert [line for line in added if " # " not in line] == []
    assert len(added) == len(NEEDS)


@pytest.mark.parametrize("values", SETS)
def test_agents_account_is_bound_to_nothing(helm: Helm, values: Path) -> None:
    """No binding names it; its pods mount the operator's token and no other."""
    objects = helm.render(f"--values={values}")
    agent = find(objects, "ServiceAccount", "-agent")
    assert agent["automountServiceAccountToken"] is False
    bindings = [one for one in objects if one["kind"].endswith("Binding")]
    subjects = {(subject["kind"], subject["name"]) for one in bindings for subject in one["subjects"]}
    operator = find(objects, "ServiceAccount", "-operator")["metadata"]["name"]
    assert subjects <= {("ServiceAccount", operator)}
    pod = pod_of(find(objects, "DaemonSet", "-agent"))
    assert pod is not None
    assert pod["serviceAccountName"] == agent["metadata"]["name"]
    tokens = [source for one in pod["volumes"] if "projected" in one for source in one["projected"]["sources"]]
    assert [one["serviceAccountToken"]["audience"] for one in tokens] == ["kernelspan-operator"]


@pytest.mark.parametrize("values", SETS)
def test_all_but_agents_are_restricted_pods(helm: Helm, plane: Cluster, values: Path) -> None:
    """The API server itself says so: a namespace of Pod Security "restricted" takes them, and not the agents."""
    _namespace(plane, "restricted", "restricted")
    pods = _pods(helm.render(f"--values={values}"))
    refused = {name for name, pod in pods.items() if not _takes(plane, "restricted", name, pod)}
    assert refused == {name for name in pods if name.endswith("-agent")}
    assert refused


@pytest.mark.parametrize("values", SETS)
def test_agents_need_a_privileged_namespace(helm: Helm, plane: Cluster, values: Path) -> None:
    """As the notes say: "baseline" is not enough, "privileged" is."""
    for level, expected in (("baseline", False), ("privileged", True)):
        _namespace(plane, level, level)
        (pod,) = [pod for name, pod in _pods(helm.render(f"--values={values}")).items() if name.endswith("-agent")]
        assert _takes(plane, level, "agent", pod) is expected


def _pods(objects: list[Object]) -> dict[str, Object]:
    return {one["metadata"]["name"]: pod for one in objects if (pod := pod_of(one))}


def _namespace(plane: Cluster, name: str, level: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level}
    body = {"metadata": {"name": name, "labels": labels}}
    if plane.request("POST", "/api/v1/namespaces", body).status == 201:
        plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=60s")


def _takes(plane: Cluster, namespace: str, name: str, pod: Object) -> bool:
    """Whether the API server would make it there; what it may refuse it for is Pod Security alone."""
    spec = {key: value for key, value in pod.items() if key not in {"serviceAccountName", "priorityClassName"}}
    body = {"metadata": {"name": name}, "spec": {**spec, "restartPolicy": "Never"}}
    answer = plane.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body)
    assert answer.status in {201, 403}, answer
    assert answer.status == 201 or "violates PodSecurity" in answer.body["message"], answer
    return answer.status == 201


def test_appearance_under_the_linux_security_modules(helm: Helm, plain: list[Object]) -> None:
    """AppArmor and SELinux as fields, that can be another profile's or left out."""
    security = agent_security(plain)
    assert security["appArmorProfile"] == {"type": "Unconfined"}
    assert security["seLinuxOptions"] == {"type": "spc_t"}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    options = "agent.appArmorProfile=mine,agent.seLinuxOptions=null,agent.seccompProfile.type=Unconfined"
    other = agent_security(helm.render(f"--set={options}"))
    assert other["appArmorProfile"] == {"type": "Localhost", "localhostProfile": "mine"}
    assert "seLinuxOptions" not in other
    assert other["seccompProfile"] == {"type": "Unconfined"}
    assert "appArmorProfile" not in agent_security(helm.render("--set=agent.appArmorProfile="))


def test_openshift_constraints_allow_what_the_agent_asks_for(helm: Helm) -> None:
    """No more, and no less: both are made of one list; no user id is asked for that OpenShift would refuse."""
    for more in ("", ",agent.sysAdmin=true,agent.extraCapabilities={SYSLOG}", ",agent.privileged=true"):
        objects = helm.render(f"--set=openshift.enabled=true,jaeger.enabled=true{more}")
        allowed = find(objects, "SecurityContextConstraints", "-agent")
        security = agent_security(objects)
        assert allowed["users"] == [f"system:serviceaccount:{NAMESPACE}:kernelspan-agent"]
        assert allowed["allowedCapabilities"] == security.get("capabilities", {}).get("add", [])
        assert allowed["allowPrivilegedContainer"] is security["privileged"]
        assert allowed["allowPrivilegeEscalation"] is security.get("allowPrivilegeEscalation", True)
        pod = pod_of(find(objects, "DaemonSet", "-agent"))
        assert pod is not None
        volumes = {key for one in pod["volumes"] for key in one if key != "name"}
        assert volumes <= set(allowed["volumes"])
        for name in ("-operator", "-jaeger", "-collector"):
            other = pod_of(find(objects, "Deployment", name))
            assert other is not None
            assert "runAsUser" not in other["securityContext"]
