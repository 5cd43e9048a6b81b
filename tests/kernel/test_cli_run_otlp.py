# SPDX-License-Identifier: Apache-2.0
"""`kernelspan run --otlp` as a user types it: into Jaeger, and by each scheme into a collector; what arrives is what `--output` has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.collector import Collector
from tests.support.fixtures import StartCollector
from tests.support.jaeger import Jaeger
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import SYSTEM_PYTHON, Run
from tests.support.tls import TlsFiles, make_tls

PROGRAM = """
import os
class Shop:
    def look(self):
        for name in ("maps", "exe", "stat"):
            os.stat("/proc/self/" + name)
def main():
    for _ in range(20): Shop().look()
main()
"""
SPEC = {"files": {"operations": ["Stat"], "paths": ["/proc/self/*"]}, "code": {"functions": True}}
LOOKS = 60
Facts = dict[str, tuple[object, ...]]


def run_to(tmp_path: Path, endpoint: str, **environ: str) -> Run:
    """The program traced, its spans sent there and into a file."""
    program = tmp_path / "shop.py"
    program.write_text(PROGRAM)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return runs.run(
        tmp_path, runs.profile(tmp_path, **SPEC), SYSTEM_PYTHON, program,
        options=["--otlp", endpoint], env={**plain, **environ},
    )  # fmt: skip


def facts(spans: Iterable[ReceivedSpan]) -> Facts:
    """All of each span that every receiver keeps, by its id."""
    return {
        span.span_id: (
            span.trace_id, span.parent_span_id, span.name, span.kind, span.start_ns, span.end_ns, span.status,
            sorted(span.attributes.items()), str(span.resource.get("service.name")), span.resource["process.pid"],
        )
        for span in spans
    }  # fmt: skip


def assert_all_arrived(ran: Run, received: Facts) -> None:
    """The spans of the program's operations and functions, no other and none changed."""
    assert ran.status == 0, ran.stderr
    assert ran.balance["dropped"] == {}
    looked = [span for span in ran.operations if span.attributes["code.function.name"] == "__main__.Shop.look"]
    assert len(looked) == LOOKS
    assert len(ran.spans) > len(ran.operations)
    assert received == facts(ran.spans)


def test_into_jaeger(tmp_path: Path, jaeger: Jaeger) -> None:
    """host:port is gRPC; Jaeger finds the traces by the service, and has every span with what it says of its code."""
    ran = run_to(tmp_path, jaeger.grpc_endpoint)
    assert jaeger.services() == {"shop"}
    found = [span for trace in jaeger.traces("shop").values() for span in trace]
    assert_all_arrived(ran, facts(found))
    assert jaeger.operations("shop") == {span.name for span in ran.spans}


def test_http(tmp_path: Path, collector: Collector) -> None:
    """`http://` with a path is OTLP/HTTP, without one it is gRPC in the clear."""
    for url in (f"{collector.http_endpoint}/v1/traces", f"http://{collector.grpc_endpoint}"):
        before = facts(collector.spans())
        ran = run_to(tmp_path, url)
        after = facts(collector.spans())
        assert_all_arrived(ran, {key: after[key] for key in after.keys() - before.keys()})


@pytest.fixture
def secure(start_collector: StartCollector, tls_files: TlsFiles) -> tuple[Collector, TlsFiles]:
    """A collector that speaks TLS alone."""
    return start_collector(tls=tls_files), tls_files


def test_https(tmp_path: Path, secure: tuple[Collector, TlsFiles]) -> None:
    """The same over TLS, for an authority that the environment names; with another nothing is sent, and the program does not notice."""
    collector, files = secure
    for url in (f"{collector.http_endpoint}/v1/traces", f"https://{collector.grpc_endpoint}"):
        before = facts(collector.spans())
        ran = run_to(tmp_path, url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(files.ca))
        after = facts(collector.spans())
        assert_all_arrived(ran, {key: after[key] for key in after.keys() - before.keys()})
        other = make_tls(tmp_path / "other")
        refused = run_to(tmp_path, url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(other.ca), OTEL_BSP_EXPORT_TIMEOUT="300")
        assert facts(collector.spans()) == after
        assert (refused.status, refused.balance["exported"]) == (0, 0)
        assert refused.balance["dropped"] == {"ExportFailed": len(refused.operations)}
        assert re.search(r"certificate|handshake|ssl", refused.report["lastError"], re.IGNORECASE), refused.report
