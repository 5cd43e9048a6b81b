# SPDX-License-Identifier: Apache-2.0
"""Every example, applied to the shop as it stands but for whom it selects: it becomes ready, or says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.product import Product, Shop


def _is_anywhere(path: Path) -> bool:
    """Whether a node whose kernel has no kprobes, and pods of one program, have all that an example's own probes are of."""
    probes = yaml.safe_load(path.read_text("utf-8"))["spec"].get("probes", [])
    return all("tracepoint" in probe or probe.get("kprobe", {}).get("syscall") for probe in probes)


_EXAMPLES = sorted(filter(_is_anywhere, (Path(__file__).parents[1] / "examples").glob("[0-9]*.yaml")))
_SELECTORS = {"podSelector", "workloadRef"}


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
def test_an_example_becomes_ready(product: Product, shop: Shop, path: Path) -> None:
    """With every probe attached on both nodes."""
    assert shop.pods()
    document = yaml.safe_load(path.read_text("utf-8"))
    document["metadata"]["namespace"] = "shop"
    if not _SELECTORS & document["spec"].keys():
        document["spec"]["podSelector"] = {"matchLabels": {"app": "shop"}}
    with product.profile(document):
        status = product.cluster.get("-n", "shop", f"tprof/{document['metadata']['name']}")["status"]
        assert status["summary"]["nodesReady"] == 2
        assert status["summary"]["probesFailed"] == 0
