# SPDX-License-Identifier: Apache-2.0
"""What the chart makes for other projects: by their own definitions, and with metrics that we really have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.helm import CHART, NAMESPACE, Helm, find
from tests.support.modules import module

OPTIONS = (
    "--set=crds.install=false,openshift.enabled=true",
    "--set=metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true",
)
PROMETHEUS = "github.com/prometheus-operator/prometheus-operator"
OPENSHIFT = "github.com/openshift/api"
# Of prometheus_client's ProcessCollector and of Prometheus itself.
OTHERS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}
ROOT = CHART.parents[1]


@pytest.fixture(scope="module")
def foreign(plane: Cluster) -> None:
    """Their definitions, in the cluster."""
    folder = module(PROMETHEUS, "chart") / "example/prometheus-operator-crd"
    files = [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules")]
    (constraints,) = module(OPENSHIFT, "chart").glob("security/v1/*/*securitycontextconstraints.crd.yaml")
    for path in (*files, constraints):
        plane.kubectl("apply", "--server-side", "-f", str(path))
    names = ("podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com")
    names += ("securitycontextconstraints.security.openshift.io",)
    plane.establish(*names)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("kind", ["PodMonitor", "PrometheusRule", "SecurityContextConstraints"])
def test_their_definitions_take_it(plane: Cluster, helm: Helm, kind: str) -> None:
    """With unknown fields refused: what they would drop without a word is a mistake of ours."""
    for options in (OPTIONS, (*OPTIONS, "--set=agent.privileged=true")):
        document = find(helm.render(*options), kind)
        plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", document=document)


def _expressions(helm: Helm) -> dict[str, str]:
    objects = helm.render(*OPTIONS)
    rules = find(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    found = {rule["alert"]: rule["expr"] for rule in rules}
    dashboard: dict[str, Any] = json.loads(find(objects, "ConfigMap", "-dashboard")["data"]["kernelspan.json"])
    for panel in dashboard["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def _names(path: str) -> set[str]:
    """What that module may call a metric: its names, and those of the fields that it makes names of."""
    found = set(re.findall(r'["}]([a-z][a-z_]+)"', (ROOT / path).read_text("utf-8")))
    return found | {f"operations_{name}" for name in found}


def test_every_metric_is_one_of_ours(helm: Helm) -> None:
    """A panel of a metric that is none stays empty for ever, and an alert on it never comes."""
    known = {f"kernelspan_{name}" for name in _names("agent/kernelspan_agent/control/metrics.py")}
    known |= {f"kernelspan_operator_{name}" for name in _names("operator/kernelspan_operator/services/metrics.py")}
    expressions = _expressions(helm)
    assert len(expressions) > 15
    for where, expression in expressions.items():
        names = set(re.findall(r"\b([a-z_]+)\{", expression))
        assert names, where
        unknown = {name for name in names - OTHERS if re.sub(r"_(?:total|bucket|info)$", "", name) not in known}
        assert unknown == set(), where


def test_expressions_close_what_they_open(helm: Helm) -> None:
    """And select by this release's namespace, or by the dashboard's choice of one."""
    for where, expression in _expressions(helm).items():
        assert all(expression.count(a) == expression.count(b) for a, b in ("()", "{}", "[]")), where
        for selector in re.findall(r"\{(.*?)\}", expression):
            assert f'namespace="{NAMESPACE}"' in selector or 'namespace=~"$namespace"' in selector, where


def test_pod_monitor_finds_operator_and_agents(helm: Helm) -> None:
    """Their pods, by labels, and the port by its name; not Jaeger's, which has no metrics."""
    objects = helm.render(*OPTIONS, "--set=jaeger.enabled=true")
    monitor = find(objects, "PodMonitor")["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    found = {}
    for obj in objects:
        if obj["kind"] not in {"Deployment", "DaemonSet"}:
            continue
        template = obj["spec"]["template"]
        labels = template["metadata"]["labels"]
        wanted = monitor["selector"]["matchLabels"].items() <= labels.items()
        if wanted and labels.get(expression["key"]) in expression["values"]:
            found[obj["metadata"]["name"]] = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert found.keys() == {"kernelspan-operator", "kernelspan-agent"}
    assert all(monitor["podMetricsEndpoints"][0]["port"] in ports for ports in found.values())


def test_dashboard_is_one(helm: Helm) -> None:
    """Panels with ids of their own that do not cover each other."""
    text = find(helm.render(*OPTIONS), "ConfigMap", "-dashboard")["data"]["kernelspan.json"]
    assert json.loads(text) == json.loads(Path(CHART / "files/dashboard.json").read_text("utf-8"))
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
