# SPDX-License-Identifier: Apache-2.0
"""A real name server and real resolvers, unmodified: a span for each question, as the server's own log has them.

What is right is what the server says it was asked and has answered, and what the clients say they were told.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import databases, nameservers, runs
from tests.support.generators import compiled_go
from tests.support.nameservers import Asked, NameServer
from tests.support.otlp_json import ReceivedSpan
from tests.support.runs import Run

pytestmark = pytest.mark.root
CLIENT = runs.PROGRAMS / "dns_client.py"
NAMES = [
    *(f"h{number}.good.lab" for number in range(nameservers.HOSTS)),
    *(f"none{number}.good.lab" for number in range(100)),
    *(f"x{number}.refused.lab" for number in range(20)),
    *(f"big{number}.good.lab" for number in range(nameservers.BIG)),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameServer]:
    """One for all."""
    with nameservers.unbound(tmp_path_factory.mktemp("unbound")) as running:
        yield running


def profile(folder: Path, role: str = "Client", **spec: object) -> Path:
    """DNS alone."""
    requests = [{"protocol": "DNS", "roles": [role]}]
    return runs.profile(folder, requests=requests, **{"code": {"functions": True}, **spec})


def lookups(ran: Run) -> list[ReceivedSpan]:
    """The spans of questions, in the order of their start."""
    return sorted(
        (span for span in ran.spans if "dns.question.name" in span.attributes), key=lambda span: span.start_ns
    )


def seen(found: list[ReceivedSpan]) -> Asked:
    """As the server's log has it."""
    return Counter(
        (
            str(span.attributes["dns.question.name"]),
            str(span.attributes["kernelspan.dns.question.type"]),
            str(span.attributes.get("kernelspan.dns.response.code", "NOERROR" if is_left(span) else "no answer")),
        )
        for span in found
    )


def is_left(span: ReceivedSpan) -> bool:
    """Whether glibc has not read the answer: one of the two families' was truncated, and both are asked for again."""
    return span.attributes["network.transport"] == "udp" and str(span.attributes["dns.question.name"]).startswith("big")


def check_client(ran: Run, server: NameServer, asked: Asked, said: dict[str, list[str] | str], left: int = 0) -> None:
    """Every question that the server was asked and no other, with what the client says it was told."""
    found = lookups(ran)
    assert seen(found) == asked
    assert sum("kernelspan.dns.response.code" not in span.attributes for span in found) == left
    told = defaultdict[str, set[str]](set)
    for span in found:
        attributes, code = span.attributes, str(span.attributes.get("kernelspan.dns.response.code", "NOERROR"))
        assert (span.kind, span.name) == ("CLIENT", f"DNS {attributes['kernelspan.dns.question.type']}")
        assert (attributes["server.address"], attributes["server.port"]) == (server.address, 53)
        assert attributes["network.protocol.name"] == "dns"
        assert attributes.get("error.type") == (None if code == "NOERROR" else code)
        assert (span.status == "ERROR") == (code != "NOERROR")
        assert 0 < span.start_ns <= span.end_ns
        name = str(attributes["dns.question.name"])
        if attributes.get("kernelspan.dns.answers.missing") == "Truncated":
            assert (attributes["network.transport"], name[:3]) == ("udp", "big")
            assert "dns.answers" not in attributes
        answers = attributes.get("dns.answers", ())
        assert isinstance(answers, tuple | list)
        told[name].update(map(str, answers), [code] if code != "NOERROR" else [])
    assert told == {name: {each} if isinstance(each, str) else set(each) for name, each in said.items()}
    assert ran.report["requests"]["unreadable"] == ran.report["requests"]["bytesLost"] == 0


@pytest.mark.parametrize(
    ("how", "function"), [("glibc", "ask_glibc"), ("dnspython", "ask_dnspython"), ("at-once", "ask_at_once")]
)
def test_client(how: str, function: str, server: NameServer, tmp_path: Path) -> None:
    """Names that are there, that are not, refused, too long for a datagram: each question below who asked it."""
    command = server.resolving(nameservers.python(), CLIENT, how, server.address, "4", *NAMES)
    ran = runs.run(tmp_path, profile(tmp_path), *command)
    assert ran.status == 0, ran.stderr
    asked, said = server.replies(), json.loads(ran.stdout)
    assert sum(asked.values()) >= 1000
    check_client(ran, server, asked, said, left=2 * nameservers.BIG if how == "glibc" else 0)
    by_id = {span.span_id: span for span in ran.spans}
    assert all(function in databases.names_above(span, by_id) for span in lookups(ran))
    transports = Counter(span.attributes["network.transport"] for span in lookups(ran))
    assert transports["tcp"] >= nameservers.BIG


def test_go(server: NameServer, tmp_path: Path) -> None:
    """Its own resolver: of each family a goroutine, whose stack begins with it."""
    names = [name for name in NAMES if "good" in name]
    command = server.resolving(compiled_go("dns_go"), server.address, "8", *names)
    ran = runs.run(tmp_path, profile(tmp_path), *command)
    assert ran.status == 0, ran.stderr
    said = json.loads(ran.stdout)
    check_client(ran, server, server.replies(), said)


def test_c_ares(server: NameServer, tmp_path: Path) -> None:
    """Of Node.js: a thousand questions at once by few sockets."""
    ran = runs.run(tmp_path, profile(tmp_path), "node", runs.PROGRAMS / "dns_client.js", server.address, *NAMES)
    assert ran.status == 0, ran.stderr
    check_client(ran, server, server.replies(), json.loads(ran.stdout))


