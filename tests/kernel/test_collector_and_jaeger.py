# SPDX-License-Identifier: Apache-2.0
"""The servers that every export test stands on: spans of OpenTelemetry's own SDK through the real collector and Jaeger.

What the fixtures claim is tried here: nothing acknowledged is lost, a killed collector is gone and comes back, TLS
refuses the wrong peer, a failing server shows its log.
"""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tests.support.collector import Collector, CollectorOptions
from tests.support.fixtures import StartCollector
from tests.support.jaeger import Jaeger
from tests.support.otlp_json import ReceivedSpan
from tests.support.server import ServerError
from tests.support.tls import TlsFiles, make_tls

_EXPORT_SECONDS = 20.0
_REFUSED_SECONDS = 0.5  # how long the SDK retries where an answer cannot come


@pytest.fixture
def sdk_spans() -> tuple[ReadableSpan, ...]:
    """A server span with all kinds of attributes and an event, and its failed, linked child; the child ended first."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "checkout", "process.pid": 4242}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests", "1.2")
    attributes: dict[str, Any] = {
        "text": "naïve ☃",
        "whole": 1 << 60,
        "negative": -1,
        "flag": True,
        "ratio": 1.5,
        "list": ("a", "b"),
    }
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER, attributes=attributes) as parent:
        parent.add_event("cache miss", {"key": "k"})
        with tracer.start_as_current_span(
            "SELECT orders", kind=SpanKind.CLIENT, links=[Link(parent.get_span_context(), {"why": "test"})]
        ) as child:
            child.set_status(Status(StatusCode.ERROR, "timed out"))
    provider.shutdown()
    return tuple(memory.get_finished_spans())


@contextlib.contextmanager
def _exporter(
    collector: Collector, credentials: grpc.ChannelCredentials | None = None, timeout_seconds: float = _EXPORT_SECONDS
) -> Iterator[OTLPSpanExporter]:
    exporter = OTLPSpanExporter(
        endpoint=collector.grpc_endpoint,
        insecure=credentials is None,
        credentials=credentials,
        timeout=timeout_seconds,
    )
    try:
        yield exporter
    finally:
        exporter.shutdown()


def _send(collector: Collector, spans: Sequence[ReadableSpan]) -> None:
    with _exporter(collector) as exporter:
        assert exporter.export(spans) is SpanExportResult.SUCCESS


def _is_refused(
    collector: Collector, spans: Sequence[ReadableSpan], credentials: grpc.ChannelCredentials | None = None
) -> bool:
    with _exporter(collector, credentials, _REFUSED_SECONDS) as exporter:
        return exporter.export(spans) is SpanExportResult.FAILURE


def _credentials(authority: TlsFiles, client: TlsFiles | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        authority.ca.read_bytes(),
        client.client_key.read_bytes() if client else None,
        client.client_certificate.read_bytes() if client else None,
    )


def _facts(span: ReadableSpan) -> dict[str, Any]:
    scope = span.instrumentation_scope
    assert span.context is not None
    assert scope is not None
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": span.kind.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "status_message": span.status.description or "",
        "attributes": dict(span.attributes or {}),
        "events": [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
        "links": [(f"{link.context.span_id:016x}", dict(link.attributes or {})) for link in span.links],
        "resource": dict(span.resource.attributes),
        "scope": (scope.name, scope.version),
    }


def _as_jaeger_keeps(facts: dict[str, Any]) -> dict[str, Any]:
    """What Jaeger's own model can hold: no arrays, no attributes of links."""
    attributes = {
        key: json.dumps(value, separators=(",", ":")) if isinstance(value, tuple) else value
        for key, value in facts["attributes"].items()
    }
    links = [(span_id, {"opentracing.ref_type": "follows_from"}) for span_id, _ in facts["links"]]
    return facts | {"attributes": attributes, "links": links}


def _received_facts(span: ReceivedSpan) -> dict[str, Any]:
    return {
        **{name: getattr(span, name) for name in ("trace_id", "span_id", "parent_span_id", "name", "kind")},
        **{name: getattr(span, name) for name in ("start_ns", "end_ns", "status", "status_message")},
        "attributes": dict(span.attributes),
        "events": [(event.name, event.time_ns, dict(event.attributes)) for event in span.events],
        "links": [(link.span_id, dict(link.attributes)) for link in span.links],
        "resource": dict(span.resource),
        "scope": (span.scope_name, span.scope_version),
    }


