# SPDX-License-Identifier: Apache-2.0
"""OTLP/gRPC against real servers that refuse, throttle, hang, die and come back."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.encode import Bounds, scope_version
from kernelspan_agent.export.otlp_grpc import GrpcTransport
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.sender import OtlpOutput
from kernelspan_agent.export.settings import settings_from
from kernelspan_api.handling import ExportTLS
from tests.support.ports import PortReservation
from tests.support.tls import TlsFiles, make_tls
from tests.unit.export.servers import QUICK, fail, grpc_server, outcome, partial_success, relay, retry_info
from tests.unit.export.spans import batch_of, by_sdk, normalised, parsed, span_ids

WAIT_S = 10.0
Code = grpc.StatusCode


@contextmanager
def output_to(
    port: int,
    environ: Mapping[str, str] | None = None,
    tls: ExportTLS | None = None,
    *,
    export_timeout_s: float = WAIT_S,
    spans: int = 100,
) -> Iterator[OtlpOutput]:
    """An output to 127.0.0.1 as the environment says."""
    transport = GrpcTransport(settings_from(environ or {}, f"127.0.0.1:{port}", tls))
    output = OtlpOutput("otlp", transport, export_timeout_s=export_timeout_s, bounds=Bounds(spans), backoff=QUICK)
    try:
        yield output
    finally:
        output.close()


def test_what_arrives() -> None:
    """The server gets the SDK's message, our user agent and the headers of the environment."""
    with grpc_server() as (port, received), output_to(port, {"OTEL_EXPORTER_OTLP_HEADERS": "X-Tenant=a%20b"}) as output:
        assert output.deliver(batch_of(3)) is None
    (payload,) = received.payloads
    assert normalised(parsed(payload)) == normalised(by_sdk(batch_of(3)))
    assert received.headers[0]["x-tenant"] == "a b"
    assert received.headers[0]["user-agent"].startswith(f"kernelspan/{scope_version()} ")
    snapshot = output.counters.snapshot()
    assert (snapshot.requests, snapshot.retries, snapshot.bytes) == (1, 0, len(payload))


def test_gzip() -> None:
    """With compression the server decodes the same message from far fewer bytes on the wire."""
    sizes = []
    for compression in ("none", "gzip"):
        environ = {"OTEL_EXPORTER_OTLP_COMPRESSION": compression}
        with grpc_server() as (port, received), relay(port) as (front, sent), output_to(front, environ) as output:
            assert output.deliver(batch_of(100)) is None
        assert span_ids(received.payloads[0]) == list(range(1, 101))
        sizes.append(len(sent))
    assert sizes[0] > len(received.payloads[0]) > 2 * sizes[1]


@pytest.mark.parametrize(
    "code",
    [Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE, Code.DATA_LOSS],
)
def test_retried(code: grpc.StatusCode) -> None:
    """The codes that the specification lists are retried until the server takes the very same bytes."""
    with grpc_server([fail(code), fail(code)]) as (port, received), output_to(port) as output:
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 3
    assert len(set(received.payloads)) == 1
    snapshot = output.counters.snapshot()
    assert (snapshot.requests, snapshot.retries) == (1, 2)
    assert code.name in snapshot.last_error


@pytest.mark.parametrize(
    "code",
    [
        Code.UNKNOWN,
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.FAILED_PRECONDITION,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAUTHENTICATED,
    ],
)
def test_not_retried(code: grpc.StatusCode, caplog: pytest.LogCaptureFixture) -> None:
    """All other codes cost their request at once; the words of the server are logged once, safe to print."""
    steps = [fail(code, "because \x1b[2J"), fail(code, "because \x1b[2J")]
    with grpc_server(steps) as (port, received), output_to(port, spans=2) as output:
        fates = output.deliver(batch_of(5))
    assert fates is not None
    assert fates.tolist() == [2, 2, 2, 2, 0]
    assert len(received.payloads) == 3
    assert caplog.text.count("because \\x1b[2J") == 1
    assert output.counters.snapshot().last_error.endswith(f"{code.name}: because \\x1b[2J")


