# SPDX-License-Identifier: Apache-2.0
"""OTLP/gRPC: a unary call with bytes that are encoded already, so neither stubs nor message classes are resident.

Retried are the codes that the OTLP specification lists, RESOURCE_EXHAUSTED only where the server says when.
This module imports grpc: import it only where an endpoint asks for it.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import grpc

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.answers import MAX_ANSWER_BYTES, printable, retry_info_s, taken
from kernelspan_agent.export.encode import scope_version
from kernelspan_agent.export.pem import read_pem
from kernelspan_agent.export.sender import Answer, Outcome
from kernelspan_agent.export.settings import OtlpSettings

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_RETRIED = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
_DETAILS = "grpc-status-details-bin"
_OPTIONS = (
    # The call is retried by `sender`, which counts; the channel's own retries would hide them.
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # As the sender's backoff: the channel's own would wait up to two minutes for a collector that is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """A Transport (see sender) over one channel, which connects with the first call."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Raises UsageError for certificates that cannot be read."""
        options = [*_OPTIONS, ("grpc.primary_user_agent", f"kernelspan/{scope_version()}")]
        if settings.server_name:
            options.append(("grpc.ssl_target_name_override", settings.server_name))
        compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        self._url = settings.url
        self._channel: Any
        if settings.secure:
            self._channel = grpc.secure_channel(settings.authority, _credentials(settings), options, compression)
        else:
            self._channel = grpc.insecure_channel(settings.authority, options, compression)
        self._call = self._channel.unary_unary(METHOD)
        self._metadata = settings.headers
        self._running: Any = None
        self._cancelled = False
        self._lock = threading.Lock()

    def send(self, payload: bytes, timeout_s: float) -> Outcome:
        """See Transport."""
        with self._lock:
            if self._cancelled:
                return Outcome(Answer.REFUSED, f"{self._url}: given up")
            timeout = None if math.isinf(timeout_s) else timeout_s
            self._running = call = self._call.future(payload, timeout=timeout, metadata=self._metadata)
        try:
            return taken(call.result())
        except grpc.FutureCancelledError:
            return Outcome(Answer.REFUSED, f"{self._url}: given up")
        except grpc.RpcError as error:
            return self._outcome(error)
        finally:
            self._running = None

    def cancel(self) -> None:
        """See Transport."""
        with self._lock:
            self._cancelled = True
            if (call := self._running) is not None:
                call.cancel()

    def close(self) -> None:
        """See Transport."""
        self._channel.close()

    def _outcome(self, error: Any) -> Outcome:
        code = error.code()
        message = f"{self._url}: {code.name}: {printable(error.details() or '')}"
        details = next((value for key, value in error.trailing_metadata() or () if key == _DETAILS), b"")
        asked_s = retry_info_s(details[:MAX_ANSWER_BYTES])
        if code in _RETRIED or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and asked_s is not None):
            return Outcome(Answer.RETRY, message, retry_after_s=asked_s)
        return Outcome(Answer.REFUSED, message)


def _credentials(settings: OtlpSettings) -> Any:
    root = read_pem(settings.certificate) if settings.certificate else None
    if not settings.client_certificate:
        return grpc.ssl_channel_credentials(root)
    key, chain = read_pem(settings.client_key), read_pem(settings.client_certificate)
    if b"ENCRYPTED" in key:
        raise UsageError(f"{settings.client_key!r}: the key is encrypted", hint="Give a key without a passphrase.")
    return grpc.ssl_channel_credentials(root, key, chain)
