# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs that speak TLS: of each connection a span of its handshake, which says what the programs say.

Every connection asks for a name of its own, so a span with another's version or offer is wrong. What goes through the
connections afterwards looks like requests of HTTP where it is not encrypted; none may be told.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.support import databases, runs
from tests.support.generators import compiled_go
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import Run

pytestmark = pytest.mark.root
APP = runs.PROGRAMS / "tls_app.py"
COUNT = 60  # connections of each of four threads

Said = list[tuple[str, list[str], str, str, bool]]  # name, offer, version, protocol, whether it was refused


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's certificate, and its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    trustme.CA().issue_cert("shop.test").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def ports(pem: Path) -> Iterator[list[str]]:
    """Of servers that nobody traces: one of all versions, one of TLS 1.3 alone."""
    with subprocess.Popen([runs.SYSTEM_PYTHON, APP, pem], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()
        process.kill()


def profile(folder: Path, *roles: str, protocol: str = "HTTP") -> Path:
    """Its requests alone."""
    return runs.profile(folder, requests=[{"protocol": protocol, "roles": list(roles)}], code={"functions": True})


def handshakes(ran: Run, kind: str) -> list[ReceivedSpan]:
    """All spans of requests of this kind: there are no others."""
    found = [span for span in ran.spans if span.kind == kind]
    assert {span.name for span in found} <= {"TLS handshake"}
    return found


def check(found: list[ReceivedSpan], said: Said) -> None:
    """Of every connection one span, and no other; TLS 1.3 hides what the server has chosen, and refusals are alerts."""
    seen, expected = Counter[object](), Counter[object]()
    for span in found:
        attributes = span.attributes
        version = attributes.get("tls.protocol.version")
        seen[
            attributes["server.address"],
            attributes.get("kernelspan.tls.protocols.offered", ()),
            "" if version is None else f"TLSv{version!s}",
            attributes.get("tls.next_protocol", ""),
            attributes.get("error.type", ""),
        ] += 1
        assert attributes["network.protocol.name"] == "tls"
        assert (span.status == "ERROR") == ("error.type" in attributes)
        assert 0 < span.start_ns < span.end_ns
        assert not [name for name in attributes if name.startswith(("http.", "url."))]
    for name, offered, agreed, chosen, is_refused in said:
        version = agreed.replace("TLS ", "TLSv")
        shown = chosen if version == "TLSv1.2" else ""
        refusal = "protocol_version" if is_refused else ""
        expected[name or "127.0.0.1", tuple(offered), version, shown, refusal] += 1
    assert seen == expected


def test_both_ends(pem: Path, tmp_path: Path) -> None:
    """OpenSSL in Python with itself: the function that asked, and each handshake received is below the one that asked."""
    ran = runs.run(tmp_path, profile(tmp_path, "Client", "Server"), runs.SYSTEM_PYTHON, APP, pem, str(COUNT))
    assert ran.status == 0, ran.stderr
    said: Said = json.loads(ran.stdout)
    assert len(said) == 4 * COUNT
    assert any(refused for *_, refused in said)
    sent, received = handshakes(ran, "CLIENT"), handshakes(ran, "SERVER")
    check(sent, said)
    check(received, said)
    by_id = {span.span_id: span for span in ran.spans}
    assert all("shake_hands" in databases.names_above(span, by_id) for span in sent)
    for span in received:
        above = by_id[span.parent_span_id]
        assert (above.kind, above.trace_id) == ("CLIENT", span.trace_id)
        for key in ("kernelspan.tls.protocols.offered", "tls.protocol.version"):
            assert above.attributes.get(key) == span.attributes.get(key)
        if above.attributes["server.address"] != "127.0.0.1":
            assert above.attributes["server.address"] == span.attributes["server.address"]


def test_go(ports: list[str], tmp_path: Path) -> None:
    """crypto/tls."""
    ran = runs.run(tmp_path, profile(tmp_path, "Client"), compiled_go("tls_go"), ports[0], str(COUNT))
    assert ran.status == 0, ran.stderr
    check(handshakes(ran, "CLIENT"), json.loads(ran.stdout))


def test_go_refused(ports: list[str], tmp_path: Path) -> None:
    """By a server that takes TLS 1.3 alone: each second one."""
    ran = runs.run(tmp_path, profile(tmp_path, "Client"), compiled_go("tls_go"), ports[1], str(COUNT))
    assert ran.status == 0, ran.stderr
    said: Said = json.loads(ran.stdout)
    assert sum(refused for *_, refused in said) == 2 * COUNT
    check(handshakes(ran, "CLIENT"), said)


def test_node(ports: list[str], tmp_path: Path) -> None:
    """OpenSSL behind libuv, twenty at once."""
    program = runs.PROGRAMS / "tls_client.js"
    ran = runs.run(tmp_path, profile(tmp_path, "Client"), "node", program, ports[0], str(4 * COUNT))
    assert ran.status == 0, ran.stderr
    check(handshakes(ran, "CLIENT"), json.loads(ran.stdout))


def test_whose_they_are(pem: Path, tmp_path: Path) -> None:
    """A profile that wants gRPC has those that may carry it; one that wants a database none."""
    ran = runs.run(tmp_path, profile(tmp_path, "Client", protocol="GRPC"), runs.SYSTEM_PYTHON, APP, pem, "15")
    said: Said = json.loads(ran.stdout)
    check(handshakes(ran, "CLIENT"), [each for each in said if not each[1] or "h2" in each[1]])
    ran = runs.run(tmp_path, profile(tmp_path, "Client", protocol="Redis"), runs.SYSTEM_PYTHON, APP, pem, "15")
    assert ran.status == 0
    assert not handshakes(ran, "CLIENT")
