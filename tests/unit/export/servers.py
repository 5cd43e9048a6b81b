# SPDX-License-Identifier: Apache-2.0
"""Real OTLP servers on loopback whose answers a test decides, one after another: gRPC by grpcio, HTTP by http.server."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from kernelspan_agent.export import wire
from kernelspan_agent.export.counters import ExportSnapshot
from kernelspan_agent.export.sender import Backoff
from tests.support.tls import TlsFiles

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
QUICK = Backoff(first_s=0.01, factor=1.5, longest_s=0.05)  # the waits of tests; their length is not what is tested


@dataclass
class Received:
    """What came in: payloads (compressed as sent), and names (lower case) with values of headers."""

    payloads: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)


GrpcStep = Callable[[grpc.ServicerContext], bytes]


def partial_success(rejected: int, message: str) -> bytes:
    """ExportTraceServiceResponse with that partial success."""
    inner = wire.tag(1, wire.VARINT) + wire.varint(rejected) + wire.block(2, message.encode())
    return wire.block(1, inner)


def retry_info(seconds: int, nanos: int = 0) -> bytes:
    """google.rpc.Status with a RetryInfo and another detail before it."""
    delay = wire.tag(1, wire.VARINT) + wire.varint(seconds) + wire.tag(2, wire.VARINT) + wire.varint(nanos)
    info = wire.block(1, b"type.googleapis.com/google.rpc.RetryInfo") + wire.block(2, wire.block(1, delay))
    other = wire.block(1, b"type.googleapis.com/google.rpc.DebugInfo") + wire.block(2, b"\x0a\x01x")
    return wire.tag(1, wire.VARINT) + wire.varint(8) + wire.block(3, other) + wire.block(3, info)


def fail(code: grpc.StatusCode, details: str = "no", status: bytes = b"") -> GrpcStep:
    """A step that ends the call with this code, and with a serialised google.rpc.Status if given."""

    def step(context: grpc.ServicerContext) -> bytes:
        if status:
            context.set_trailing_metadata((("grpc-status-details-bin", status),))
        context.abort(code, details)
        raise AssertionError("abort raises")

    return step


@contextmanager
def grpc_server(
    steps: Sequence[GrpcStep] = (), port: int = 0, tls: TlsFiles | None = None, client_ca: bool = False
) -> Iterator[tuple[int, Received]]:
    """A server that takes the steps in turn and then says yes: (its port, what it received)."""
    received, left = Received(), list(steps)

    def export(payload: bytes, context: grpc.ServicerContext) -> bytes:
        received.payloads.append(payload)
        received.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        received.arrived.set()
        return left.pop(0)(context) if left else b""

    handler = grpc.method_handlers_generic_handler(
        METHOD.split("/")[1], {METHOD.split("/")[2]: grpc.unary_unary_rpc_method_handler(export)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler], options=[("grpc.so_reuseport", 0)])
    address = f"127.0.0.1:{port}"
    if tls is None:
        bound = server.add_insecure_port(address)
    else:
        pair = (tls.server_key.read_bytes(), tls.server_certificate.read_bytes())
        root = tls.ca.read_bytes() if client_ca else None
        bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair], root, client_ca))
    server.start()
    try:
        yield bound, received
    finally:
        server.stop(None).wait()


@contextmanager
def relay(port: int) -> Iterator[tuple[int, bytearray]]:
    """Passes one connection on to the port of 127.0.0.1: (its own port, the bytes that the client sent)."""
    sent = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    seen += data
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=pump, args=(server, client, bytearray()))
                back.start()
                pump(client, server, sent)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], sent
        thread.join()


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; `hang_up`: none, the connection just ends."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    hang_up: bool = False
    before: Callable[[], Any] = lambda: None


@contextmanager
def http_server(
    replies: Sequence[Reply] = (), port: int = 0, tls: TlsFiles | None = None, client_ca: bool = False
) -> Iterator[tuple[int, Received]]:
    """A server that gives the replies in turn and then an empty 200: (its port, what it received)."""
    received, left = Received(), list(replies)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            received.payloads.append(self.rfile.read(int(self.headers["content-length"])))
            received.headers.append({":path": self.path, **{key.lower(): value for key, value in self.headers.items()}})
            received.arrived.set()
            reply = left.pop(0) if left else Reply()
            reply.before()
            if reply.hang_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that goes away is part of the tests."""

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_certificate, tls.server_key)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(tls.ca)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def outcome(snapshot: ExportSnapshot) -> tuple[int, int, int, int]:
    """Operations exported, dropped as QueueFull, dropped as ExportFailed, in flight."""
    dropped = snapshot.operations_dropped
    return (
        snapshot.operations_exported,
        dropped["QueueFull"],
        dropped["ExportFailed"],
        snapshot.operations_in_flight,
    )
