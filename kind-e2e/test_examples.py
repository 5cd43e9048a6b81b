# SPDX-License-Identifier: Apache-2.0
"""Every example that this kernel and the shop can have, applied as it stands but for whom it selects: it becomes ready,
and where the shop does what it is of, its spans are in Jaeger.
"""

from __future__ import annotations

import time
from functools import partial
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
# How the names of an example's spans begin, which no example before it in the list has.
_SPANS = {
    "01-python-files": "file.open",
    "02-network": "tcp.connect",
    "07-exec-watch": "exec",
    "08-sensitive-files": "open sensitive file",
    "09-outbound-connections": "connect",
    "16-http-requests": "GET",
}
_ACT = "for i in 1 2 3 4 5 6 7 8 9 10; do cat /etc/shadow >/dev/null; sleep 0.1; done"  # of nothing that the shop does


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
def test_an_example_becomes_ready(product: Product, shop: Shop, path: Path) -> None:
    """With every probe attached on both nodes; what each of the shop's pods does is seen."""
    assert shop.pods()
    document = yaml.safe_load(path.read_text("utf-8"))
    document["metadata"]["namespace"] = "shop"
    if not _SELECTORS & document["spec"].keys():
        document["spec"]["podSelector"] = {"matchLabels": {"app": "shop"}}
    with product.profile(document):
        status = product.cluster.get("-n", "shop", f"tprof/{document['metadata']['name']}")["status"]
        assert status["summary"]["nodesReady"] == 2
        assert status["summary"]["probesFailed"] == 0
        began = time.time()
        for pod in shop.pods() if path.stem in _SPANS else ():
            product.cluster.wait(f"{_SPANS[path.stem]} of {pod}", partial(_seen, product, path.stem, pod, began))


def _seen(product: Product, example: str, pod: str, since: float) -> bool:
    if example in ("07-exec-watch", "08-sensitive-files"):
        product.cluster.kubectl("-n", "shop", "exec", pod, "--", "sh", "-c", _ACT)
    found = (span for span in product.spans("shop", since) if span.resource.get("k8s.pod.name") == pod)
    return any(span.name.startswith(_SPANS[example]) for span in found)
