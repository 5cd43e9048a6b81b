# SPDX-License-Identifier: Apache-2.0
"""Spans of handshakes: what they say, and whose they are."""

from __future__ import annotations

import msgspec
import pytest

from kernelspan_agent.model import Kind
from kernelspan_agent.protocols.tls import Handshake
from kernelspan_agent.protocols.tlswire import ClientHello, ServerHello
from kernelspan_agent.trace.tlsspans import segment
from kernelspan_api.subjects import Request

WANTED = msgspec.convert({"protocol": "HTTP"}, Request)
ENDS = ("10.0.0.1", 40000, "10.0.0.2", 443)


def handshake(
    name: str = "shop.test", *, is_server: bool = False, version: str = "tls 1.3", alert: str = ""
) -> Handshake:
    answer = None if alert else ServerHello(version, "h2")
    return Handshake(is_server, 1, hello=ClientHello(bytes(32), name, ("h2", "http/1.1")), answer=answer, alert=alert)


def test_of_a_client() -> None:
    """The server is who the client asks for, else its address."""
    found = segment(handshake(), WANTED, ENDS, "None")
    assert (found.name, found.kind, found.error) == ("TLS handshake", Kind.CLIENT, "")
    assert found.attributes == {
        "network.protocol.name": "tls",
        "network.transport": "tcp",
        "server.address": "shop.test",
        "server.port": 443,
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 443,
        "kernelspan.tls.protocols.offered": ("h2", "http/1.1"),
        "tls.protocol.name": "tls",
        "tls.protocol.version": "1.3",
        "tls.next_protocol": "h2",
    }
    assert segment(handshake(""), WANTED, ENDS, "None").attributes["server.address"] == "10.0.0.2"


def test_of_a_server() -> None:
    """The client is its peer."""
    found = segment(handshake(is_server=True), WANTED, ENDS, "None")
    said = found.attributes
    assert (found.kind, said["server.address"], said["server.port"]) == (Kind.SERVER, "shop.test", 40000)
    assert (said["client.address"], said["kernelspan.correlation"]) == ("10.0.0.2", "None")


@pytest.mark.parametrize(("version", "told"), [("ssl 3", ("ssl", "3")), ("", (None, None))])
def test_versions(version: str, told: tuple[str | None, str | None]) -> None:
    """By the conventions' names; of one that is not known none."""
    said = segment(handshake(version=version), WANTED, ENDS, "None").attributes
    assert (said.get("tls.protocol.name"), said.get("tls.protocol.version")) == told


def test_refused() -> None:
    """An alert is an error of both ends."""
    for is_server in (False, True):
        found = segment(handshake(alert="protocol_version", is_server=is_server), WANTED, ENDS, "None")
        assert (found.error, found.attributes["error.type"]) == ("protocol_version", "protocol_version")
        assert "tls.protocol.version" not in found.attributes
