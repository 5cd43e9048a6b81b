# SPDX-License-Identifier: Apache-2.0
"""What goes on while a part of it is gone: the operator, an agent, a container of the application."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.product import AGENTS, Object, Product, Shop

_PROFILE = Path(__file__).parent / "app/traceprofile.yaml"
_OPERATOR = "deployment/kernelspan-operator"
_READY = "--timeout=180s"


@pytest.fixture
def profile(product: Product, shop: Shop) -> Iterator[Object]:
    """The example's profile, ready."""
    assert shop.pods()
    with product.profile(yaml.safe_load(_PROFILE.read_text("utf-8"))) as document:
        yield document


@contextlib.contextmanager
def _no_operator(product: Product) -> Iterator[None]:
    """Nobody plans as long as the block lasts."""
    product.kubectl("scale", _OPERATOR, "--replicas=0")
    product.kubectl("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator", _READY)
    try:
        yield
    finally:
        product.kubectl("scale", _OPERATOR, "--replicas=1")
        product.kubectl("rollout", "status", _OPERATOR, _READY)


def _spans_of_both(product: Product, shop: Shop) -> None:
    """Returns when both pods have made spans from now on."""
    began = time.time()
    for name in shop.pods():
        product.wait_for_spans("shop", began, 20, k8s_pod_name=name)


@pytest.mark.usefixtures("profile")
def test_agents_go_on_without_an_operator(product: Product, shop: Shop) -> None:
    """They trace by the plan that they have, lose nothing, and are traced by it still when the operator is back."""
    before = {node: product.metrics(pod) for node, pod in product.agents().items()}
    with _no_operator(product):
        _spans_of_both(product, shop)
    _spans_of_both(product, shop)
    for node, pod in product.agents().items():
        after = product.metrics(pod)
        dropped = {
            name for name, value in after.items() if "dropped_total" in name and value > before[node].get(name, 0)
        }
        assert dropped == set()


@pytest.mark.usefixtures("profile")
def test_agents_that_restart_without_an_operator(product: Product, shop: Shop) -> None:
    """The plan is on the node's disk: new pods of the agents go on with it."""
    with _no_operator(product):
        product.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=agent")
        # They are not ready without an operator; but they trace.
        _spans_of_both(product, shop)
    product.kubectl("rollout", "status", AGENTS, _READY)


def test_a_profile_that_is_deleted_without_an_operator(product: Product, shop: Shop, profile: Object) -> None:
    """It goes at once, for nothing holds it; the agents follow when an operator is back."""
    with _no_operator(product):
        _spans_of_both(product, shop)
        product.cluster.kubectl("-n", "shop", "delete", "tprof", profile["metadata"]["name"], "--timeout=60s")
    product.cluster.wait(
        "agents to trace nothing",
        lambda: all(not product.metrics(pod).get("kernelspan_processes_traced") for pod in product.agents().values()),
    )


@pytest.mark.usefixtures("profile")
def test_a_container_that_restarts(product: Product, shop: Shop) -> None:
    """The same pod with another container: its spans say which one, and how often it was restarted."""
    name, pod = next(iter(shop.pods().items()))
    before = pod["status"]["containerStatuses"][0]
    product.cluster.kubectl("-n", "shop", "exec", name, "--", "python3", "-c", "import os; os.kill(1, 15)", check=False)

    def restarted() -> Object | None:
        now: Object = shop.pods()[name]["status"]["containerStatuses"][0]
        return now if now["ready"] and now["containerID"] != before["containerID"] else None

    after = product.cluster.wait("another container", restarted)
    assert after
    new, asked = after["containerID"].rpartition("/")[2], time.time()

    def is_named() -> bool:
        """Whether its agent has been told which container it is: the kubelet says so before the operator has."""
        mine = (span.resource for span in product.spans("shop", asked) if span.resource.get("container.id") == new)
        return any("k8s.container.name" in resource for resource in mine)

    product.cluster.wait("the new container's name", is_named)
    began = time.time()
    spans = product.wait_for_spans("shop", began, 20, k8s_pod_name=name)
    assert {span.resource["container.id"] for span in spans} == {new}
    assert {span.resource["k8s.container.restart_count"] for span in spans} == {before["restartCount"] + 1}
