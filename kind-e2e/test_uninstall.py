# SPDX-License-Identifier: Apache-2.0
"""What is left of a release that was uninstalled while it traced: the definitions and the users' profiles, nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import yaml

from harness.product import Product, Shop
from tests.support.helm import NAMESPACE
from tests.support.leftovers import check, descendants, mounts

_PROFILE = Path(__file__).parent / "app/traceprofile.yaml"
_KINDS = "deployments,daemonsets,replicasets,services,pods,serviceaccounts,configmaps,secrets,roles,rolebindings,networkpolicies"
_OF_KUBERNETES = {"serviceaccounts/default", "configmaps/kube-root-ca.crt"}
# The authority is the operator's, not the chart's: the next release goes on with it.
_OF_THE_OPERATOR = {"configmaps/kernelspan-ca", "secrets/kernelspan-ca"}


def test_what_is_left(product: Product, shop: Shop) -> None:
    """Uninstalled under load, with a profile in effect."""
    document = yaml.safe_load(_PROFILE.read_text("utf-8"))
    before = _restarts(shop)
    with product.profile(document):
        began = time.time()
        product.wait_for_spans("shop", began, 50)
        product.uninstall()
        left = product.cluster.get(_KINDS, "-n", NAMESPACE)["items"]
        assert {
            f"{one['kind'].lower()}s/{one['metadata']['name']}" for one in left
        } == _OF_KUBERNETES | _OF_THE_OPERATOR
        everywhere = product.cluster.get("clusterroles,clusterrolebindings,priorityclasses")["items"]
        assert [one["metadata"]["name"] for one in everywhere if "kernelspan" in one["metadata"]["name"]] == []
        assert product.cluster.get("-n", "shop", "tprof/shop")["metadata"]["name"] == "shop"
        _nothing_in_the_kernel(product)
        assert _restarts(shop) == before


def _restarts(shop: Shop) -> dict[str, int]:
    """How often each of the application's containers was restarted, by pod."""
    return {name: pod["status"]["containerStatuses"][0]["restartCount"] for name, pod in shop.pods().items()}


def _nothing_in_the_kernel(product: Product) -> None:
    """No program of ours that nobody holds, and no process of ours on a node."""
    for node in product.cluster.nodes():
        said = product.cluster.exec_in_node(node.name, "sh", "-c", "ps -eo args | grep -c '[/]opt/kernelspan' || true")
        assert said == "0"
    check(mounts(), descendants(os.getpid()))