def test_throttled() -> None:
    """RESOURCE_EXHAUSTED is retried where the server says when."""
    steps = [fail(Code.RESOURCE_EXHAUSTED, status=retry_info(0, 1_000_000))]
    with grpc_server(steps) as (port, received), output_to(port) as output:
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 2


def test_asked_to_wait_longer_than_we_may() -> None:
    """A server that asks for more time than an export has is not asked again before it, and the spans are dropped."""
    steps = [fail(Code.UNAVAILABLE, status=retry_info(3600))]
    with grpc_server(steps) as (port, received), output_to(port, export_timeout_s=0.3) as output:
        fates = output.deliver(batch_of(1))
        again = output.deliver(batch_of(1))
    assert fates is not None
    assert again is not None
    assert (fates.tolist(), again.tolist()) == ([2], [2])
    assert len(received.payloads) == 1


@pytest.mark.parametrize("status", [b"\xff\xff\xff", b"\x1a\x05abc", b"\x1a\x02\x0a\x00", b"\x00" * 100])
def test_malformed_details(status: bytes) -> None:
    """Details that are no google.rpc.Status are no RetryInfo, and no crash."""
    steps = [fail(Code.RESOURCE_EXHAUSTED, status=status)]
    with grpc_server(steps) as (port, _), output_to(port) as output:
        fates = output.deliver(batch_of(1))
    assert fates is not None


def test_partial_success(caplog: pytest.LogCaptureFixture) -> None:
    """Rejected spans are dropped, operations first; the message is logged once; nothing is sent again."""
    with grpc_server([lambda _: partial_success(3, "too old\n")] * 2) as (port, received), output_to(port) as output:
        pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
        assert output.deliver(batch_of(5)) is not None
        pipeline.export(batch_of(5, operations=2))
        pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 2, 0)
    assert pipeline.counters.snapshot().spans_exported == 2
    assert len(received.payloads) == 2
    assert caplog.text.count("3 spans rejected: too old\\x0a") == 1


