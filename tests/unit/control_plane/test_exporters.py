# SPDX-License-Identifier: Apache-2.0
"""Where a profile's spans may go, and what of Secrets goes with it."""

from __future__ import annotations

import base64
import json

import pytest

from kernelspan_operator.models.exporter import Needs, held
from kernelspan_operator.models.policy import Policy
from kernelspan_operator.services import making
from kernelspan_operator.services.secrets import REFUSALS_TO_BELIEVE
from tests.support.apiserver import until
from tests.unit.control_plane.cluster import PODS, Cluster, cluster_profile, hash_of, pod, profile, run

SHOP = PODS.format("shop")
SECRETS = "/api/v1/namespaces/{}/secrets"
EXPORT = {"otlp": {"headersSecretRef": {"name": "token"}}}


@pytest.mark.parametrize(
    ("glob", "endpoint", "allowed"),
    [
        ("*", "anything:1", True),
        ("otel.test:4317", "otel.test:4317", True),
        ("otel.test:4317", "OTEL.test:4317", True),
        ("*.test:4317", "a.b.test:4317", True),
        ("*.test:4317", "evil.example:80@a.test:4317", False),
        ("*:4317", "any.where:4317", True),
        ("*:4317", "any.where:43170", False),
        ("https://*.test", "https://a.test", True),
        ("https://*.test", "https://a.test/", False),
        ("https://*.test/*", "https://a.test/v1/traces?x=1", True),
        ("https://*.test", "https://evil.example/.test", False),
        ("https://*.test", "https://evil.example#.test", False),
        ("https://*.test", "https://evil.example\\.test", False),
        ("https://a.test/*", "https://a.testevil.example/x", False),
        ("a+b.test:1", "aab.test:1", False),
        ("", "a.test:1", False),
    ],
)
def test_endpoints(glob: str, endpoint: str, allowed: bool) -> None:
    """A * never leaves the host that it stands in."""
    assert Policy(endpoints=(glob,)).allows_endpoint(endpoint) is allowed


def test_the_charts_own_endpoint_is_always_allowed() -> None:
    """And nothing else is, unless it is said."""
    assert Policy().allows_endpoint("")
    assert not Policy().allows_endpoint("a.test:1")


def test_headers() -> None:
    """Names in lower case, values without the end of a line."""
    found = held(Needs(headers="token"), {"token": {"Authorization": b"Bearer x\r\n"}})
    assert (found.problem, found.headers) == ("", {"authorization": "Bearer x"})


@pytest.mark.parametrize("data", [{}, {"a": b"x\ny"}, {"a": b""}, {"host": b"x"}, {"a": b"\xff"}, {"a": b"x" * 9000}])
def test_headers_of_no_use(data: dict[str, bytes]) -> None:
    """Nothing of them is kept, and nothing of them is said."""
    found = held(Needs(headers="token"), {"token": data})
    assert found.problem.startswith("spec.export.otlp.headersSecretRef: Secret token: ")
    assert not found.headers
    assert "x" * 10 not in found.problem


def secret(value: bytes, name: str = "token") -> dict[str, object]:
    """A released Secret, as JSON."""
    labels = {"kernelspan.io/exporter": "true"}
    data = {"authorization": base64.b64encode(value).decode()}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}, "data": data}


def test_secret_is_part_of_what_is_hashed() -> None:
    """A changed Secret is a new plan, an unlabelled one none; plans are told of, not asked for."""

    async def test(cluster: Cluster) -> None:
        path = SECRETS.format("shop")
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(profile(export=EXPORT))
        await until(lambda: cluster.condition(profile(), "Ready") == ("False", "SecretNotAllowed"))
        assert cluster.names() == []
        hashes = []
        for value in (b"one", b"two"):
            cluster.server.put(path, secret(value))
            await until(
                lambda value=value: [one.headers["authorization"] for one in cluster.plan().secrets] == [value.decode()]
            )
            plan = cluster.plan()
            hashes.append(plan.hash)
            assert plan.hash == hash_of(plan)
            plan.ClearField("secrets")
            assert plan.hash != hash_of(plan)
        assert hashes[0] != hashes[1]
        cluster.server.delete(path, "token")
        await until(lambda: cluster.names() == [])

    run(test)


def test_one_watch_a_namespace() -> None:
    """Only where a profile needs it, with the label as its selector; gone with the last that does."""

    async def test(cluster: Cluster) -> None:
        for name in ("one", "two"):
            cluster.apply(profile(name, export=EXPORT))
        cluster.apply(profile("plain"))
        cluster.apply(cluster_profile(export=EXPORT))
        shop, own = SECRETS.format("shop"), SECRETS.format("kernelspan")
        await until(lambda: all(cluster.condition(profile(name), "Ready")[0] for name in ("one", "two")))
        asked = [
            (path, query.get("labelSelector")) for verb, path, query, _ in cluster.server.requests if verb == "watch"
        ]
        assert sorted(one for one in asked if one[0].endswith("secrets")) == [
            (own, "kernelspan.io/exporter=true"),
            (shop, "kernelspan.io/exporter=true"),
        ]
        before = len(cluster.system.watches)
        cluster.apply(profile("one", generation=2))
        cluster.delete(profile("two"))
        await until(lambda: len(cluster.system.watches) == before - 1)

    run(test)


def test_forbidden_to_read() -> None:
    """After more refusals than an API server that starts gives by mistake; the rest goes on, and it is tried again."""

    async def test(cluster: Cluster) -> None:
        path = SECRETS.format("shop")
        cluster.server.objects[path] = {}
        cluster.server.put(SHOP, pod("a"))
        cluster.server.refuse = lambda _verb, asked: 403 if asked == path else 0
        cluster.apply(profile(export=EXPORT))
        cluster.apply(profile("other"))
        await until(lambda: cluster.names() == [("a", ["other"])])
        await until(lambda: cluster.condition(profile(), "Ready") == ("False", "SecretNotAllowed"))
        assert cluster.server.count("list", path) >= REFUSALS_TO_BELIEVE
        cluster.server.put(path, secret(b"x"))
        cluster.server.refuse = lambda _verb, _path: 0
        await until(lambda: cluster.names() == [("a", ["checkout", "other"])])

    run(test)


def test_a_plan_has_room_for_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is left out as a whole, and its status says so."""
    newer = profile("a-newer", files={"paths": ["/" + "x" * 100]})
    newer["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    older = profile("older", files={"paths": ["/" + "y" * 100]})
    monkeypatch.setattr(making, "MAX_PROFILES_BYTES", len(json.dumps(newer["spec"])) + 50)

    async def test(cluster: Cluster) -> None:
        cluster.server.put(SHOP, pod("a"))
        cluster.apply(newer)
        await until(lambda: cluster.names() == [("a", ["a-newer"])])
        cluster.apply(older)
        await until(lambda: cluster.names() == [("a", ["older"])])
        await until(lambda: cluster.condition(newer, "Ready") == ("False", "TooManyProbes"))
        cluster.delete(older)
        await until(lambda: cluster.names() == [("a", ["a-newer"])])

    run(test)