def test_collector_keeps_what_the_sdk_sent(collector: Collector, sdk_spans: tuple[ReadableSpan, ...]) -> None:
    """Every field of every span is in the collector's file as soon as the exporter has its answer."""
    _send(collector, sdk_spans)
    assert [_received_facts(span) for span in collector.spans()] == [_facts(span) for span in sdk_spans]
    assert collector.accepted_spans() == len(sdk_spans)
    assert collector.refused_spans() == 0


def test_jaeger_gives_back_what_went_through_the_collector(
    start_collector: StartCollector, jaeger: Jaeger, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """A trace sent to the collector is found in Jaeger by service, by operation and by id, with the same facts."""
    _send(start_collector(forward_to=jaeger.grpc_endpoint), sdk_spans)

    expected = {facts["span_id"]: _as_jaeger_keeps(facts) for facts in map(_facts, sdk_spans)}
    trace_id = str(_facts(sdk_spans[0])["trace_id"])

    found = jaeger.wait_for_trace(trace_id, len(sdk_spans))
    assert {span.span_id: _received_facts(span) for span in found} == expected
    assert jaeger.services() == {"checkout"}
    assert jaeger.operations("checkout") == {"GET /orders", "SELECT orders"}
    assert {key: len(spans) for key, spans in jaeger.traces("checkout").items()} == {trace_id: 2}
    assert set(jaeger.traces("checkout", operation="SELECT orders")) == {trace_id}
    assert jaeger.traces("checkout", operation="DELETE orders") == {}


def test_jaeger_says_that_it_knows_nothing(jaeger: Jaeger) -> None:
    """An unknown service and an unknown trace are empty answers; waiting for one fails with the log's end."""
    assert jaeger.services() == frozenset()
    assert jaeger.traces("nobody") == {}
    assert jaeger.trace("0123456789abcdef0123456789abcdef") == []
    with pytest.raises(ServerError, match="0 of 1 spans"):
        jaeger.wait_for_trace("0123456789abcdef0123456789abcdef", 1, timeout_seconds=0.1)


def test_collector_takes_otlp_over_http(collector: Collector) -> None:
    """The HTTP endpoint takes OTLP/JSON and the spans arrive like the others."""
    span = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "by http", "kind": 1}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    request = urllib.request.Request(
        f"{collector.http_endpoint}/v1/traces", data=body, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_EXPORT_SECONDS) as answer:
        assert answer.status == 200
    (received,) = collector.wait_for_spans(1, where=lambda span: span.name == "by http")
    assert (received.trace_id, received.span_id, received.kind) == (span["traceId"], span["spanId"], "INTERNAL")


def test_killed_collector_loses_nothing_it_acknowledged(
    collector: Collector, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """SIGKILL right after each answer, again and again: refused while down, the same ports after, every span there."""
    for times in range(1, 6):
        _send(collector, sdk_spans)
        pid = collector.pid
        collector.kill()
        assert not Path(f"/proc/{pid}").exists()
        assert len(collector.spans()) == times * len(sdk_spans)
        with pytest.raises(ServerError, match="not running"):
            _ = collector.pid
        host, _, port = collector.grpc_endpoint.partition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=_EXPORT_SECONDS)
        collector.restart()
    assert collector.accepted_spans() == 0


