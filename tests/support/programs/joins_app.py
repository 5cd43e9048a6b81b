# SPDX-License-Identifier: Apache-2.0
"""Services of a chain: each answers `/call`, and asks the next one that the header X-Route names (`HOW:WHERE,HOW:WHERE,…`).

Every request has the same method and target. Which it is says X-Hop alone (`NUMBER.DEPTH`), for the test to read. `app` is
one by WSGI, `python joins_app.py proxy PORT [HOST]` one with a thread for each connection, `python joins_app.py ask ROUTE COUNT
[FIRST]` only asks, and `python joins_app.py all COMMAND …` runs several, given as JSON lists, until it is told to end.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_KEPT = threading.local()


def head(hop: str) -> bytes:
    return f"GET /call HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Hop: {hop}\r\n\r\n".encode()


def ask_by_hand(how: str, port: int, number: str) -> None:
    """Three requests at once, by one call or by three; or one, by many."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if how == "split":
            whole = head(f"{number}.1")
            for at in range(0, len(whole), 5):
                connection.send(whole[at : at + 5])
                time.sleep(0.0002)
            assert b" 200 OK" in connection.recv(4096)
            return
        heads = [head(f"{number}.{which}") for which in (1, 2, 3)]
        for each in [b"".join(heads)] if how == "piped" else heads:
            connection.sendall(each)
        said = b""
        while said.count(b" 200 OK") < 3:
            said += connection.recv(4096)


def ask(route: str, hop: str) -> None:
    """The next service; by a connection that is kept, a new one, or the library `requests`."""
    first, _, rest = route.partition(",")
    how, _, port = first.partition(":")
    host, port = port.split(":") if ":" in port else ("127.0.0.1", port)
    number, _, depth = hop.partition(".")
    headers = {"X-Hop": f"{number}.{int(depth) + 1}", "X-Route": rest}
    if how in {"piped", "hasty", "split"}:
        ask_by_hand(how, int(port), number)
        return
    if how == "told":
        headers["traceparent"] = f"00-{int(number):032x}-{int(number):016x}-01"
    if how == "requests":
        import requests

        if not hasattr(_KEPT, "session"):
            _KEPT.session = requests.Session()
        assert _KEPT.session.get(f"http://{host}:{port}/call", headers=headers, timeout=30).status_code == 200
        return
    kept = _KEPT.__dict__.setdefault("connections", {})
    connection = kept.get(port) if how == "kept" else None
    if connection is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
    if how == "kept":
        kept[port] = connection
    connection.request("GET", "/call", headers=headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    if how == "new":
        connection.close()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    hop = environ["HTTP_X_HOP"]
    if environ.get("HTTP_X_ROUTE"):
        ask(environ["HTTP_X_ROUTE"], hop)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(hop)))])
    return [hop.encode()]


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hop = self.headers["X-Hop"]
        if self.headers["X-Route"]:
            ask(self.headers["X-Route"], hop)
        self.send_response(200)
        self.send_header("Content-Length", str(len(hop)))
        self.end_headers()
        self.wfile.write(hop.encode())

    def log_message(self, *_: object) -> None:
        pass


def until_it_listens(where: str) -> None:
    host, _, port = where.rpartition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=30):
            return
        time.sleep(0.01)


def run_all(commands: list[str]) -> None:
    programs = [subprocess.Popen(json.loads(command)) for command in commands]
    signal.signal(signal.SIGTERM, lambda *_: [each.terminate() for each in programs])
    for each in programs:
        each.wait()


if __name__ == "__main__":
    if sys.argv[1] == "all":
        run_all(sys.argv[2:])
    elif sys.argv[1] == "ask":
        until_it_listens(sys.argv[2].partition(",")[0].partition(":")[2])
        first = int(sys.argv[4]) if sys.argv[4:] else 1
        for number in range(first, first + int(sys.argv[3])):
            ask(sys.argv[2], f"{number}.0")
    else:
        server = http.server.ThreadingHTTPServer(
            (sys.argv[3] if sys.argv[3:] else "127.0.0.1", int(sys.argv[2])), Proxy
        )
        server.daemon_threads = True
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
