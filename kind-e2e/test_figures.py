# SPDX-License-Identifier: Apache-2.0
"""How long it takes from a profile to its first span, as a user would wait. Printed, never asserted: machines differ."""

from __future__ import annotations

import contextlib
import json
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
_ROUNDS = 10
_POLL_SECONDS = 0.02


def test_from_a_profile_to_its_first_span(product: Product, shop: Shop) -> None:
    """Profiles one after another, each new; the first has its programs to compile, the others find them."""
    assert shop.pods()
    ready, first = [], []
    for number in range(_ROUNDS):
        document = yaml.safe_load(_PROFILE.read_text("utf-8"))
        document["metadata"]["name"] = f"figure-{number}"
        document["spec"]["resourceAttributes"] = {"figure": str(number)}
        with _applied(product, document):
            applied = time.time()
            ready.append(_seconds(applied, partial(_is_ready, product, document)))
            first.append(_seconds(applied, partial(_spans, product, applied, number)))
    product.say(f"figure: from the profile to Ready, {_told(ready)}")
    product.say(f"figure: from the profile to the first span at Jaeger, {_told(first)}")
    for node, pod in product.agents().items():
        product.say(f"figure: agent on {node}, {_memory(product, node, pod):.0f} MiB resident")


def _memory(product: Product, node: str, pod: Object) -> float:
    """The resident memory of a pod's first container, by the node's /proc."""
    number = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    script = f"grep -l {number} /proc/[0-9]*/cgroup 2>/dev/null | sed 's/cgroup/status/' | xargs cat | grep ^VmRSS"
    lines = product.cluster.exec_in_node(node, "sh", "-c", script).splitlines()
    return sum(int(line.split()[1]) for line in lines) / 1024


@contextlib.contextmanager
def _applied(product: Product, document: Object) -> Iterator[None]:
    product.cluster.apply(document)
    try:
        yield
    finally:
        product.cluster.kubectl("-n", "shop", "delete", "tprof", document["metadata"]["name"])


def _seconds(since: float, look: Callable[[], object]) -> float:
    while not look():
        assert time.time() - since < 60.0
        time.sleep(_POLL_SECONDS)
    return time.time() - since


def _is_ready(product: Product, document: Object) -> bool:
    path = f"/apis/kernelspan.io/v1alpha1/namespaces/shop/traceprofiles/{document['metadata']['name']}"
    status = json.loads(product.api.get(path)[1]).get("status", {})
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))


def _spans(product: Product, since: float, number: int) -> list[ReceivedSpan]:
    """A few of the round's spans: the answer must not take longer than what is measured."""
    begin = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    traces = product.jaeger.traces("shop", limit=5, since=begin)
    return [span for spans in traces.values() for span in spans if span.resource.get("figure") == str(number)]


def _told(seconds: list[float]) -> str:
    rest = sorted(seconds[1:])
    return f"the first {seconds[0]:.2f} s, then median {statistics.median(rest):.2f} s, longest {rest[-1]:.2f} s of {len(rest)}"
