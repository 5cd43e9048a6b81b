# SPDX-License-Identifier: Apache-2.0
"""Who may connect to whom, by the network policies as Kubernetes defines them; pods of the release and a stranger."""

from __future__ import annotations

import pytest

from tests.support.helm import Helm, Object, find

Labels = dict[str, str]
BASE = "--set=jaeger.enabled=true"
STRANGER = {"app": "other"}


def pods(objects: list[Object]) -> dict[str, Labels]:
    """Labels by component, with a pod of the same namespace that is none of ours."""
    found = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] in {"Deployment", "DaemonSet"}
    }
    return found | {"test": find(objects, "Pod", "-test")["metadata"]["labels"], "stranger": STRANGER}


def may_connect(objects: list[Object], client: Labels, server: Labels, port: int) -> bool:
    """NetworkPolicyIngressRule: whatever one of the policies that select the server allows; all, if none selects it."""
    policies = [
        one["spec"]
        for one in objects
        if one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"]["matchLabels"].items() <= server.items()
    ]
    assert all(policy["policyTypes"] == ["Ingress"] for policy in policies)
    rules = [rule for policy in policies for rule in policy["ingress"]]
    return not policies or any(
        port in {each["port"] for each in rule["ports"]} and ("from" not in rule or _is_peer(rule["from"], client))
        for rule in rules
    )


def _is_peer(peers: list[Object], client: Labels) -> bool:
    """Only peers of the same namespace; the others are of no pod here."""
    selectors = [peer["podSelector"] for peer in peers if peer.keys() == {"podSelector"}]
    return any(selector.get("matchLabels", {}).items() <= client.items() for selector in selectors)


@pytest.mark.parametrize(
    ("server", "port", "clients"),
    [
        ("operator", 8443, {"agent"}),
        ("operator", 8080, {"agent", "operator", "collector", "jaeger", "test", "stranger"}),
        ("agent", 9465, {"agent", "operator", "collector", "jaeger", "test", "stranger"}),
        ("agent", 9475, {"agent"}),
        ("agent", 8443, set()),
        ("collector", 4317, {"agent", "operator"}),
        ("collector", 4318, {"agent", "operator"}),
        ("jaeger", 4317, {"collector"}),
        ("jaeger", 16686, set()),
        ("jaeger", 16685, set()),
    ],
)
def test_who_may_connect(helm: Helm, server: str, port: int, clients: set[str]) -> None:
    """Without another word of the user's."""
    objects = helm.render(BASE)
    there = pods(objects)
    assert {name for name in there if may_connect(objects, there[name], there[server], port)} == clients


def test_user_may_let_others_in(helm: Helm) -> None:
    """Metrics for some only, and `helm test` still; Jaeger's pages and the collector for who is named."""
    peer = "[0].podSelector.matchLabels.app=other"
    opened = ",".join(f"networkPolicy.{name}{peer}" for name in ("metricsFrom", "jaegerFrom", "collectorFrom"))
    objects = helm.render(BASE, f"--set={opened}")
    there = pods(objects)

    def clients(server: str, port: int) -> set[str]:
        return {name for name in there if may_connect(objects, there[name], there[server], port)}

    assert clients("operator", 8080) == {"stranger", "test"}
    assert clients("agent", 9465) == {"stranger"}
    assert clients("operator", 8443) == {"agent"}
    assert clients("jaeger", 16686) == {"stranger"}
    assert clients("jaeger", 4317) == {"collector"}
    assert clients("collector", 4317) == {"agent", "operator", "stranger"}


def test_without_policies_everybody_may(helm: Helm) -> None:
    """networkPolicy.enabled=false makes none."""
    objects = helm.render(BASE, "--set=networkPolicy.enabled=false")
    assert not [one for one in objects if one["kind"] == "NetworkPolicy"]
