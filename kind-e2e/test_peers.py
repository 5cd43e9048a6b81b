# SPDX-License-Identifier: Apache-2.0
"""Requests between pods of different nodes, through Services: the agents of both make one trace of them, as Jaeger shows it.

The visitor asks the shop, on both workers, and the shop asks for prices, on one. Which request is which is known by its path,
its client's address and its time: no pod has two of one path under way.
"""

from __future__ import annotations

import time
from collections import Counter

import pytest

from harness.product import Product, Shop
from tests.support.otlp_json import ReceivedSpan

_PROFILE = {
    "apiVersion": "kernelspan.io/v1alpha1",
    "kind": "TraceProfile",
    "metadata": {"name": "requests", "namespace": "shop"},
    "spec": {"podSelector": {}, "requests": [{"protocol": "HTTP"}]},
}
_SECONDS = 120.0
_EACH = 5  # requests from each node


@pytest.fixture(scope="module")
def spans(product: Product, shop: Shop) -> list[ReceivedSpan]:
    """Of all three services, when each node's shop was seen to ask for prices often enough."""
    wanted = {pod["spec"]["nodeName"] for pod in shop.pods().values()}
    with product.profile(_PROFILE):
        since, found = time.time(), list[ReceivedSpan]()
        deadline = since + _SECONDS
        while True:
            found = [span for service in ("visitor", "shop", "prices") for span in product.spans(service, since)]
            asked = Counter(parent.resource["k8s.node.name"] for _, parent in _joined(found, "prices"))
            if all(asked[node] >= _EACH for node in wanted):
                return found
            assert time.time() < deadline, (
                asked,
                Counter((span.resource["service.name"], span.kind) for span in found),
            )
            time.sleep(1)


def _joined(spans: list[ReceivedSpan], service: str) -> list[tuple[ReceivedSpan, ReceivedSpan]]:
    """The requests that a service received and that have a parent which was found, with it."""
    by_id = {span.span_id: span for span in spans}
    received = (span for span in spans if span.kind == "SERVER" and span.resource["service.name"] == service)
    return [(span, by_id[span.parent_span_id]) for span in received if span.parent_span_id in by_id]


@pytest.mark.parametrize(("service", "asks"), [("prices", "shop"), ("shop", "visitor")])
def test_a_request_received_is_below_the_one_that_was_sent(
    spans: list[ReceivedSpan], shop: Shop, service: str, asks: str
) -> None:
    """The same request, in one trace, on whichever node its pods are; none is below another."""
    addresses = {name: pod["status"]["podIP"] for name, pod in shop.pods(asks).items()}
    found = _joined(spans, service)
    assert found
    for received, sent in found:
        assert (sent.kind, sent.resource["service.name"], sent.trace_id) == ("CLIENT", asks, received.trace_id)
        assert str(sent.attributes["url.full"]).endswith(str(received.attributes["url.path"]))
        assert addresses[str(sent.resource["k8s.pod.name"])] == received.attributes["client.address"]
        assert sent.start_ns <= received.start_ns <= sent.end_ns
        is_other = sent.resource["k8s.node.name"] != received.resource["k8s.node.name"]
        assert received.attributes.get("kernelspan.joined") == ("Peer" if is_other else None)


def test_some_are_of_two_nodes_and_some_of_one(spans: list[ReceivedSpan]) -> None:
    """As the fixture has waited for: the prices' node asks as well as the other."""
    nodes = Counter(received.attributes.get("kernelspan.joined") for received, _ in _joined(spans, "prices"))
    assert nodes["Peer"] >= _EACH
    assert nodes[None] >= _EACH
