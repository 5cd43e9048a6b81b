# SPDX-License-Identifier: Apache-2.0
"""OTLP/HTTP against real servers that refuse, throttle, hang up, drip and come back."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.encode import Bounds, scope_version
from kernelspan_agent.export.otlp_http import HttpTransport, _retry_after_s
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.sender import OtlpOutput
from kernelspan_agent.export.settings import settings_from
from kernelspan_agent.export.wire import block
from kernelspan_api.handling import ExportTLS
from tests.support.ports import PortReservation
from tests.support.tls import TlsFiles, make_tls
from tests.unit.export.servers import QUICK, Reply, http_server, outcome, partial_success
from tests.unit.export.spans import batch_of, by_sdk, normalised, parsed, span_ids

WAIT_S = 10.0
PROTOBUF = (("content-type", "application/x-protobuf"),)
JSON = (("content-type", "application/json; charset=utf-8"),)


@contextmanager
def output_to(
    port: int,
    environ: Mapping[str, str] | None = None,
    tls: ExportTLS | None = None,
    *,
    scheme: str = "http",
    timeout_s: float = WAIT_S,
    export_timeout_s: float = WAIT_S,
    spans: int = 100,
) -> Iterator[OtlpOutput]:
    """An output to 127.0.0.1 as the environment says."""
    settings = settings_from(
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **(environ or {})}, f"{scheme}://127.0.0.1:{port}", tls
    )
    output = OtlpOutput(
        "otlp",
        HttpTransport(settings),
        timeout_s=timeout_s,
        export_timeout_s=export_timeout_s,
        bounds=Bounds(spans),
        backoff=QUICK,
    )
    try:
        yield output
    finally:
        output.close()


def test_what_arrives() -> None:
    """The server gets the SDK's message on the specified path, over one kept connection."""
    ports = []
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a%20b"}
    with http_server() as (port, received), output_to(port, environ, spans=2) as output:
        for count in (3, 1):
            assert output.deliver(batch_of(count)) is None
            ports.append(output._transport._connection.sock.getsockname()[1])  # type: ignore[attr-defined]
    assert ports[0] == ports[1]
    assert normalised(parsed(received.payloads[2])) == normalised(by_sdk(batch_of(1)))
    headers = received.headers[0]
    assert (headers[":path"], headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert (headers["user-agent"], headers["x-tenant"]) == (f"kernelspan/{scope_version()}", "a b")
    assert "content-encoding" not in headers


def test_gzip() -> None:
    """With compression the body is gzip, smaller, and says so."""
    with (
        http_server() as (port, received),
        output_to(port, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}) as output,
    ):
        assert output.deliver(batch_of(100)) is None
    body = zlib.decompress(received.payloads[0], 16 + zlib.MAX_WBITS)
    assert span_ids(body) == list(range(1, 101))
    assert len(body) > 2 * len(received.payloads[0])
    assert received.headers[0]["content-encoding"] == "gzip"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retried(status: int) -> None:
    """The statuses that the specification lists are retried until the server takes the very same bytes."""
    with http_server([Reply(status), Reply(status)]) as (port, received), output_to(port) as output:
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 3
    assert len(set(received.payloads)) == 1
    snapshot = output.counters.snapshot()
    assert (snapshot.requests, snapshot.retries) == (1, 2)
    assert f" {status} " in snapshot.last_error


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 408, 413, 415, 500, 501, 505])
def test_not_retried(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """All others cost their request at once, redirects too; the words of the server are logged once, safe to print."""
    reply = Reply(status, (*PROTOBUF, ("location", "http://127.0.0.1:1/")), block(2, b"because \x1b[2J"))
    with http_server([reply, reply]) as (port, received), output_to(port, spans=2) as output:
        fates = output.deliver(batch_of(5))
    assert fates is not None
    assert fates.tolist() == [2, 2, 2, 2, 0]
    assert len(received.payloads) == 3
    assert caplog.text.count("because \\x1b[2J") == 1


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0),
        (" 120 ", 120, 120),
        (email.utils.formatdate(time.time() + 86400, usegmt=True), 80000, 86401),  # the tests before may take long
        (email.utils.formatdate(0, usegmt=True), 0, 0),
        ("9" * 400, 1e11, 1e13),
    ],
)
def test_retry_after(value: str, least: float, most: float) -> None:
    """Retry-After is seconds or a date; a date that has passed is now."""
    seconds = _retry_after_s(value)
    assert seconds is not None
    assert least <= seconds <= most


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "٣", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_retry_after_that_is_none(value: str) -> None:
    """Anything else is as if the server had said nothing."""
    assert _retry_after_s(value) is None


