# SPDX-License-Identifier: Apache-2.0
"""Secrets that come beside a plan, in the exporters of a real agent: certificates at a collector that demands them, headers at a
server that says what it got; and what of them is left on the machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_api.control.control_pb2 import ExportSecret
from tests.support.collector import Collector, CollectorOptions
from tests.support.node_agents import Running, Start, profile, program, starting
from tests.support.pods import Pod, every_container, line
from tests.support.tls import TlsFiles, make_tls
from tests.unit.export.servers import Received, grpc_server

STATS: dict[str, Any] = {"files": {"operations": ["Stat"]}}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def start(tmp_path: Path, tls_files: TlsFiles) -> Iterator[Start]:
    """Starts agents; their own endpoint is nothing that answers, if nothing else is said."""
    with starting(tmp_path, tls_files, None) as begin:
        yield begin


@pytest.fixture
def theirs(tmp_path: Path) -> TlsFiles:
    """Certificates of the collector's owner, which have nothing to do with the operator's."""
    return make_tls(tmp_path / "theirs")


@pytest.fixture
def demanding(otelcol_binary: Path, tmp_path: Path, theirs: TlsFiles) -> Iterator[Collector]:
    """A collector that wants to know who sends."""
    with Collector(otelcol_binary, tmp_path / "demanding", CollectorOptions(theirs, theirs.ca)) as collector:
        yield collector


def secret(uid: str, theirs: TlsFiles) -> ExportSecret:
    """All that a profile may take from Secrets for TLS."""
    certificate, key = theirs.client_certificate.read_bytes(), theirs.client_key.read_bytes()
    return ExportSecret(profile_uid=uid, ca=theirs.ca.read_bytes(), certificate=certificate, key=key)


def export(endpoint: str = "", protocol: str = "GRPC") -> dict[str, Any]:
    """`spec.export` that names them."""
    tls = {"caSecretRef": {"name": "authority"}, "certificateSecretRef": {"name": "client"}}
    return {"otlp": {"endpoint": endpoint, "protocol": protocol, "tls": tls}}


def keys(folder: Path) -> list[Path]:
    """The files below a folder in which there is a private key."""
    return [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


@pytest.mark.parametrize("protocol", ["GRPC", "HTTP"])
def test_certificates(start: Start, demanding: Collector, theirs: TlsFiles, tmp_path: Path, protocol: str) -> None:
    """Taken from then on, also by an agent that starts without an operator; without them nothing goes out."""
    agent = start(otlp=NOWHERE)
    endpoint = demanding.http_endpoint if protocol == "HTTP" else f"https://{demanding.grpc_endpoint}"
    with Pod("web-1") as pod:
        running = program(pod)
        mine = profile("p", export=export(endpoint, protocol), **STATS)
        agent.follow([mine], [pod.plan(every_container("p"))], [secret("p", theirs)])
        agent.until_seen(demanding, running, "first")
        assert keys(tmp_path / "memory") == [tmp_path / "memory" / "secrets"]  # for the next agent, and nowhere else
        assert keys(tmp_path / "state") == []
        agent.server.close()
        agent.process.kill()
        agent.process.wait()
        again = start(otlp=NOWHERE)
        again.until_seen(demanding, running, "again")
        again.stop()
    assert b"PRIVATE KEY" not in agent.log.read_bytes()


@pytest.mark.parametrize(
    "after",
    [
        lambda pod: ([], [pod.plan()]),
        lambda pod: ([profile("p", 2, **STATS)], [pod.plan(every_container("p"))]),
    ],
    ids=["deleted", "names none"],
)
def test_what_a_profile_had_goes_with_it(
    start: Start, demanding: Collector, theirs: TlsFiles, tmp_path: Path, after: Callable[[Pod], Any]
) -> None:
    """One that is deleted, and one that names no Secret any more."""
    agent = start(otlp=NOWHERE)
    endpoint = f"https://{demanding.grpc_endpoint}"
    with Pod("web-1") as pod:
        running = program(pod)
        pods = [pod.plan(every_container("p"))]
        agent.follow([profile("p", export=export(endpoint), **STATS)], pods, [secret("p", theirs)])
        agent.until_seen(demanding, running, "first")
        assert keys(tmp_path / "memory") != []
        agent.follow(*after(pod))
        assert keys(tmp_path / "memory") == []
        assert {path.name for path in (tmp_path / "memory").iterdir()} == {"secrets"}
        agent.stop()


def sent(agent: Running, running: subprocess.Popen[bytes], received: Received, wanted: dict[str, str]) -> None:
    """Has the program make marks until a request with these headers has come."""

    def come() -> bool:
        line(running, "x")
        return any(wanted.items() <= headers.items() for headers in received.headers)

    agent.until(come, f"sent with {wanted}: {received.headers[-1:]}")


def test_headers(start: Start) -> None:
    """At the profile's own endpoint its own alone; at the agent's endpoint after those of the agent; nobody else's anywhere."""
    variables = {"OTEL_EXPORTER_OTLP_HEADERS": "x-chart=1"}
    with grpc_server() as (port, chart), grpc_server() as (other, theirs), Pod("web-1") as pod:
        agent = start(otlp=f"127.0.0.1:{port}", **variables)
        running = program(pod)
        profiles = [
            profile("plain", **STATS),
            profile("tenant", export={"otlp": {"headersSecretRef": {"name": "a"}}}, **STATS),
            profile("own", export={"otlp": {"endpoint": f"http://127.0.0.1:{other}"}}, **STATS),
        ]
        secrets = [
            ExportSecret(profile_uid="tenant", headers={"x-tenant": "shop, inc"}),
            ExportSecret(profile_uid="own", headers={"authorization": "Bearer s3cret"}),
        ]
        agent.follow(profiles, [pod.plan(*(every_container(one.uid) for one in profiles))], secrets)
        sent(agent, running, chart, {"x-chart": "1", "x-tenant": "shop, inc"})
        sent(agent, running, theirs, {"authorization": "Bearer s3cret"})
        agent.stop()
    assert all(headers["x-chart"] == "1" and "authorization" not in headers for headers in chart.headers)
    assert any("x-tenant" not in headers for headers in chart.headers)
    assert all({"x-chart", "x-tenant"}.isdisjoint(headers) for headers in theirs.headers)
    assert "s3cret" not in agent.log.read_text()
