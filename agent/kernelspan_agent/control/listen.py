# SPDX-License-Identifier: Apache-2.0
"""The address of `--listen`, and the small HTTP server behind it: GET of a few fixed paths, nothing else.

A client may be slow or hostile: requests are bounded in time, in number at once and in size (http.server's own limits),
and a fault while one is answered is that client's 500, never the agent's end.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from kernelspan_agent.errors import UsageError

_log = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 5.0
MAX_REQUESTS_AT_ONCE = 8
_HINT = "give host:port, such as 127.0.0.1:9464, [::1]:9464, or :9464 for every address"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path gives."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Answer]]


def parse_address(text: str) -> tuple[str, int]:
    """Host ("": every address) and port (0: any that is free) of `--listen`. Raises UsageError."""
    host, separator, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not separator or (":" in bare) != bracketed or any(char.isspace() or char in "/@" for char in bare):
        raise UsageError(f"--listen {text[:80]!r} is no address", hint=_HINT)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(f"--listen {text[:80]!r}: the port must be a number, 0 to 65535", hint=_HINT)
    return bare, int(port)


class Server:
    """Serves in a thread of its own until closed."""

    def __init__(self, address: str, routes: Routes) -> None:
        """Raises UsageError: the address is none, is in use, or is not this machine's."""
        host, port = parse_address(address)
        try:
            self._server = _HttpServer(host, port, routes)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"--listen {address}: {reason}", hint="choose another port or address; `ss -ltnp` shows who listens"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns when nobody listens any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow client must not hold up the agent's end
    request_queue_size = MAX_REQUESTS_AT_ONCE

    def __init__(self, host: str, port: int, routes: Routes) -> None:
        self.routes = routes
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        self.address_family, at = _resolve(host, port)
        super().__init__(at, _Handler)

    def server_bind(self) -> None:
        """Binds; "" takes IPv4 and IPv6 alike. No reverse look-up of the name, which HTTPServer would make."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """One more thread, if there are not too many."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """In that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""
        del request
        _log.debug("listen.client_failed client=%s", client_address, exc_info=True)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if not host:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return family, ("", port)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, at = found[0]
    return family, (str(at[0]), int(at[1]))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _HttpServer
    timeout = REQUEST_TIMEOUT_SECONDS

    def version_string(self) -> str:
        """The Server header: no versions for strangers."""
        return "kernelspan"

    def do_GET(self) -> None:
        """A path of the table, or 404."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without the body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        route = self.server.routes.get(self.path.partition("?")[0])
        try:
            answer = route() if route else Answer(HTTPStatus.NOT_FOUND, "\n".join([*self.server.routes, ""]).encode())
        except Exception:  # noqa: BLE001 - a fault while answering must not end the server's thread
            _log.exception("listen.fault path=%s", self.path)
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"fault\n")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Requests are not logged."""
