# SPDX-License-Identifier: Apache-2.0
"""The server of --listen against real clients, good and bad, on loopback."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus

import pytest

from kernelspan_agent.control import listen
from kernelspan_agent.control.listen import Answer, Server, parse_address
from kernelspan_agent.errors import UsageError


def fault() -> Answer:
    raise RuntimeError("a bug")


@pytest.fixture
def server() -> Iterator[Server]:
    """On a free port of loopback."""
    routes = {"/ok": lambda: Answer(HTTPStatus.OK, b"fine\n"), "/fault": fault}
    running = Server("127.0.0.1:0", routes)
    yield running
    running.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (" localhost:0 ", ("localhost", 0)),
        (":9464", ("", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """Host and port, IPv6 in brackets, no host for all."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "9464", "host", "host:", "host:x", "host:-1", "host:65536", "host:123456", "::1:9464", "[::1]", "[::1:1", "[host]:1",
     "a b:1", "http://h:1", "u@h:1", "h:\u0661"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """With the option's name and an example."""
    with pytest.raises(UsageError, match="--listen") as caught:
        parse_address(text)
    assert "9464" in caught.value.hint


def test_answers(server: Server) -> None:
    """A path, the same with a query, HEAD without a body, what is not there, what fails, what is not asked for."""
    assert get(server.port, "/ok") == (200, b"fine\n")
    assert get(server.port, "/ok?x=1") == (200, b"fine\n")
    assert get(server.port, "/ok", "HEAD") == (200, b"")
    assert get(server.port, "/other") == (404, b"/ok\n/fault\n")
    assert get(server.port, "/fault")[0] == 500
    assert get(server.port, "/ok", "POST")[0] == 501
    assert get(server.port, "/ok") == (200, b"fine\n")


def test_a_port_in_use_is_said(server: Server) -> None:
    """And nothing else is disturbed."""
    with pytest.raises(UsageError, match="in use"):
        Server(f"127.0.0.1:{server.port}", {})
    assert get(server.port, "/ok")[0] == 200


def test_an_address_of_another_machine_is_said() -> None:
    """TEST-NET-1 is nobody's (RFC 5737)."""
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        Server("192.0.2.1:0", {})


def test_all_addresses_are_served_by_both_families() -> None:
    """No host: IPv4 and IPv6."""
    running = Server(":0", {"/ok": lambda: Answer(HTTPStatus.OK, b"")})
    try:
        assert get(running.port, "/ok")[0] == 200
        if socket.has_dualstack_ipv6():
            with socket.create_connection(("::1", running.port), timeout=10) as client:
                client.sendall(b"GET /ok HTTP/1.0\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.0 200")
    finally:
        running.close()


def test_clients_that_say_nothing_do_not_keep_others_out_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More silent clients than are served at once: they are turned away or time out, then there is room."""
    monkeypatch.setattr(listen._Handler, "timeout", 0.2)
    silent = [
        socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(listen.MAX_REQUESTS_AT_ONCE + 4)
    ]
    try:
        for client in silent:
            assert client.recv(1) == b""
        assert get(server.port, "/ok")[0] == 200
    finally:
        for client in silent:
            client.close()


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"\x00" * 100, b"GET " + b"x" * 70_000 + b" HTTP/1.0\r\n\r\n", b"GET /ok\r\n" * 500]
)
def test_nonsense_is_refused(server: Server, data: bytes) -> None:
    """And the server goes on."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert get(server.port, "/ok")[0] == 200


def test_closing_frees_the_port() -> None:
    """At once, and no thread stays."""
    before = threading.active_count()
    first = Server("127.0.0.1:0", {})
    first.close()
    second = Server(f"127.0.0.1:{first.port}", {})
    second.close()
    assert threading.active_count() == before
