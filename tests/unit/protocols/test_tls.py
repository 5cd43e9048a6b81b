# SPDX-License-Identifier: Apache-2.0
"""TLS as an onlooker reads it: hellos of OpenSSL, whole, in pieces, cut, and what is no hello."""

from __future__ import annotations

import contextlib
import functools
import ssl

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import WireProtocol
from kernelspan_agent.protocols.tls import Handshake
from kernelspan_agent.protocols.tlswire import HEADER_BYTES, Hellos, client_hello, server_hello
from tests.support.wire import Wire

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("shop.test")


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


@functools.cache  # they are others each time
def hellos(
    name: str | None = "shop.test",
    offered: tuple[str, ...] = (),
    chosen: tuple[str, ...] = (),
    client: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    server: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[bytes, bytes]:
    """What an OpenSSL client says first, and what an OpenSSL server answers."""
    asking, answering = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.configure_trust(asking)
    CERTIFICATE.configure_cert(answering)
    asking.check_hostname = name is not None
    asking.minimum_version = asking.maximum_version = client
    answering.minimum_version = answering.maximum_version = server
    if offered:
        asking.set_alpn_protocols(list(offered))
    if chosen:
        answering.set_alpn_protocols(list(chosen))
    said = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    ends = [
        asking.wrap_bio(said[1], said[0], server_hostname=name),
        answering.wrap_bio(said[0], said[1], server_side=True),
    ]
    found = []
    for end, out in zip(ends, said, strict=True):
        with contextlib.suppress(ssl.SSLError):  # wants more; or refuses, and says so to the other end
            end.do_handshake()
        found.append(out.read())
        out.write(found[-1])
    return found[0], found[1]


def wire(*, is_server: bool = False) -> Wire[Handshake]:
    return Wire(WireProtocol.TLS, is_server)


@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_both_say(version: ssl.TLSVersion, *, is_server: bool) -> None:
    """The name, what is offered, the version; in TLS 1.2 what was chosen."""
    ask, answer = hellos(offered=("h2", "http/1.1"), chosen=("http/1.1",), client=version, server=version)
    line = wire(is_server=is_server)
    line.move(ask, asks=True)
    line.move(answer, asks=False)
    (found,) = line.began
    assert line.ended == [found]
    assert (found.hello.server_name, found.hello.protocols) == ("shop.test", ("h2", "http/1.1"))
    assert found.answer is not None
    is_old = version is ssl.TLSVersion.TLSv1_2
    assert (found.answer.version, found.answer.protocol) == (("tls 1.2", "http/1.1") if is_old else ("tls 1.3", ""))
    assert found.said == (ask[11:43].hex(),)
    assert (found.is_server, found.start_ns, found.end_ns) == (is_server, 10 if is_server else 5, 20)
    line.move(record(23, b"x" * 100), asks=True)
    line.move(ask, asks=True)  # whatever it looks like
    line.move(answer, asks=False)
    assert (len(line.began), len(line.ended)) == (1, 1)


def test_without_a_name() -> None:
    """Neither a name nor protocols: nothing is made up."""
    ask, answer = hellos(name=None)
    line = wire()
    line.move(ask, asks=True)
    line.move(answer, asks=False)
    assert (line.began[0].hello.server_name, line.began[0].hello.protocols) == ("", ())


def test_refused() -> None:
    """A server that wants no such version says so by an alert."""
    ask, answer = hellos(client=ssl.TLSVersion.TLSv1_2, server=ssl.TLSVersion.TLSv1_3)
    assert answer[0] == 21
    line = wire()
    line.move(ask, asks=True)
    line.move(answer[:HEADER_BYTES], asks=False)
    assert not line.ended
    line.move(answer[HEADER_BYTES:], asks=False)
    assert [(each.alert, each.answer) for each in line.ended] == [("protocol_version", None)]


def test_a_warning_before_the_answer() -> None:
    """Is no refusal."""
    ask, answer = hellos()
    line = wire()
    line.move(ask, asks=True)
    line.move(record(21, b"\x01\x70") + answer, asks=False)
    (found,) = line.ended
    assert found.answer is not None
    assert (found.alert, found.answer.version) == ("", "tls 1.3")


@given(st.sets(st.integers(1, 230)), st.booleans(), st.booleans())
def test_in_pieces(cuts: set[int], is_server: bool, records: bool) -> None:
    """However many calls read a hello, the first a record's header at least; and however many records it is in."""
    ask, answer = hellos(offered=("h2",))
    if records:
        ask = record(22, ask[5:60]) + record(22, ask[60:61]) + record(22, ask[61:])
    line, at = wire(is_server=is_server), 0
    for cut in sorted({HEADER_BYTES, *(each for each in cuts if each > HEADER_BYTES)}):
        line.move(ask[at:cut], asks=True)
        at = max(at, min(cut, len(ask)))
    line.move(ask[at:], asks=True)
    line.move(answer[:HEADER_BYTES], asks=False)
    line.move(answer[HEADER_BYTES:], asks=False)
    (found,) = line.ended
    assert (found.hello.server_name, found.hello.protocols, found.start_ns) == (
        "shop.test",
        ("h2",),
        10 if is_server else 5,
    )
    assert found.answer is not None
    assert found.answer.version == "tls 1.3"


def test_a_hello_longer_than_what_is_copied() -> None:
    """What lies in its first 2 KiB is told, what would lie behind a hole is not."""
    ask, answer = hellos(offered=("h2",))
    long = bytearray(ask[5:])
    at = 4 + 2 + 32
    at += 1 + long[at]
    at += 2 + int.from_bytes(long[at : at + 2], "big")
    at += 1 + long[at]  # where the extensions' length is
    extensions = bytes(long[at + 2 :])
    filler = (21).to_bytes(2, "big") + (6000).to_bytes(2, "big") + bytes(6000)  # padding: RFC 7685
    for order, name in ((extensions + filler, "shop.test"), (filler + extensions, "")):
        body = bytes(long[4:at]) + len(order).to_bytes(2, "big") + order
        line = wire()
        line.move(record(22, b"\x01" + len(body).to_bytes(3, "big") + body), asks=True)
        line.move(answer, asks=False)
        assert [each.hello.server_name for each in line.ended] == [name]


def test_what_was_missed() -> None:
    """A hello whose middle was lost is nobody's; an answer that was lost is none."""
    ask, answer = hellos()
    line = wire()
    line.move(ask[:5], asks=True)
    line.move(ask[5:100], asks=True, seen=False)
    line.move(ask[100:], asks=True)
    line.move(answer, asks=False)
    assert not line.began
    line = wire()
    line.move(ask, asks=True)
    line.move(answer[:50], asks=False, seen=False)
    line.move(answer[50:], asks=False)
    assert [(each.alert, each.answer) for each in line.ended] == [("", None)]
    line = wire()
    line.move(ask, asks=True)
    line.began[0].closed(77)
    assert line.began[0].end_ns == 77


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x00\x05\x02hell", record(23, b"xx"), b"\x16\x03", b"GET / HTTP/1.1"])
def test_what_does_not_begin_one(first: bytes) -> None:
    """A server's hello, what is encrypted already, too little, something else."""
    line = wire()
    line.move(first, asks=True)
    line.move(first, asks=False)
    assert not line.began


@pytest.mark.parametrize(
    ("offered", "subjects"),
    [
        ((), ("HTTP", "GRPC")),
        (("h2", "http/1.1"), ("HTTP", "GRPC")),
        (("http/1.1",), ("HTTP",)),
        (("postgresql",), ()),
    ],
)
def test_whose_it_is(offered: tuple[str, ...], subjects: tuple[str, ...]) -> None:
    """Of a profile that wants HTTP or gRPC, unless the client offers neither."""
    line = wire()
    line.move(hellos(offered=offered)[0], asks=True)
    assert line.began[0].subjects == subjects


@given(st.data())
def test_hostile(data: st.DataObject) -> None:
    """Whatever the bytes are, nothing is raised, and names are printable and short."""
    ask, answer = hellos(offered=("h2",))
    changed = bytearray(data.draw(st.sampled_from([ask, answer])))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=12)):
        changed[at] = value
    cut = data.draw(st.integers(0, len(changed)))
    found = Hellos()
    found.feed(bytes(changed[:cut]))
    message, _ = found.message()
    asked, answered = client_hello(message), server_hello(message)
    texts = [*(asked.protocols if asked else ()), asked.server_name if asked else ""]
    texts += [answered.protocol, answered.version] if answered else []
    assert all(len(each) <= 255 and each.isprintable() for each in texts)
    assert isinstance(found.alert, str)
    client_hello(bytes(changed[:cut]))
    server_hello(bytes(changed[:cut]))