def test_asked_to_wait_longer_than_we_may() -> None:
    """A server that asks for more time than an export has is not asked again before it, and the spans are dropped."""
    with (
        http_server([Reply(503, (("retry-after", "3600"),))]) as (port, received),
        output_to(port, export_timeout_s=0.2) as output,
    ):
        assert output.deliver(batch_of(1)) is not None
        assert output.deliver(batch_of(1)) is not None
    assert len(received.payloads) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, PROTOBUF, partial_success(3, "too old")),
        Reply(200, JSON, b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}'),
    ],
)
def test_partial_success(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """Rejected spans are dropped, operations first, in either encoding of the answer; nothing is sent again."""
    with http_server([reply]) as (port, received), output_to(port) as output:
        pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
        pipeline.export(batch_of(5, operations=2))
        pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 2, 0)
    assert pipeline.counters.snapshot().spans_exported == 2
    assert len(received.payloads) == 1
    assert "3 spans rejected: too old" in caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, (("content-type", "text/html"),), b"<html>please log in</html>"),
        Reply(200, (), b"ok"),
        Reply(200, PROTOBUF, b"\x0a\xff"),
        Reply(200, JSON, b"[]"),
        Reply(200, JSON, b'{"partialSuccess":{"rejectedSpans":"many"}}'),
        Reply(200, JSON, b'{"partialSuccess":7}'),
        Reply(200, JSON, b"["),
        Reply(200, PROTOBUF, b"\x0a\xff\xff\x7f" + b"x" * 1_000_000),
    ],
)
def test_answer_that_is_none(reply: Reply) -> None:
    """A success whose body is no OTLP response does not count as exported; the next request goes its own way."""
    with http_server([reply]) as (port, _), output_to(port) as output:
        assert output.deliver(batch_of(1)) is not None
        assert "no OTLP response" in output.counters.snapshot().last_error
        assert output.deliver(batch_of(1)) is None


@pytest.mark.parametrize("reply", [Reply(200, JSON, b"{}"), Reply(204), Reply(200, PROTOBUF), Reply(202, JSON)])
def test_full_success(reply: Reply) -> None:
    """An empty response is a full success."""
    with http_server([reply]) as (port, _), output_to(port) as output:
        assert output.deliver(batch_of(1)) is None


def test_kept_connection_that_was_closed() -> None:
    """A server that closed an idle connection is asked again on a new one, at once and not counted as a retry."""
    with http_server([Reply(), Reply(hang_up=True)]) as (port, received), output_to(port) as output:
        assert output.deliver(batch_of(1)) is None
        assert output.deliver(batch_of(1)) is None
    assert len(received.payloads) == 3
    assert output.counters.snapshot().retries == 0


def test_hang_up() -> None:
    """A connection that ends without an answer is retried."""
    with http_server([Reply(hang_up=True)]) as (port, _), output_to(port) as output:
        assert output.deliver(batch_of(1)) is None
    assert output.counters.snapshot().retries == 1


def test_down_at_the_start() -> None:
    """Spans wait for a collector that starts later."""
    with PortReservation(1) as ports:
        (port,) = ports.ports
        with output_to(port) as output:
            pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
            pipeline.export(batch_of(4))
            while not output.counters.snapshot().retries:
                threading.Event().wait(0.01)
            with http_server(port=port) as (_, received):
                pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (4, 0, 0, 0)
    assert span_ids(received.payloads[0]) == [1, 2, 3, 4]


