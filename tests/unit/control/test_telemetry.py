# SPDX-License-Identifier: Apache-2.0
"""The agent's own spans: nothing until asked for, the SDK's words on the wire, no spans about sending spans."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from kernelspan_agent import selftrace
from kernelspan_agent.control import telemetry
from kernelspan_agent.export.settings import settings_from


class Receiver(http.server.ThreadingHTTPServer):
    """An OTLP/HTTP server that keeps what it gets."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """On loopback."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_without_being_asked_there_is_nothing() -> None:
    """A span is a context that does nothing."""
    with selftrace.span("agent.compile") as made:
        assert made is None


def test_spans_arrive_with_parents_attributes_and_errors(receiver: Receiver) -> None:
    """One trace for what is inside one another; an error is one, with its words."""
    stop = telemetry.start(settings_from({}, f"http://127.0.0.1:{receiver.server_address[1]}/v1/traces"))
    with selftrace.span("agent.open", profile="p"):
        with selftrace.span("agent.load", modules=3):
            pass
        with pytest.raises(ValueError, match="no"), selftrace.span("agent.attach"):
            raise ValueError("no")
    stop(10.0)
    found = {span.name: span for span in receiver.spans()}
    opened, load, attach = found["agent.open"], found["agent.load"], found["agent.attach"]
    assert load.parent_span_id == attach.parent_span_id == opened.span_id != b""
    assert load.trace_id == attach.trace_id == opened.trace_id
    assert opened.parent_span_id == b""
    assert (
        opened.start_time_unix_nano <= load.start_time_unix_nano <= load.end_time_unix_nano <= opened.end_time_unix_nano
    )
    assert [(each.key, each.value.int_value) for each in load.attributes] == [("modules", 3)]
    assert [(each.key, each.value.string_value) for each in opened.attributes] == [("profile", "p")]
    assert attach.status.code == Status.STATUS_CODE_ERROR
    assert "no" in attach.status.message
    assert load.status.code == Status.STATUS_CODE_UNSET


def test_the_service_is_the_agent_whatever_the_environment_says_of_others(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_* speak of the traced programs: neither their name nor their sampling is the agent's."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,team=x")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    stop = telemetry.start(settings_from({}, f"http://127.0.0.1:{receiver.server_address[1]}/v1/traces"))
    with selftrace.span("agent.open"):
        pass
    stop(10.0)
    attributes = {each.key: each.value for each in receiver.requests[0].resource_spans[0].resource.attributes}
    assert attributes["service.name"].string_value == "kernelspan-agent"
    assert "team" not in attributes


def test_sending_makes_no_spans(receiver: Receiver) -> None:
    """Else there would be no end of them; and after the end there are none."""
    stop = telemetry.start(settings_from({}, f"http://127.0.0.1:{receiver.server_address[1]}/v1/traces"))
    with selftrace.span("agent.open"):
        pass
    stop(10.0)
    with selftrace.span("agent.later") as made:
        assert made is None
    assert [span.name for span in receiver.spans()] == ["agent.open"]


def test_a_collector_that_is_not_there_costs_only_the_time_given(receiver: Receiver) -> None:
    """The end comes, with nobody listening."""
    port = receiver.server_address[1]
    stop = telemetry.start(settings_from({}, f"http://127.0.0.1:{port + 1 if port < 65535 else port - 1}/v1/traces"))
    with selftrace.span("agent.open"):
        pass
    before = threading.active_count()
    stop(0.2)
    assert threading.active_count() < before
    assert receiver.requests == []
