# SPDX-License-Identifier: Apache-2.0
"""The chart's values: each is described, used, bounded, and what is none is refused with words that help."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.helm import CHART, Helm
from tools.values import page, read

TEXT = (CHART / "values.yaml").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load(TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a $ref names."""
    found: dict[str, Any] = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def described(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every path that the schema has properties for."""
    schema = resolve(schema)
    for name, one in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from described(one, f"{path}{name}.")


def given(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every path of values.yaml; a label's key is no name of a value."""
    for name in filter(str.isalpha, values):
        one = values[name]
        yield f"{path}{name}"
        if isinstance(one, dict):
            yield from given(one, f"{path}{name}.")


def test_reference_page_is_current() -> None:
    """Run `make chart-docs` after a change of values.yaml."""
    assert (CHART.parents[1] / "docs/reference/chart.md").read_text("utf-8") == page(TEXT)


def test_every_value_has_a_comment() -> None:
    """Of its own, or of the value that it is a part of."""
    commented = {value.name for value in read(TEXT)}
    leaves = [name for name in given(VALUES) if not isinstance(_at(name), dict) or not _at(name)]
    bare = [name for name in leaves if not any(name == one or name.startswith(f"{one}.") for one in commented)]
    assert bare == []
    assert len(commented) > 60


def _at(name: str) -> Any:
    found: Any = VALUES
    for part in name.split("."):
        found = found[part]
    return found


def test_schema_has_every_value_and_no_other() -> None:
    """What values.yaml has no default for nobody would find; what the schema lacks nobody could set."""
    names = set(given(VALUES))
    schema = set(described(SCHEMA))
    optional = re.compile(r"\.(requests|limits|claims|level|role|user|localhostProfile)(\.|$)")
    assert {name for name in names - schema if not optional.search(name)} == set()
    assert {name for name in schema - names if not optional.search(name)} == set()


def test_every_value_is_used() -> None:
    """By a template, by its name from the top."""
    templates = "".join(path.read_text("utf-8") for path in (CHART / "templates").rglob("*") if path.is_file())
    used = set(re.findall(r"\.Values\.([\w.]+)", templates))
    used |= {f"networkPolicy.{name}" for name in re.findall(r"\$policies\.(\w+)", templates)}
    whole = {value.name for value in read(TEXT)} - {"global"}
    # Taken as wholes: an image, the policy's file.
    parts = [name for name in whole if not any(name == one or name.startswith((f"{one}.",)) for one in used)]
    assert [name for name in parts if not re.search(r"\.image\.|^policy\.", name)] == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("agnet.privileged=true", "additional properties 'agnet' not allowed"),
        ("agent.privilege=true", "at '/agent': additional properties 'privilege' not allowed"),
        ("agent.privileged=maybe", "at '/agent/privileged': got string, want boolean"),
        ("agent.listen=9465", "at '/agent/listen': got number, want string"),
        ("agent.listen=localhost", "at '/agent/listen': 'localhost' does not match"),
        ("operator.listenHttp=[::]", "at '/operator/listenHttp'"),
        ("operator.runAsUser=0", "at '/operator/runAsUser': minimum: got 0, want 1"),
        ("operator.logLevel=loud", "value must be one of 'debug', 'info', 'warning'"),
        ("agent.extraCapabilities={CAP_SYSLOG}", "at '/agent/extraCapabilities/0': value must be one of"),
        ("agent.seccompProfile.type=Off", "'RuntimeDefault', 'Unconfined', 'Localhost'"),
        ("agent.stateHostPath=/", "at '/agent/stateHostPath'"),
        ("agent.stateHostPath=var/lib", "at '/agent/stateHostPath'"),
        ("agent.image.digest=sha256:abc", "at '/agent/image/digest'"),
        ("agent.image.tag=a b", "at '/agent/image/tag'"),
        ("otlp.endpoint=collector:4317", "at '/otlp/endpoint': 'collector:4317' does not match pattern '^(https?://"),
        ("otlp.protocol=http", "value must be one of 'grpc', 'http/protobuf'"),
        ("otlp.clientCertificate=true", "at '/otlp/tlsSecret': minLength"),
        ("policy.secretNamespaces={Shop}", "at '/policy/secretNamespaces/0': 'Shop' does not match"),
        ("policy.endpoints=x", "at '/policy/endpoints': got string, want array"),
        ("policy.anything=true", "additional properties 'anything' not allowed"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName 'app.kubernetes.io/name'"),
        ("networkPolicy.metricsFrom={x}", "at '/networkPolicy/metricsFrom/0': got string, want object"),
        ("fullnameOverride=Kernel_Span", "at '/fullnameOverride'"),
        ("jaeger.maxTraces=0", "at '/jaeger/maxTraces': minimum: got 0, want 1"),
        ("agent.selfTraces=true", "agent.selfTraces needs a place for the traces: set otlp.endpoint or jaeger.enabled"),
        ("operator.selfTraces=true", "operator.selfTraces needs a place"),
        (
            "jaeger.enabled=true,otlp.protocol=http/protobuf,operator.selfTraces=true",
            "operator.selfTraces speaks gRPC alone: set otlp.protocol to grpc",
        ),
    ],
)
def test_bad_value_is_refused_by_name(helm: Helm, option: str, words: str) -> None:
    """Nothing is rendered, and the message names the value and what it must be."""
    ended = helm.run("template", "k", CHART, f"--set={option}", check=False)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert words in ended.stderr


def test_kubernetes_that_is_too_old_is_refused(helm: Helm) -> None:
    """The definitions need 1.31; a vendor's suffix does not matter."""
    ended = helm.run("template", "k", CHART, "--kube-version=1.30.9", check=False)
    assert "chart requires kubeVersion: >=1.31.0-0" in ended.stderr
    helm.run("template", "k", CHART, "--kube-version=1.31.0-gke.100")


def test_chart_can_be_a_part_of_another(helm: Helm) -> None:
    """`global` is its umbrella's affair."""
    helm.run("template", "k", CHART, "--set=global.anything=x")