def test_server(tmp_path: Path) -> None:
    """Unbound itself, traced: the same from the other end, each a trace of its own."""
    with nameservers.prepared(tmp_path) as server, server.log.open("wb") as log:
        with runs.agent(tmp_path, profile(tmp_path, "Server"), *server.command, stdout=log) as started:
            started.wait_until(lambda: nameservers.answers(server.address), "Unbound answers")
            command = [nameservers.python(), CLIENT, "at-once", server.address, "4", *NAMES]
            subprocess.run(command, check=True, capture_output=True, timeout=runs.TIMEOUT_SECONDS)
            ran = started.stop(15)
        server.log.write_text(server.log.read_text() + started.stderr())
        asked = server.replies()
    found = lookups(ran)
    assert sum(asked.values()) >= 1000
    assert seen(found) == asked
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    for span in found:
        code = span.attributes["kernelspan.dns.response.code"]
        assert span.attributes.get("error.type") == ("SERVFAIL" if code == "SERVFAIL" else None)
        assert span.attributes["client.address"] == "127.0.0.1"
    assert Counter(span.attributes["network.transport"] for span in found)["tcp"] == len(NAMES)


HOSTILE = """
import socket, struct, sys, threading, time
def answer(query, number=None, name=None, rcode=0):
    question = query[12:]
    if name is not None:
        question = name + question[-4:]
    return struct.pack(">HHHHHH", struct.unpack_from(">H", query)[0] if number is None else number, 0x8180 | rcode, 1, 0, 0, 0) + question
def serve():
    held = []
    while True:
        query, client = server.recvfrom(2048)
        own = struct.unpack_from(">H", query)[0]
        if own % 8 == 7 and own not in dropped:
            dropped.add(own)
            continue
        held.append((query, client))
        if len(held) < 8:
            continue
        for query, client in reversed(held):
            own = struct.unpack_from(">H", query)[0]
            server.sendto(answer(query, own ^ 0x100, rcode=1), client)
            server.sendto(answer(query, name=b"\\x05wrong\\0", rcode=2), client)
            other.sendto(answer(query, rcode=5), client)
            server.sendto(query, client)
            server.sendto(answer(query)[:14], client)
            server.sendto(answer(query, rcode=3 if own % 2 else 0), client)
            server.sendto(answer(query, rcode=2), client)
        held.clear()
def ask(number):
    query = struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0) + bytes([5]) + b"h%04d" % number + b"\\0" + struct.pack(">HH", 1, 1)
    client.sendto(query, server.getsockname())
    return query
dropped = set()
server, other, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
server.bind(("127.0.0.1", 0)); other.bind(("127.0.0.1", 0))
for each in (server, other, client):
    each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
threading.Thread(target=serve, daemon=True).start()
for first in range(0, 400, 8):
    for number in range(first, first + 8):
        ask(number)
    while first + 7 not in dropped:
        time.sleep(0.001)
    ask(first + 7)
    for _ in range(56):
        client.recvfrom(2048)
print(server.getsockname()[1])
"""


def test_hostile_server(tmp_path: Path) -> None:
    """Answers in the wrong order, twice, with other numbers and names, of somebody else, cut; and the first of a question
    that had to be sent twice is the one.
    """
    ran = runs.run(tmp_path, profile(tmp_path), runs.SYSTEM_PYTHON, "-S", "-c", HOSTILE)
    assert ran.status == 0, ran.stderr
    port = int(ran.stdout)

    def is_asked(span: ReceivedSpan) -> bool:
        return span.kind == "CLIENT" and span.attributes["server.port"] == port

    found = {
        int(str(span.attributes["dns.question.name"])[1:]): (
            span.attributes.get("kernelspan.dns.response.code"),
            span.attributes.get("kernelspan.dns.question.sent", 1),
        )
        for span in lookups(ran)
        if is_asked(span)
    }
    expected = {number: ("NXDOMAIN" if number % 2 else "NOERROR", 2 if number % 8 == 7 else 1) for number in range(400)}
    assert found == expected
    assert sum(map(is_asked, lookups(ran))) == 400
    assert ran.report["requests"]["unreadable"] == 800  # sent and received


def test_beside_resolve(server: NameServer, tmp_path: Path) -> None:
    """With the operation Resolve there are both: of each resolution one, as long as its first answer took."""
    names = NAMES[:20]
    wanted = profile(tmp_path, network={"operations": ["Resolve"]})
    ran = runs.run(
        tmp_path, wanted, *server.resolving(nameservers.python(), CLIENT, "glibc", server.address, "1", *names)
    )
    found = lookups(ran)
    assert (
        seen(found) == server.replies() == Counter((name, kind, "NOERROR") for name in names for kind in ("A", "AAAA"))
    )
    resolves = [span for span in ran.operations if span.name == "dns.resolve"]
    assert len(resolves) == len(names)
    for at, resolve in enumerate(resolves):
        both = found[2 * at : 2 * at + 2]
        assert resolve.start_ns == min(span.start_ns for span in both)
        assert resolve.end_ns == min(span.end_ns for span in both)
        assert resolve.trace_id == both[0].trace_id


def test_the_example(server: NameServer, tmp_path: Path) -> None:
    """As it stands."""
    example = Path(__file__).resolve().parents[2] / "examples" / "22-name-servers.yaml"
    command = server.resolving(
        nameservers.python(), CLIENT, "glibc", server.address, "1", "h1.good.lab", "none1.good.lab"
    )
    ran = runs.run(tmp_path, example, *command)
    assert seen(lookups(ran)) == server.replies()
    assert {span.attributes.get("error.type") for span in lookups(ran)} == {None, "NXDOMAIN"}