def test_advice_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A partial success that rejects nothing is only words."""
    with grpc_server([lambda _: partial_success(0, "use gzip")]) as (port, _), output_to(port) as output:
        assert output.deliver(batch_of(1)) is None
    assert "use gzip" in caplog.text
    assert output.counters.snapshot().last_error == ""


def test_impossible_partial_success() -> None:
    """A server that rejects more spans than it got cannot make more than those count."""
    with grpc_server([lambda _: partial_success(1 << 40, "x")]) as (port, _), output_to(port) as output:
        fates = output.deliver(batch_of(2))
    assert fates is not None
    assert fates.tolist() == [2, 2]


def test_answer_that_is_none() -> None:
    """A success whose bytes are no ExportTraceServiceResponse does not count as exported."""
    with grpc_server([lambda _: b"\x0a\xff\xff"]) as (port, _), output_to(port) as output:
        fates = output.deliver(batch_of(2))
    assert fates is not None
    assert "no OTLP response" in output.counters.snapshot().last_error


def test_down_at_the_start() -> None:
    """Spans wait for a collector that starts later."""
    with PortReservation(1) as ports:
        (port,) = ports.ports
        with output_to(port) as output:
            pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
            pipeline.export(batch_of(4))
            while not output.counters.snapshot().retries:
                threading.Event().wait(0.01)
            with grpc_server(port=port) as (_, received):
                pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (4, 0, 0, 0)
    assert span_ids(received.payloads[0]) == [1, 2, 3, 4]


def test_dies_and_comes_back() -> None:
    """A collector that is gone between two batches loses none of them."""
    with PortReservation(1) as ports:
        (port,) = ports.ports
        with output_to(port) as output:
            with grpc_server(port=port) as (_, first):
                assert output.deliver(batch_of(2)) is None
            pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
            pipeline.export(batch_of(3, first_id=10))
            while not output.counters.snapshot().retries:
                threading.Event().wait(0.01)
            with grpc_server(port=port) as (_, second):
                pipeline.close(WAIT_S)
    assert span_ids(first.payloads[0]) == [1, 2]
    assert span_ids(second.payloads[0]) == [10, 11, 12]
    assert outcome(pipeline.counters.snapshot()) == (3, 0, 0, 0)


def test_never_there() -> None:
    """A close gives up on a collector that never comes, and accounts for all."""
    with PortReservation(1) as ports, output_to(ports.ports[0]) as output:
        pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.0))
        pipeline.export(batch_of(4))
        pipeline.close(0.1)
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 4, 0)
    assert "UNAVAILABLE" in pipeline.counters.snapshot().last_error


def test_slow_server_times_out() -> None:
    """An attempt ends at OTEL_EXPORTER_OTLP_TIMEOUT and is made again."""
    release = threading.Event()

    def hang(_: grpc.ServicerContext) -> bytes:
        release.wait(WAIT_S)
        return b""

    with grpc_server([hang]) as (port, received):
        transport = GrpcTransport(settings_from({"OTEL_EXPORTER_OTLP_TIMEOUT": "200"}, f"127.0.0.1:{port}"))
        output = OtlpOutput("otlp", transport, timeout_s=0.2, backoff=QUICK)
        assert output.deliver(batch_of(1)) is None
        output.close()
        release.set()
    assert len(received.payloads) == 2
    assert "DEADLINE_EXCEEDED" in output.counters.snapshot().last_error


def test_abort_ends_a_call() -> None:
    """A close whose time is up ends the call that hangs in the server."""
    release = threading.Event()
    with grpc_server([lambda _: bytes(not release.wait(WAIT_S))]) as (port, received):
        transport = GrpcTransport(settings_from({}, f"127.0.0.1:{port}"))
        pipeline = Pipeline([OtlpOutput("otlp", transport, timeout_s=math.inf)], QueueLimits(schedule_delay_s=0.0))
        pipeline.export(batch_of(2))
        assert received.arrived.wait(WAIT_S)
        pipeline.close(0)
        release.set()
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 2, 0)


def _tls_environ(files: TlsFiles, *, client: bool) -> dict[str, str]:
    found = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(files.ca)}
    if client:
        found["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(files.client_certificate)
        found["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(files.client_key)
    return found


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(tls_files: TlsFiles, mutual: bool) -> None:
    """TLS with our own authority, and with a client certificate where the server wants one."""
    with (
        grpc_server(tls=tls_files, client_ca=mutual) as (port, received),
        output_to(port, _tls_environ(tls_files, client=mutual)) as output,
    ):
        assert output.deliver(batch_of(2)) is None
    assert len(received.payloads) == 1


@pytest.mark.parametrize(("asked", "arrives"), [("collector.test", True), ("other.test", False), ("", False)])
def test_the_name_in_the_certificate(asked: str, arrives: bool, tmp_path: Path) -> None:
    """The server is who the profile says, not whom the endpoint names; or it gets nothing."""
    files = make_tls(tmp_path, "collector.test")
    tls = ExportTLS(server_name=asked)
    with (
        grpc_server(tls=files) as (port, received),
        output_to(port, _tls_environ(files, client=False), tls, export_timeout_s=WAIT_S if arrives else 0.3) as output,
    ):
        assert (output.deliver(batch_of(2)) is None) == arrives
    assert len(received.payloads) == arrives


def test_missing_client_certificate(tls_files: TlsFiles) -> None:
    """A server that wants a client certificate gets nothing without it."""
    with (
        grpc_server(tls=tls_files, client_ca=True) as (port, received),
        output_to(port, _tls_environ(tls_files, client=False), export_timeout_s=0.3) as output,
    ):
        assert output.deliver(batch_of(2)) is not None
    assert received.payloads == []


def test_encrypted_key(tls_files: TlsFiles) -> None:
    """A key with a passphrase is refused instead of failing at every call."""
    tls_files.client_key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n")
    settings = settings_from(_tls_environ(tls_files, client=True), "https://127.0.0.1:1")
    with pytest.raises(UsageError, match="encrypted"):
        GrpcTransport(settings)
