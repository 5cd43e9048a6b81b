# SPDX-License-Identifier: Apache-2.0
"""The collector and Jaeger that come with jaeger.enabled, as processes on the configuration that the chart gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.support.fixtures import built
from tests.support.helm import Helm, Object, find
from tests.support.jaeger import Jaeger
from tests.support.ports import PortReservation
from tests.support.server import ServerProcess, answers_ok

PORTS = {"jaeger": ("otlp", "http", "grpc", "health"), "collector": ("otlp", "otlp-http", "health")}


@pytest.fixture(scope="module")
def objects(helm: Helm) -> list[Object]:
    """The first look."""
    return helm.render("--set=jaeger.enabled=true,jaeger.maxTraces=7")


def ports(objects: list[Object], component: str) -> dict[str, int]:
    """The container's, by name."""
    (container,) = find(objects, "Deployment", f"-{component}")["spec"]["template"]["spec"]["containers"]
    found = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(found) == set(PORTS[component])
    return found


def configuration(objects: list[Object], component: str) -> str:
    """The file that its only option names, out of the ConfigMap that is mounted there."""
    pod = find(objects, "Deployment", f"-{component}")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (option,) = container["args"]
    path = Path(option.removeprefix("--config="))
    (mount,) = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == str(path.parent)]
    (volume,) = [one["configMap"]["name"] for one in pod["volumes"] if one["name"] == mount]
    return str(find(objects, "ConfigMap", volume)["data"][path.name])


def moved(text: str, where: dict[str, str]) -> str:
    """The configuration with each address in another place; every one that it has must be in `where`."""
    missing = set(where)

    def place(found: re.Match[str]) -> str:
        missing.discard(found[1])
        return f'"{where[found[1]]}"'

    changed = re.sub(r'"([\w.-]*:\d+)"', place, text)
    assert missing == set()
    return changed


def test_a_span_goes_through_both(objects: list[Object], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From the endpoint that agents are given to Jaeger's API, with all traces but the newest seven forgotten."""
    inner = ports(objects, "jaeger")
    with (
        Jaeger(built("jaeger", "chart", request), tmp_path / "jaeger") as jaeger,
        PortReservation(3) as held,
    ):
        jaeger.close()
        names = dict(zip(PORTS["jaeger"], jaeger._ports.ports, strict=True))
        text = moved(
            configuration(objects, "jaeger"), {f":{inner[name]}": f"127.0.0.1:{names[name]}" for name in names}
        )
        (tmp_path / "jaeger/jaeger.yaml").write_text(text, "utf-8")
        jaeger.start()
        outer = dict(zip(PORTS["collector"], held.ports, strict=True))
        where = {f":{port}": f"127.0.0.1:{outer[name]}" for name, port in ports(objects, "collector").items()}
        where["kernelspan-jaeger.kernelspan.svc:4317"] = jaeger.grpc_endpoint
        config = tmp_path / "collector.yaml"
        config.write_text(moved(configuration(objects, "collector"), where), "utf-8")
        collector = ServerProcess(
            "otelcol",
            [built("otelcol", "chart", request), f"--config={config}"],
            tmp_path / "otelcol.log",
            lambda: answers_ok(outer["health"], "/"),
        )
        with collector:
            ids = [_send(f"http://127.0.0.1:{outer['otlp']}") for _ in range(9)]
            jaeger.wait_for_trace(ids[-1], 1)
            assert len(jaeger.traces("checkout")) == 7


def _send(endpoint: str) -> str:
    """One span; its trace's id."""
    provider = TracerProvider(resource=Resource.create({"service.name": "checkout"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=True)))
    with provider.get_tracer("tests").start_as_current_span("GET /") as span:
        trace_id = f"{span.get_span_context().trace_id:032x}"
    provider.shutdown()
    return trace_id


def test_agents_are_given_the_collector(objects: list[Object], helm: Helm) -> None:
    """By its Service's name and port; a place of the user's own goes before it; without either there is none."""

    def endpoint(found: list[Object]) -> str | None:
        (container,) = find(found, "DaemonSet", "-agent")["spec"]["template"]["spec"]["containers"]
        return next((one["value"] for one in container["env"] if one["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"), None)

    service: dict[str, Any] = find(objects, "Service", "-collector")
    (port,) = [one["port"] for one in service["spec"]["ports"] if one["name"] == "otlp"]
    assert endpoint(objects) == f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port}"
    own = "--set=jaeger.enabled=true,otlp.endpoint=https://own:4317"
    assert endpoint(helm.render(own)) == "https://own:4317"
    assert endpoint(helm.render()) is None


def test_configurations_are_yaml(objects: list[Object]) -> None:
    """Whatever name the release has."""
    for component in PORTS:
        assert yaml.safe_load(configuration(objects, component))["service"]["pipelines"]["traces"]
