# SPDX-License-Identifier: Apache-2.0
"""Secrets for exporters: only released ones, only of the profile's namespace, only to nodes that run the profile."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
import trustme

from tests.support.agents import Agent
from tests.support.operators import OWN, SECRET_RULES, Kubernetes, Operator, grant, profile_path

SPACE, CLOSED = "exporting", "closed"
POLICY = {"endpoints": ["https://*.tenants.test:4317", "https://otlp.test/*"]}
ENDPOINT = "https://shop.tenants.test:4317"
LABELS = {"kernelspan.io/exporter": "true"}
SECRETS = f"/api/v1/namespaces/{SPACE}/secrets"


@pytest.fixture(scope="module")
def agents(kubernetes: Kubernetes, operator: Operator) -> Iterator[tuple[Agent, Agent]]:
    """Agents of two nodes; a pod on the first."""
    for name in (SPACE, CLOSED):
        kubernetes.namespace(name)
    for name in (SPACE, OWN):
        grant(kubernetes, name, "kernelspan-secrets", SECRET_RULES)
    kubernetes.node("sec-1")
    kubernetes.node("sec-2")
    kubernetes.pod(SPACE, "a", "sec-1", {"app": "a"})
    kubernetes.pod(SPACE, "b", "sec-2", {"app": "b"})
    with Agent(operator, "sec-1") as first, Agent(operator, "sec-2") as second:
        yield first, second


@pytest.fixture(autouse=True)
def tidy(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> Iterator[None]:
    """Each test begins with no profile and no Secret."""
    yield
    for name in ("", SPACE, CLOSED):
        kubernetes.cluster.request("DELETE", profile_path(name))
    for name in (SPACE, CLOSED):
        kubernetes.cluster.request("DELETE", f"/api/v1/namespaces/{name}/secrets")
    for agent in agents:
        agent.until_names({})


def secret(kubernetes: Kubernetes, name: str, data: dict[str, bytes], namespace: str = SPACE, **labels: str) -> None:
    """A Secret; released if nothing is said."""
    body = {
        "metadata": {"name": name, "labels": labels or LABELS},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    kubernetes.ask("POST", f"/api/v1/namespaces/{namespace}/secrets", body)


def export(headers: str = "token", endpoint: str = ENDPOINT, **tls: str) -> dict[str, object]:
    """spec.export with references to Secrets."""
    refs = {key: {"name": name} for key, name in tls.items()}
    found: dict[str, object] = {"endpoint": endpoint}
    if headers:
        found["headersSecretRef"] = {"name": headers}
    if refs:
        found["tls"] = refs
    return {"otlp": found}


def test_headers_reach_the_node_of_the_profile_alone(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Beside the profile, under its uid; no other node hears of them, and the plan of the profile has none of it."""
    first, second = agents
    secret(kubernetes, "token", {"Authorization": b"Bearer s3cret\n", "x-tenant": b"shop"})
    made = kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=export())
    kubernetes.apply(SPACE, "plain", podSelector={"matchLabels": {"app": "b"}})
    plan = first.until_names({"a": {"p"}})
    (found,) = plan.secrets
    assert found.profile_uid == made["metadata"]["uid"]
    assert dict(found.headers) == {"authorization": "Bearer s3cret", "x-tenant": "shop"}
    assert b"s3cret" not in plan.profiles[0].spec
    other = second.until_names({"b": {"plain"}})
    assert not other.secrets
    assert not any(b"s3cret" in one.SerializeToString() for one in second.plans)
    kubernetes.says(SPACE, "p", "True", "Ready")


def test_certificates(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """An authority, and a certificate with its key."""
    first, _ = agents
    authority = trustme.CA()
    issued = authority.issue_cert("agent.test")
    certificate, key = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    secret(kubernetes, "authority", {"ca.crt": authority.cert_pem.bytes()})
    secret(kubernetes, "client", {"tls.crt": certificate, "tls.key": key})
    spec = export("", caSecretRef="authority", certificateSecretRef="client")
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=spec)
    (found,) = first.until_names({"a": {"p"}}).secrets
    assert (found.ca, found.certificate, found.key) == (authority.cert_pem.bytes(), certificate, key)
    assert not found.headers


