# SPDX-License-Identifier: Apache-2.0
"""How long it takes: from a profile to the plan on every node and to its first span, and until a new pod is traced.

Printed beside the lines that are to be held, never asserted: machines differ.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import yaml

from harness.product import Object, Product, Shop
from tests.support.otlp_json import ReceivedSpan

_PROFILE = Path(__file__).parent / "app/traceprofile.yaml"
_PROFILES = "/apis/kernelspan.io/v1alpha1/namespaces/shop/traceprofiles"
_ROUNDS = 21  # of 20 the 95th percentile is one that was measured
_POLL_SECONDS = 0.02
_HELD, _SPAN, _UNOBSERVED = 1.0, 3.0, 0.2  # seconds: the lines to hold


def test_from_a_profile_to_its_first_span(product: Product, shop: Shop) -> None:
    """Profiles one after another, each new; the first has its programs to compile, the others find them.

    Each agent says in its log when it has taken on a plan, by the one clock that all nodes have here. Ready comes later:
    the status is written once the agents have said that every probe is attached.
    """
    nodes = {pod["spec"]["nodeName"] for pod in shop.pods().values()}
    assert len(nodes) == 2
    held, ready, first = [], [], []
    for number in range(_ROUNDS):
        document = yaml.safe_load(_PROFILE.read_text("utf-8"))
        document["metadata"]["name"] = f"figure-{number}"
        document["spec"]["resourceAttributes"] = {"figure": str(number)}
        with _applied(product, document) as applied:
            ready.append(_seconds(applied, partial(_is_ready, product, document)))
            first.append(_seconds(applied, partial(_spans, product, applied, number)))
            followed = [_followed(product, node, applied) for node in nodes]
            held.append(max(followed) - applied)
    product.say(f"figure: from the profile to all agents holding the plan, {_told(held, _HELD)}")
    product.say(f"figure: from the profile to Ready, {_told(ready)}")
    product.say(f"figure: from the profile to the first span at Jaeger, {_told(first, _SPAN)}")
    for node, pod in product.agents().items():
        resident, anonymous = _memory(product, node, pod)
        product.say(f"figure: agent on {node}, {resident:.0f} MiB resident, of it anonymous {anonymous:.0f}")


def test_how_long_new_pods_run_unobserved(product: Product, shop: Shop) -> None:
    """Both pods are replaced, again and again; of each that is new its node's agent says it, once."""
    unobserved = []
    with product.profile(yaml.safe_load(_PROFILE.read_text("utf-8"))):
        for _ in range(math.ceil(_ROUNDS / 2)):
            before = set(shop.pods())
            product.cluster.kubectl("-n", "shop", "delete", "pod", "-l", "app=shop", "--wait=false")
            names = product.cluster.wait("new pods", partial(_new, shop, before))
            for name in names:
                node = shop.pods()[name]["spec"]["nodeName"]
                look = partial(_logged, product, node, "pod.traced", pod=f"shop/{name}")
                (said,) = product.cluster.wait("what its agent says of it", look)
                unobserved.append(said["unobserved_ms"] / 1000)
    assert len(unobserved) >= _ROUNDS
    product.say(f"figure: a new pod ran unobserved, {_told(unobserved, _UNOBSERVED)}")


def _new(shop: Shop, before: set[str]) -> set[str]:
    """The pods that have come, once they are as many as there were before and all are ready."""
    pods = shop.pods()
    states = [pod["status"].get("containerStatuses", [{"ready": False}]) for pod in pods.values()]
    ready = all(one["ready"] for each in states for one in each)
    return set(pods) if ready and len(pods) == len(before) and not set(pods) & before else set()


def _followed(product: Product, node: str, since: float) -> float:
    """When a node's agent had taken on the first plan since then that has a profile in it, in seconds of the epoch."""

    def look() -> list[float]:
        lines = _logged(product, node, "plan.followed")
        times = [datetime.fromisoformat(one["time"]).timestamp() for one in lines if one["profiles"]]
        return [one for one in times if one >= since - 0.001]  # the log has milliseconds

    return min(product.cluster.wait(f"the plan to be followed on {node}", look))


def _logged(product: Product, node: str, event: str, **fields: object) -> list[Object]:
    """What a node's agent logged of the last minutes."""
    name = product.agents()[node]["metadata"]["name"]
    lines = [json.loads(line) for line in product.kubectl("logs", name, "--since=180s").splitlines()]
    wanted = {"event": event, **fields}
    return [line for line in lines if wanted.items() <= line.items()]


def _memory(product: Product, node: str, pod: Object) -> tuple[float, float]:
    """A pod's first container's resident memory, and its own: without files (the ring is one, twice). By the node's /proc."""
    number = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    script = f"grep -l {number} /proc/[0-9]*/cgroup 2>/dev/null | sed 's/cgroup/status/' | xargs cat"
    lines = [line.split() for line in product.cluster.exec_in_node(node, "sh", "-c", script).splitlines()]
    resident, anonymous = (sum(int(line[1]) for line in lines if line[0] == what) for what in ("VmRSS:", "RssAnon:"))
    return resident / 1024, anonymous / 1024


@contextlib.contextmanager
def _applied(product: Product, document: Object) -> Iterator[float]:
    """The profile as long as the block lasts; when the request that makes it began, in seconds of the epoch."""
    began = time.time()
    status, body = product.api.call("POST", _PROFILES, document)
    assert status == 201, body
    try:
        yield began
    finally:
        product.cluster.kubectl("-n", "shop", "delete", "tprof", document["metadata"]["name"])


def _seconds(since: float, look: Callable[[], object]) -> float:
    while not look():
        assert time.time() - since < 60.0
        time.sleep(_POLL_SECONDS)
    return time.time() - since


def _is_ready(product: Product, document: Object) -> bool:
    status = json.loads(product.api.get(f"{_PROFILES}/{document['metadata']['name']}")[1]).get("status", {})
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))


def _spans(product: Product, since: float, number: int) -> list[ReceivedSpan]:
    """A few of the round's spans: the answer must not take longer than what is measured."""
    begin = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    traces = product.jaeger.traces("shop", limit=5, since=begin)
    return [span for spans in traces.values() for span in spans if span.resource.get("figure") == str(number)]


def _told(seconds: list[float], line: float = 0.0) -> str:
    """The first by itself; of the others the middle, the 95th percentile and the longest, and whether a line holds."""
    rest = sorted(seconds[1:])
    p95 = rest[math.ceil(0.95 * len(rest)) - 1]
    verdict = f"; line {line:g} s: {'held' if p95 < line else 'NOT held'}" if line else ""
    return (
        f"the first {seconds[0]:.3f} s, then median {statistics.median(rest):.3f} s, p95 {p95:.3f} s, "
        f"longest {rest[-1]:.3f} s of {len(rest)}{verdict}"
    )