@pytest.mark.parametrize("start", [b"HT", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_dripping_answer(start: bytes) -> None:
    """A server that sends its answer byte by byte, for ever, is left when the attempt's time is up."""
    stop = threading.Event()

    def drip() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(start)
            try:
                while not stop.wait(0.02):
                    client.sendall(b"y")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        port = listener.getsockname()[1]
        with output_to(port, timeout_s=0.2, export_timeout_s=0.2) as output:
            assert output.deliver(batch_of(1)) is not None
        stop.set()
        thread.join()


def test_answer_cut_off() -> None:
    """A 200 whose body is shorter than it says is no success."""

    def cut() -> None:
        for _ in range(2):
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=cut)
        thread.start()
        with output_to(listener.getsockname()[1], export_timeout_s=0.1) as output:
            assert output.deliver(batch_of(1)) is not None
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname()).close()
        thread.join()


def test_abort_ends_a_call() -> None:
    """A close whose time is up ends the call that hangs in the server."""
    release = threading.Event()
    with (
        http_server([Reply(before=lambda: release.wait(WAIT_S))]) as (port, received),
        output_to(port, {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, timeout_s=float("inf")) as output,
    ):
        pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
        pipeline.export(batch_of(2))
        assert received.arrived.wait(WAIT_S)
        pipeline.close(0)
        release.set()
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 2, 0)
    assert len(received.payloads) == 1


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tls_files: TlsFiles, mutual: bool) -> None:
    """TLS with our own authority, and with a client certificate where the server wants one."""
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tls_files.ca)}
    if mutual:
        environ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(tls_files.client_certificate)
        environ["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(tls_files.client_key)
    with (
        http_server(tls=tls_files, client_ca=mutual) as (port, received),
        output_to(port, environ, scheme="https") as output,
    ):
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 1


@pytest.mark.parametrize(("asked", "arrives"), [("collector.test", True), ("other.test", False), ("", False)])
def test_the_name_in_the_certificate(asked: str, arrives: bool, tmp_path: Path) -> None:
    """The server is who the profile says, not whom the endpoint names; or it gets nothing."""
    files = make_tls(tmp_path, "collector.test")
    environ, tls = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(files.ca)}, ExportTLS(server_name=asked)
    patience = WAIT_S if arrives else 1.0
    with (
        http_server(tls=files) as (port, received),
        output_to(port, environ, tls, scheme="https", export_timeout_s=patience) as output,
    ):
        assert (output.deliver(batch_of(2)) is None) == arrives
    assert len(received.payloads) == arrives


def test_a_certificate_that_nobody_verifies(tls_files: TlsFiles) -> None:
    """Where the profile says so: from an authority that is not known, for another name."""
    tls = ExportTLS(insecure_skip_verify=True, server_name="other.test")
    with http_server(tls=tls_files) as (port, received), output_to(port, tls=tls, scheme="https") as output:
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 1


def test_unknown_authority(tls_files: TlsFiles) -> None:
    """A server whose certificate nobody we trust has signed gets nothing."""
    with (
        http_server(tls=tls_files) as (port, received),
        output_to(port, scheme="https", export_timeout_s=1.0) as output,
    ):
        assert output.deliver(batch_of(2)) is not None
    assert received.payloads == []
    assert "certificate" in output.counters.snapshot().last_error.lower()


def test_certificates_of_no_use(tls_files: TlsFiles) -> None:
    """A certificate and a key that do not fit together are refused at the start."""
    environ = {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tls_files.client_certificate),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tls_files.server_key),
    }
    with pytest.raises(UsageError, match="CLIENT_CERTIFICATE"):
        HttpTransport(settings_from(environ, "https://127.0.0.1:4318"))


@pytest.mark.parametrize(
    ("scheme", "port", "host"), [("https", 443, "a.test"), ("https", 80, "a.test:80"), ("http", 80, "a.test")]
)
def test_the_port_that_is_usual_is_not_named(
    scheme: str, port: int, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the header Host, by which proxies choose (RFC 9110, 7.2)."""
    near, far = socket.socketpair()
    far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setattr(HttpTransport, "_open", lambda _, connection: setattr(connection, "sock", near))
    transport = HttpTransport(
        settings_from({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, f"{scheme}://a.test:{port}")
    )
    transport.send(b"", WAIT_S)
    transport.close()
    with far:
        assert f"\r\nHost: {host}\r\n".encode() in far.recv(4096)