def test_changed_secret_is_a_new_plan(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """A rotated token reaches the node, by another hash; a Secret that nobody names does not."""
    first, _ = agents
    secret(kubernetes, "token", {"authorization": b"one"})
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=export())
    before = first.until_names({"a": {"p"}})
    secret(kubernetes, "other", {"authorization": b"of no interest"})
    kubernetes.patch(f"{SECRETS}/token", {"stringData": {"authorization": "two"}})
    after = first.until(lambda plan: plan.secrets and plan.secrets[0].headers["authorization"] == "two")
    assert after.hash != before.hash
    assert first.plans.index(after) == first.plans.index(before) + 1


@pytest.mark.parametrize("how", ["not there", "no label", "another label", "another namespace"])
def test_secret_that_is_not_released(kubernetes: Kubernetes, agents: tuple[Agent, Agent], how: str) -> None:
    """The profile waits and says what to do; nothing of it is traced until it is done."""
    first, _ = agents
    data = {"authorization": b"x"}
    if how == "no label":
        secret(kubernetes, "token", data, kind="of-the-user")
    elif how == "another label":
        secret(kubernetes, "token", data, **{"kernelspan.io/exporter": "yes"})
    elif how == "another namespace":
        secret(kubernetes, "token", data, CLOSED)
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=export())
    message = kubernetes.says(SPACE, "p", "False", "SecretNotAllowed")
    assert "headersSecretRef: there is no Secret token released for exporters" in message
    assert 'label it kernelspan.io/exporter: "true"' in message
    assert kubernetes.condition(SPACE, "p", "Accepted")[:2] == ("False", "SecretNotAllowed")
    kubernetes.apply(SPACE, "other", podSelector={"matchLabels": {"app": "a"}})
    assert not first.until_names({"a": {"other"}}).secrets
    kubernetes.delete(f"{SECRETS}/token")
    secret(kubernetes, "token", data)
    first.until_names({"a": {"p", "other"}})
    kubernetes.says(SPACE, "p", "True", "Ready")


def test_label_that_is_taken_away(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """The owner's word holds from that moment; given again, so does that."""
    first, _ = agents
    secret(kubernetes, "token", {"authorization": b"x"})
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=export())
    first.until_names({"a": {"p"}})
    for label, expected in ((None, {}), ("true", {"a": {"p"}})):
        kubernetes.patch(f"{SECRETS}/token", {"metadata": {"labels": {"kernelspan.io/exporter": label}}})
        first.until_names(expected)


@pytest.mark.parametrize(
    ("data", "spec", "message"),
    [
        ({}, export(), "it has no entry"),
        ({"authorization": b"two\nlines"}, export(), "the value of authorization must be one line"),
        ({"authorization": b""}, export(), "the value of authorization must be one line"),
        ({"authorization": "ключ".encode()}, export(), "the value of authorization must be one line"),
        ({"a": b"1", "A": b"2"}, export(), "a stands there twice"),
        ({"Content-Type": b"text/html"}, export(), "Content-Type cannot be the name of a header"),
        ({"grpc-timeout": b"1"}, export(), "grpc-timeout cannot be the name of a header"),
        ({"a": b"x" * 9000}, export(), "its headers are more than 8192 bytes"),
        ({"wrong": b"x"}, export("", caSecretRef="token"), "ca.crt must be there"),
        ({"ca.crt": b"x"}, export("", caSecretRef="token"), "ca.crt must be certificates in PEM"),
        ({"tls.crt": b"x"}, export("", certificateSecretRef="token"), "tls.crt and tls.key must be there"),
        (
            {"tls.crt": trustme.CA().cert_pem.bytes(), "tls.key": b"x"},
            export("", certificateSecretRef="token"),
            "tls.key must be a private key in PEM",
        ),
        (
            {"tls.crt": trustme.CA().cert_pem.bytes(), "tls.key": trustme.CA().private_key_pem.bytes()},
            export("", certificateSecretRef="token"),
            "tls.key is not the key of tls.crt",
        ),
    ],
)
def test_secret_of_no_use(
    kubernetes: Kubernetes, agents: tuple[Agent, Agent], data: dict[str, bytes], spec: dict[str, object], message: str
) -> None:
    """Says which entry and why, never what is in it; the profile is not sent with half of it."""
    first, _ = agents
    secret(kubernetes, "token", data)
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=spec)
    said = kubernetes.says(SPACE, "p", "False", "SecretNotAllowed")
    assert f"Secret token: {message}" in said
    assert "x" * 100 not in said
    assert first.names() == {}


