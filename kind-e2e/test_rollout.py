# SPDX-License-Identifier: Apache-2.0
"""A release that is upgraded while it traces: another operator, other agents, the same profile, its spans go on.

Its name puts it before the test that uninstalls the release.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import yaml

from harness.product import AGENTS, Product, Shop
from tests.support.helm import CHART, NAMESPACE, RELEASE

_PROFILE = Path(__file__).parent / "app/traceprofile.yaml"
_OPERATOR = "deployment/kernelspan-operator"
_PARTS = ("operator", "agent")


def test_upgrade_under_load(product: Product, shop: Shop) -> None:
    """Every pod of ours is another one after it, and traces itself; the authority, the profile and the application are as they were."""
    document = yaml.safe_load(_PROFILE.read_text("utf-8"))
    restarts = {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in shop.pods().items()}
    with product.profile(document):
        before = {node: pod["metadata"]["uid"] for node, pod in product.agents().items()}
        authority = product.cluster.get("-n", NAMESPACE, "configmap/kernelspan-ca")["data"]
        uid = product.cluster.get("-n", "shop", "tprof/shop")["metadata"]["uid"]
        rolled = [f"--set-string={part}.podAnnotations.rolled={time.time():.0f}" for part in _PARTS]
        options = ["--reset-then-reuse-values", *rolled, *(f"--set={part}.selfTraces=true" for part in _PARTS)]
        product.helm.run("upgrade", RELEASE, CHART, f"--namespace={NAMESPACE}", *options)
        for workload in (_OPERATOR, AGENTS):
            product.kubectl("rollout", "status", workload, "--timeout=180s")
        after = {node: pod["metadata"]["uid"] for node, pod in product.agents().items()}
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        product.wait_ready(document)
        began = time.time()
        for name in shop.pods():
            product.wait_for_spans("shop", began, 20, k8s_pod_name=name)
        assert product.cluster.get("-n", "shop", "tprof/shop")["metadata"]["uid"] == uid
        assert product.cluster.get("-n", NAMESPACE, "configmap/kernelspan-ca")["data"] == authority
    now = {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in shop.pods().items()}
    assert now == restarts
    _trace_themselves(product)


def _trace_themselves(product: Product) -> None:
    """What the operator did for a change, and each agent for its plan, at the same Jaeger."""
    for part, name in (("operator", "plan.acknowledge"), ("agent", "agent.attach")):
        look = partial(product.jaeger.operations, f"kernelspan-{part}")
        product.cluster.wait(f"what the {part} did", lambda look=look, name=name: name in look())  # type: ignore[misc]
