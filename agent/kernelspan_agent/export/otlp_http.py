# SPDX-License-Identifier: Apache-2.0
"""OTLP/HTTP with protobuf bodies over one kept-alive connection.

Retried are 429, 502, 503 and 504, as the OTLP specification lists them, and everything that happens before an answer.
Redirects are not followed and proxies not asked: the endpoint is where spans may go, and nowhere else.
This module imports http.client, with TLS also ssl: import it only where an endpoint asks for it.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import math
import socket
import threading
import time
import zlib
from typing import TYPE_CHECKING

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.answers import MAX_ANSWER_BYTES, printable, status_message, taken
from kernelspan_agent.export.encode import scope_version
from kernelspan_agent.export.sender import Answer, Outcome
from kernelspan_agent.export.settings import OtlpSettings

if TYPE_CHECKING:
    import ssl

_RETRIED = {429, 502, 503, 504}
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_GZIP_LEVEL = 1  # a third of the CPU of level 6 for a tenth more bytes on span batches
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class HttpTransport:
    """A Transport (see sender) over one connection, made when needed."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Raises UsageError for certificates that TLS cannot use."""
        self._settings = settings
        self._context = _tls_context(settings) if settings.secure else None
        self._headers = {
            **dict(settings.headers),
            "content-type": _PROTOBUF,
            "user-agent": f"kernelspan/{scope_version()}",
        }
        if settings.gzip:
            self._headers["content-encoding"] = "gzip"
        self._connection: http.client.HTTPConnection | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def send(self, payload: bytes, timeout_s: float) -> Outcome:
        """See Transport."""
        body = _gzip(payload) if self._settings.gzip else payload
        deadline_s = time.monotonic() + timeout_s
        reused = self._connection is not None
        try:
            return self._attempt(body, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            # A kept connection that the server closed meanwhile says nothing about the server.
            if not reused or isinstance(error, TimeoutError) or self._cancelled:
                return self._failed(error)
        try:
            return self._attempt(body, max(0.001, deadline_s - time.monotonic()))
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            return self._failed(error)

    def cancel(self) -> None:
        """See Transport."""
        with self._lock:
            self._cancelled = True
            held = self._connection.sock if self._connection else None
        if held is not None:
            _shut(held)

    def close(self) -> None:
        """See Transport."""
        self._drop()

    def _attempt(self, body: bytes, timeout_s: float) -> Outcome:
        connection = self._connect(None if math.isinf(timeout_s) else timeout_s)
        # A socket's own timeout starts anew with every byte: a server that drips its answer would hold us for ever.
        expired = threading.Event()
        watch = threading.Timer(min(timeout_s, threading.TIMEOUT_MAX), _expire, [connection.sock, expired])
        watch.daemon = True
        watch.start()
        try:
            connection.request("POST", self._settings.path, body, self._headers)
            with connection.getresponse() as answer:
                content = answer.read(MAX_ANSWER_BYTES)
                self._check_whole(answer, content, expired.is_set())
                if answer.will_close or not answer.isclosed():
                    self._drop()
                return self._outcome(answer, content)
        finally:
            watch.cancel()

    def _check_whole(self, answer: http.client.HTTPResponse, content: bytes, expired: bool) -> None:
        """What we cut off ourselves, or the server did, must not pass for a short answer, which means success."""
        if self._cancelled:
            raise OSError("given up")
        if expired:
            raise TimeoutError("timed out")
        if answer.length and len(content) < MAX_ANSWER_BYTES:
            raise http.client.IncompleteRead(content, answer.length)

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        with self._lock:
            if self._cancelled:
                raise OSError("given up")
            if self._connection is None:
                host, port = self._settings.host, self._settings.port
                self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
                if self._context is not None:  # which the header Host does not name
                    self._connection.default_port = http.client.HTTPS_PORT
            connection = self._connection
        connection.timeout = timeout_s
        if connection.sock is None:
            self._open(connection)
        connection.sock.settimeout(timeout_s)
        return connection

    def _open(self, connection: http.client.HTTPConnection) -> None:
        connection.connect()
        if self._context is not None:
            name = self._settings.server_name or self._settings.host
            try:
                connection.sock = self._context.wrap_socket(connection.sock, server_hostname=name)
            except UnicodeError as error:  # a name that can be none
                raise OSError(str(error)) from error

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: Exception) -> Outcome:
        words = printable(str(error) or type(error).__name__)
        answer = Answer.REFUSED if self._cancelled else Answer.RETRY
        return Outcome(answer, f"{self._settings.url}: {words}")

    def _outcome(self, answer: http.client.HTTPResponse, content: bytes) -> Outcome:
        kind = (answer.getheader("content-type") or "").partition(";")[0].strip().lower()
        if 200 <= answer.status < 300:
            outcome = _success(kind, content)
            if outcome.answer is Answer.TAKEN:
                return outcome
            return Outcome(outcome.answer, f"{self._settings.url}: {outcome.message}")
        words = status_message(content) if kind == _PROTOBUF else printable(content[:300])
        message = f"{self._settings.url}: {answer.status} {printable(answer.reason)}" + (f": {words}" if words else "")
        if answer.status in _RETRIED:
            return Outcome(Answer.RETRY, message, retry_after_s=_retry_after_s(answer.getheader("retry-after")))
        return Outcome(Answer.REFUSED, message)


def _success(kind: str, content: bytes) -> Outcome:
    """An empty body is the empty response in every encoding; a page of some other server is no acknowledgement."""
    if not content or kind == _PROTOBUF:
        return taken(content)
    if kind != _JSON:
        return Outcome(Answer.REFUSED, f"the answer is no OTLP response but {printable(kind) or 'of no type'}")
    try:
        partial = json.loads(content).get("partialSuccess") or {}
        rejected = int(partial.get("rejectedSpans", 0))
        return Outcome(Answer.TAKEN, printable(str(partial.get("errorMessage", ""))), max(0, rejected))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Outcome(Answer.REFUSED, "the answer is no OTLP response")


def _retry_after_s(value: str | None) -> float | None:
    """Retry-After (RFC 9110, 10.2.3): seconds or a date; None where it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _shut(held: socket.socket) -> None:
    """Ends whatever another thread waits for on the socket."""
    with contextlib.suppress(OSError):
        held.shutdown(socket.SHUT_RDWR)


def _expire(held: socket.socket, expired: threading.Event) -> None:
    expired.set()
    _shut(held)


def _gzip(payload: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return packer.compress(payload) + packer.flush()


def _tls_context(settings: OtlpSettings) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - 2 MB resident

    try:
        context = ssl.create_default_context(cafile=settings.certificate or None)
    except (OSError, ValueError) as error:
        raise UsageError(f"OTEL_EXPORTER_OTLP_CERTIFICATE {settings.certificate!r}: {error}") from error
    if not settings.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.client_certificate:
        try:
            # Without a password function an encrypted key would be asked for on the terminal.
            context.load_cert_chain(settings.client_certificate, settings.client_key, password=lambda: "")
        except (OSError, ValueError) as error:
            names = f"{settings.client_certificate!r} and {settings.client_key!r}"
            raise UsageError(f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY {names}: {error}") from error
    return context
