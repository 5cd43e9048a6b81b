# SPDX-License-Identifier: Apache-2.0
"""Where spans go: the real collector (it takes everything and keeps nothing), or a gRPC server that counts requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

_SERVICE, _METHOD = "opentelemetry.proto.collector.trace.v1.TraceService", "Export"
_MAX_BYTES = 64 << 20


@dataclass
class Received:
    """What a counting server got: when (time.monotonic), and how many bytes."""

    times: list[float] = field(default_factory=list)
    bytes: int = 0
    first: threading.Event = field(default_factory=threading.Event)


@contextmanager
def counting_server() -> Iterator[tuple[str, Received]]:
    """An OTLP/gRPC server in this process that takes everything: its endpoint, and what it received."""
    received = Received()

    def export(payload: bytes, _context: grpc.ServicerContext) -> bytes:
        received.times.append(time.monotonic())
        received.bytes += len(payload)
        received.first.set()
        return b""

    handler = grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: grpc.unary_unary_rpc_method_handler(export)})
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", _MAX_BYTES)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", received
    finally:
        server.stop(0).wait()


@contextmanager
def collector(folder: Path, say: Callable[[str], None]) -> Iterator[tuple[str, str, str]]:
    """Endpoints of gRPC and HTTP (empty: none), and what is behind them: the OpenTelemetry collector where it can be built."""
    from tests.support.collector import Collector, CollectorOptions  # noqa: PLC0415 - a checkout without tests can measure
    from tools.build import build  # noqa: PLC0415
    from tools.errors import ToolError  # noqa: PLC0415

    try:
        binary = build(("collector",), say)["otelcol"]
    except ToolError as error:
        say(f"no collector ({error}): spans go to a server that only counts")
        with counting_server() as (endpoint, _):
            yield endpoint, "", "counting gRPC server"
        return
    with Collector(binary, folder / "collector", CollectorOptions(keep_percent=0)) as running:
        yield running.grpc_endpoint, running.http_endpoint, "OpenTelemetry collector"
