# SPDX-License-Identifier: Apache-2.0
"""The chart's release in a real cluster: what runs, as whom, with which rights."""

from __future__ import annotations

import json

from harness.cluster import WORKERS
from harness.product import Product
from tests.support.helm import NAMESPACE, RELEASE
from tests.support.server import http_get

# linux/capability.h: DAC_READ_SEARCH, SYS_PTRACE, PERFMON, BPF.
_CAPABILITIES = 1 << 2 | 1 << 19 | 1 << 38 | 1 << 39


def test_an_agent_on_every_node(product: Product) -> None:
    """One on each, the control plane's too, none restarted."""
    agents = product.agents()
    assert len(agents) == WORKERS + 1
    assert {pod["status"]["containerStatuses"][0]["restartCount"] for pod in agents.values()} == {0}


def test_helm_test_passes(product: Product) -> None:
    """What the chart itself asks."""
    said = product.helm.run("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=90s").stdout
    assert "Phase:          Succeeded" in said


def test_jaeger_by_a_forwarded_port(product: Product) -> None:
    """As NOTES says: its page (this one was built without the scripts of it), and its API."""
    assert f"kubectl -n {NAMESPACE} port-forward service/kernelspan-jaeger 16686" in product.notes()
    with product.cluster.forwarded(NAMESPACE, "service/kernelspan-jaeger", 16686) as port:
        assert http_get(port, "/")[0] == 200
        status, body = http_get(port, "/api/v3/services")
        assert status == 200
        assert json.loads(body).keys() <= {"services"}


def test_the_agent_has_its_capabilities_and_no_more(product: Product) -> None:
    """Those of the chart, in a container that is not privileged, with a root that it cannot write to."""
    for pod in product.agents().values():
        name = pod["metadata"]["name"]
        status = product.kubectl("exec", name, "--", "cat", "/proc/1/status") if not pod["spec"].get("hostPID") else ""
        status = status or product.kubectl("exec", name, "--", "sh", "-c", "cat /proc/self/status")
        effective = next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1]
        assert int(effective, 16) == _CAPABILITIES
        said = product.cluster.kubectl(
            "-n", NAMESPACE, "exec", name, "--", "sh", "-c", "touch /usr/x && echo wrote", check=False
        )
        assert "wrote" not in said


def test_the_operator_is_nobody_and_writes_nowhere(product: Product) -> None:
    """No root, no capability, a root that it cannot write to."""
    said = product.kubectl("exec", "deployment/kernelspan-operator", "--", "cat", "/proc/1/status")
    lines = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    assert lines["Uid"].split() == ["65532"] * 4
    assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0
    script = "touch /usr/x && echo wrote"
    said = product.cluster.kubectl(
        "-n", NAMESPACE, "exec", "deployment/kernelspan-operator", "--", "sh", "-c", script, check=False
    )
    assert "wrote" not in said


def test_agents_may_nothing_in_the_api(product: Product) -> None:
    """Their service account is bound to no role, and no token of the API's is in the pod."""
    account = f"system:serviceaccount:{NAMESPACE}:kernelspan-agent"
    for verb, what in (("list", "pods"), ("get", "secrets"), ("get", "nodes"), ("list", "traceprofiles.kernelspan.io")):
        said = product.cluster.kubectl("auth", "can-i", verb, what, "-A", f"--as={account}", check=False)
        assert said.strip() == "no"
    for pod in product.agents().values():
        folder = "/var/run/secrets"
        assert product.kubectl("exec", pod["metadata"]["name"], "--", "ls", folder).split() == ["kernelspan"]