def test_namespace_whose_secrets_are_closed_to_the_operator(
    kubernetes: Kubernetes, agents: tuple[Agent, Agent]
) -> None:
    """It says which right is missing, others go on, and it goes on by itself once that is given."""
    first, _ = agents
    secret(kubernetes, "token", {"authorization": b"x"}, CLOSED)
    kubernetes.pod(CLOSED, "c", "sec-1")
    kubernetes.apply(CLOSED, "p", export=export())
    said = kubernetes.says(CLOSED, "p", "False", "SecretNotAllowed")
    assert f"may not list Secrets of namespace {CLOSED}" in said
    assert "list and watch on Secrets" in said
    grant(kubernetes, CLOSED, "kernelspan-secrets", SECRET_RULES)
    first.until_names({"c": {"p"}})
    kubernetes.says(CLOSED, "p", "True", "Ready")
    kubernetes.delete(f"/api/v1/namespaces/{CLOSED}/pods/c")


def test_cluster_profile_uses_the_operators_own_namespace(kubernetes: Kubernetes, agents: tuple[Agent, Agent]) -> None:
    """Not that of the pods: else whoever makes one could have any namespace's Secrets sent somewhere."""
    first, _ = agents
    secret(kubernetes, "token", {"authorization": b"of the namespace"})
    selected = {"matchLabels": {"app": "a"}}
    kubernetes.apply("", "p", podSelector=selected, export=export())
    kubernetes.says("", "p", "False", "SecretNotAllowed")
    secret(kubernetes, "token", {"authorization": b"of the operator"}, OWN)
    (found,) = first.until_names({"a": {"p"}}).secrets
    assert found.headers["authorization"] == "of the operator"
    kubernetes.delete(f"/api/v1/namespaces/{OWN}/secrets/token")


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("https://shop.tenants.test:4317", True),
        ("https://a.b.tenants.test:4317", True),
        ("https://otlp.test/v1/traces", True),
        ("", True),  # the chart's own
        ("https://shop.tenants.test:4318", False),
        ("http://shop.tenants.test:4317", False),
        ("https://evil.test/.tenants.test:4317", False),
        ("https://evil.test?.tenants.test:4317", False),
        ("https://evil.test:80/x.tenants.test:4317", False),
        ("https://otlp.test.evil.test/", False),
        ("collector.test:4317", False),
    ],
)
def test_endpoint(kubernetes: Kubernetes, agents: tuple[Agent, Agent], endpoint: str, allowed: bool) -> None:
    """Only where the policy allows; headers never go anywhere else, and the message names what is allowed."""
    first, _ = agents
    secret(kubernetes, "token", {"authorization": b"x"})
    kubernetes.apply(SPACE, "p", podSelector={"matchLabels": {"app": "a"}}, export=export(endpoint=endpoint))
    if allowed:
        first.until_names({"a": {"p"}})
        return
    said = kubernetes.says(SPACE, "p", "False", "ForbiddenByPolicy")
    assert f"{endpoint} is not allowed (allowed: https://*.tenants.test:4317, https://otlp.test/*)" in said
    assert "ask for the entry under `policy`" in said
    assert first.names() == {}


def test_nothing_secret_is_logged(operator: Operator) -> None:
    """At the end of all this."""
    log = operator.log()
    assert not [word for word in ("s3cret", "Bearer", "PRIVATE KEY", "of the operator") if word in log]