def test_sender_is_refused_while_the_collector_is_down(
    collector: Collector, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """An exporter that outlives the collector fails while it is down and goes on after the restart."""
    with _exporter(collector) as exporter:
        assert exporter.export(sdk_spans) is SpanExportResult.SUCCESS
        collector.stop()
        assert _is_refused(collector, sdk_spans)
        collector.restart()
        assert exporter.export(sdk_spans) is SpanExportResult.SUCCESS
    assert len(collector.spans()) == 2 * len(sdk_spans)


def test_tls_collector_refuses_plain_and_distrusted(
    start_collector: StartCollector, tls_files: TlsFiles, tmp_path: Path, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """With TLS the right authority gets through; plain text and another authority do not."""
    collector = start_collector(tls=tls_files)
    assert collector.http_endpoint.startswith("https://")
    assert _is_refused(collector, sdk_spans)
    assert _is_refused(collector, sdk_spans, _credentials(make_tls(tmp_path / "stranger")))
    assert collector.spans() == []
    with _exporter(collector, _credentials(tls_files)) as exporter:
        assert exporter.export(sdk_spans) is SpanExportResult.SUCCESS
    assert len(collector.spans()) == len(sdk_spans)


def test_mtls_collector_refuses_a_client_without_its_certificate(
    start_collector: StartCollector, tls_files: TlsFiles, tmp_path: Path, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """With a client authority only a certificate of that authority gets through."""
    collector = start_collector(tls=tls_files, client_ca=tls_files.ca)
    assert _is_refused(collector, sdk_spans, _credentials(tls_files))
    assert _is_refused(collector, sdk_spans, _credentials(tls_files, client=make_tls(tmp_path / "stranger")))
    assert collector.spans() == []
    with _exporter(collector, _credentials(tls_files, client=tls_files)) as exporter:
        assert exporter.export(sdk_spans) is SpanExportResult.SUCCESS
    assert len(collector.spans()) == len(sdk_spans)


def test_counting_collector_writes_no_span(
    start_collector: StartCollector, sdk_spans: tuple[ReadableSpan, ...], tmp_path: Path
) -> None:
    """With keep_percent 0 spans are accepted and counted, and no file is written."""
    collector = start_collector(keep_percent=0)
    _send(collector, sdk_spans * 500)
    assert collector.accepted_spans() == 500 * len(sdk_spans)
    assert collector.spans() == []
    assert not list(tmp_path.rglob("spans-*"))


def test_sampling_collector_keeps_whole_traces(start_collector: StartCollector) -> None:
    """With keep_percent between, some traces are kept and some not, each with all its spans, and all are counted."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests")
    for _ in range(400):
        with tracer.start_as_current_span("parent"), tracer.start_as_current_span("child"):
            pass
    provider.shutdown()
    collector = start_collector(keep_percent=25)
    _send(collector, memory.get_finished_spans())
    kept = [span.trace_id for span in collector.spans()]
    assert collector.accepted_spans() == 800
    assert 0 < len(set(kept)) < 400
    assert all(kept.count(trace_id) == 2 for trace_id in set(kept))


def test_failing_forward_is_the_senders_to_know(
    start_collector: StartCollector, jaeger: Jaeger, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """A sender is not told that all is well while what the collector forwards to is gone."""
    collector = start_collector(forward_to=jaeger.grpc_endpoint)
    jaeger.close()
    assert _is_refused(collector, sdk_spans)


def test_collector_that_cannot_start_shows_its_log(otelcol_binary: Path, tmp_path: Path, tls_files: TlsFiles) -> None:
    """A server that ends at once is an error with the end of its log, and nothing is left running."""
    tls_files.server_key.write_text("no key", "ascii")
    with pytest.raises(ServerError, match=r"otelcol ended with 1 instead of starting(.|\n)*failed to load TLS"):
        Collector(otelcol_binary, tmp_path / "broken", CollectorOptions(tls=tls_files)).__enter__()


def test_waiting_in_vain_says_what_came(collector: Collector, sdk_spans: tuple[ReadableSpan, ...]) -> None:
    """The error of a wait names how many were wanted, how many came and how they are called."""
    _send(collector, sdk_spans)
    with pytest.raises(ServerError, match=r"0 of 1 spans after 0\.1 s; 2 received in all, named \['GET /orders'"):
        collector.wait_for_spans(1, where=lambda span: span.name == "absent", timeout_seconds=0.1)


def test_two_servers_side_by_side_share_nothing(
    start_collector: StartCollector, sdk_spans: tuple[ReadableSpan, ...]
) -> None:
    """Two collectors of one test have ports and spans of their own."""
    first, second = start_collector(), start_collector()
    _send(first, sdk_spans)
    assert (len(first.spans()), len(second.spans())) == (len(sdk_spans), 0)
