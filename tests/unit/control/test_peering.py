# SPDX-License-Identifier: Apache-2.0
"""Agents of nodes that ask one another over TLS on loopback: who is heard, what is bounded, and what becomes of each question."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.control import peering as peering_module
from kernelspan_agent.control import peerlines, peerserver
from kernelspan_agent.control.peering import Peering, canonical, check_endpoint
from kernelspan_agent.errors import UsageError
from kernelspan_agent.trace.peers import Origin, Outcome, Query, Question, Sent
from kernelspan_api.control import RESOLVE, control_pb2, peer_name
from kernelspan_api.control.control_pb2 import Introduction
from kernelspan_operator.services.authority import Pair, advanced, peer_pair, server_pair
from tests.support.peers import Nodes, nodes, wait_for

FAR = "10.0.0.9"
SENT = Sent((1 << 64) - 1, 7, 9, True, 1_790_000_000_000_000_000, 1_790_000_000_500_000_000)


@dataclass
class Side:
    """An agent's stage that traces, of which `known` is by number what it can tell; else it says that nobody has."""

    peering: Peering
    known: dict[int, tuple[Outcome, Sent | None]]
    asked: int = 0

    def step(self) -> list[tuple[int, Outcome, Origin | None]]:
        for question in self.peering.asked():
            self.asked += 1
            question.reply(*self.known.get(question.exchange_id, (Outcome.NOBODY, None)))
        self.peering.flush()
        return list(self.peering.heard())


def sides(made: Nodes, known: dict[int, tuple[Outcome, Sent | None]]) -> tuple[Side, Side]:
    """Who asks and who is asked, which knows this."""
    for each in made.peerings.values():
        each.attach(time.time_ns)
    first, second = made.peerings.values()
    return Side(first, {}), Side(second, known)


def ask(side: Side, *numbers: int, address: str = FAR) -> None:
    for number in numbers:
        side.peering.ask(Query(number * 10, address, number, 5, "uid"))


def until(condition: Callable[[], object], *running: Side) -> list[tuple[int, Outcome, Origin | None]]:
    """What the first of them has heard until it is so."""
    heard: list[tuple[int, Outcome, Origin | None]] = []

    def step() -> object:
        for each in reversed(running):
            found = each.step()
        heard.extend(found)
        return condition()

    wait_for(step, "heard")
    return heard


def test_one_asks_and_is_told() -> None:
    """Each answer bears the key of its question; what the clocks differ by is between bounds that hold."""
    with nodes("a", "b") as made:
        made.place("a", FAR, "b")
        one, other = sides(made, {1: (Outcome.FOUND, SENT), 2: (Outcome.AMBIGUOUS, None)})
        hour = 3600_000_000_000
        other.peering.attach(lambda: time.time_ns() + hour)
        ask(one, 1, 2, 3)
        heard: list[tuple[int, Outcome, Origin | None]] = []

        def step() -> bool:
            heard.extend(one.step())
            other.step()
            return len(heard) == 3

        wait_for(step, "heard")
        by_key = {key: (outcome, origin) for key, outcome, origin in heard}
        assert {key: outcome for key, (outcome, _) in by_key.items()} == {
            10: Outcome.FOUND, 20: Outcome.AMBIGUOUS, 30: Outcome.NOBODY,
        }  # fmt: skip
        origin = by_key[10][1]
        assert origin is not None
        assert origin.sent == SENT
        assert origin.ahead_ns[0] <= hour <= origin.ahead_ns[1]
        assert one.peering.counts == {"Found": 1, "Ambiguous": 1, "Nobody": 1}


def test_pending_is_told_at_once_and_the_rest_later() -> None:
    """A question that has been answered so is still open."""
    with nodes("a", "b") as made:
        made.place("a", FAR, "b")
        one, other = sides(made, {})
        ask(one, 1)
        questions: list[Question] = []
        heard: list[tuple[int, Outcome, Origin | None]] = []

        def step(count: int) -> bool:
            for question in other.peering.asked():
                questions.append(question)
                question.reply(Outcome.PENDING, None)
            other.peering.flush()
            heard.extend(one.step())
            return len(heard) == count

        wait_for(lambda: step(1), "pending")
        questions[0].reply(Outcome.FOUND, SENT)
        wait_for(lambda: step(2), "found")
        assert [(key, outcome) for key, outcome, _ in heard] == [(10, Outcome.PENDING), (10, Outcome.FOUND)]


def test_whom_nobody_knows_is_not_asked() -> None:
    """Of an address without a node, of this node's own, of this machine's, and of none at all."""
    with nodes("a", "b") as made:
        one, _ = sides(made, {})
        made.place("a", "10.0.0.1", "a")
        ask(one, 1, address="10.0.0.1")
        ask(one, 2, address="127.0.0.1")
        ask(one, 3, address="::ffff:127.0.0.1")
        ask(one, 4, address="what")
        ask(one, 5, 6, address="10.0.0.2")
        until(lambda: one.peering.counts.total() == 6, one)
        assert one.peering.counts == {"Here": 4, "Unlocated": 2}


def test_an_operator_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known goes on to be used; what it was asked about and has not said is nobody's."""
    monkeypatch.setattr(peering_module, "KNOWN_SECONDS", 0.0)
    with nodes("a", "b") as made:
        made.place("a", FAR, "b")
        one, other = sides(made, {1: (Outcome.FOUND, SENT)})
        monkeypatch.setattr(one.peering.meeting, "enquire", lambda _addresses: True)
        ask(one, 1)
        ask(one, 2, address="10.0.0.2")
        wait_for(lambda: [one.step()] and len(one.peering._unplaced) == 2, "asked about")
        one.peering.introduced(Introduction())
        wait_for(lambda: [other.step(), one.step()] and one.peering.counts.total() == 2, "settled")
        assert one.peering.counts == {"Found": 1, "Unlocated": 1}


def test_where_nothing_is_traced_any_more_nobody_waits() -> None:
    """Questions that nobody has fetched are answered, as are those that come later."""
    with nodes("a", "b") as made:
        made.place("a", FAR, "b")
        one, other = sides(made, {})
        ask(one, 1)
        wait_for(lambda: [one.step()] and other.peering._questions, "asked")
        other.peering.attach(None)
        ask(one, 2)
        until(lambda: one.peering.counts["Nobody"] == 2, one)


def test_an_agent_that_is_gone() -> None:
    """What was to be asked of it is lost, and it is not dialled for each question anew; when it is back it is asked."""
    with nodes("a", "b") as made:
        made.place("a", FAR, "nobody:1")
        one, _ = sides(made, {})
        made.place("a", FAR, "127.0.0.1:9")
        ask(one, 1)
        until(lambda: one.peering.counts["Unreachable"] == 1, one)
        ask(one, 2, 3)
        until(lambda: one.peering.counts["Unreachable"] == 3, one)
        made.place("a", FAR, "b")
        _, other = sides(made, {4: (Outcome.FOUND, SENT)})
        ask(one, 4)
        wait_for(lambda: [other.step(), one.step()] and one.peering.counts["Found"], "asked again")


def test_it_must_be_the_agent_of_that_node() -> None:
    """Another node's agent in its place is not asked anything."""
    with nodes("a", "b") as made:
        made.place("a", FAR, "b", called="c")
        one, other = sides(made, {1: (Outcome.FOUND, SENT)})
        ask(one, 1)
        until(one.peering.counts.total, one, other)
        assert one.peering.counts == {"Unreachable": 1}
        assert other.asked == 0


def resolve(endpoint: str, node: str, trusted: bytes, pair: Pair | None, *queries: bytes) -> list[control_pb2.Verdict]:
    """What a stranger is answered who sends this. Raises grpc.RpcError."""
    key, certificate = (pair.key, pair.certificate) if pair is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted, key, certificate)
    options = [("grpc.ssl_target_name_override", peer_name(node))]
    with grpc.secure_channel(endpoint, credentials, options) as channel:
        method = channel.stream_stream(
            RESOLVE, request_serializer=None, response_deserializer=control_pb2.ExchangeAnswer.FromString
        )
        return [verdict for answer in method(iter(queries), timeout=10) for verdict in answer.verdicts]


def query(*numbers: int) -> bytes:
    questions = [control_pb2.Question(id=number, exchange=number) for number in numbers]
    return control_pb2.ExchangeQuery(questions=questions).SerializeToString()


def test_only_agents_are_heard() -> None:
    """None without a certificate, of another authority, or with the operator's own."""
    with nodes("b") as made:
        now, authority = datetime.now(UTC), made.authority
        endpoint, trusted = made.endpoint("b"), made.authority.certificate
        other = advanced(None, now).current
        for pair in (None, peer_pair(other, "a", now), server_pair(authority, ["localhost"], now)):
            with pytest.raises(grpc.RpcError) as error:
                resolve(endpoint, "b", trusted, pair, query(1))
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert [one.outcome for one in resolve(endpoint, "b", trusted, peer_pair(authority, "a", now), query(1))] == [
            control_pb2.Verdict.OUTCOME_NOBODY  # nothing is traced here
        ]


def test_what_is_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions beyond those of a second, streams beyond some, messages beyond their bound; all others are answered."""
    monkeypatch.setattr(peerserver, "QUESTIONS_PER_SECOND", 50)
    with nodes("b") as made:
        pair = peer_pair(made.authority, "a", datetime.now(UTC))
        endpoint, trusted = made.endpoint("b"), made.authority.certificate
        found = resolve(endpoint, "b", trusted, pair, query(*range(1, 1001)))
        assert sorted(one.id for one in found) == list(range(1, 1001))
        refused = sum(one.outcome == control_pb2.Verdict.OUTCOME_REFUSED for one in found)
        assert 500 < refused <= 950
        with pytest.raises(grpc.RpcError) as error:
            resolve(endpoint, "b", trusted, pair, query(*range(1, 100_000)))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        monkeypatch.setattr(peerserver, "MAX_STREAMS_OF_NODE", 0)
        with pytest.raises(grpc.RpcError):
            resolve(endpoint, "b", trusted, pair, query(1))
        assert made.peerings["b"].refused == {"TooMany": 1}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_whatever_is_sent(messages: list[bytes]) -> None:
    """The agent that is asked lives on."""
    made = _ASKED[0]
    pair = peer_pair(made.authority, "a", datetime.now(UTC))
    with contextlib.suppress(grpc.RpcError):
        resolve(made.endpoint("b"), "b", made.authority.certificate, pair, *messages)
    assert len(resolve(made.endpoint("b"), "b", made.authority.certificate, pair, query(1))) == 1


_ASKED: list[Nodes] = []


@pytest.fixture(autouse=True, scope="module")
def _asked() -> Iterator[None]:
    with nodes("b") as made:
        _ASKED.append(made)
        yield


@contextlib.contextmanager
def liar(authority: Pair, node: str, answers: list[bytes], *, once: bool = False) -> Iterator[str]:
    """An agent of the cluster that answers each query with all of these, or one of a stream; where it is."""
    pair = peer_pair(authority, node, datetime.now(UTC))

    def lie(queries: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for _ in queries:
            yield from answers
            if once:
                return

    server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.stream_stream_rpc_method_handler(lie)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("kernelspan.v1alpha1.Peer", {"Resolve": handler}),)
    )
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)], authority.certificate, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_answers_to_what_was_not_asked() -> None:
    """Are nobody's; those that cannot be, of clocks that run backwards or of outcomes unknown here, join nothing."""
    verdict = control_pb2.Verdict
    found = {"outcome": verdict.OUTCOME_FOUND, "trace_low": 1, "span_id": 1}
    answers = [
        control_pb2.ExchangeAnswer(sent_ns=1, verdicts=[verdict(id=77, **found), verdict(id=77, outcome=5)]),
        control_pb2.ExchangeAnswer(sent_ns=(1 << 64) - 1, verdicts=[verdict(id=1, arrived_ns=5, **found)]),
        control_pb2.ExchangeAnswer(verdicts=[verdict(id=1, **found), verdict(id=2, outcome=99)]),
    ]
    with nodes("a", "b") as made, liar(made.authority, "c", [one.SerializeToString() for one in answers]) as endpoint:
        made.place("a", FAR, endpoint, called="c")
        one, _ = sides(made, {})
        ask(one, 1, 2)
        heard = until(lambda: one.peering.counts.total() == 4, one)
        assert one.peering.counts == {"Unasked": 2, "Unsound": 1, "Nobody": 1}
        assert [origin for _, _, origin in heard] == [None] * len(heard)


def test_a_line_that_ends_is_made_anew() -> None:
    """An agent whose stream ends again and again is asked on the next one; nothing is lost on one that is no more."""
    answer = control_pb2.ExchangeAnswer(verdicts=[control_pb2.Verdict(id=number, outcome=2) for number in range(1, 12)])
    with nodes("a", "b") as made, liar(made.authority, "c", [answer.SerializeToString()], once=True) as endpoint:
        made.place("a", FAR, endpoint, called="c")
        one, _ = sides(made, {})
        for number in range(1, 11):
            ask(one, number)
            until(lambda number=number: one.peering.counts["Nobody"] == number, one)  # type: ignore[misc]
        assert one.peering.counts["Unreachable"] == 0


def test_what_is_no_answer_ends_the_line() -> None:
    """And what was asked on it is lost."""
    with nodes("a", "b") as made, liar(made.authority, "c", [b"\xff" * 40]) as endpoint:
        made.place("a", FAR, endpoint, called="c")
        one, _ = sides(made, {})
        ask(one, 1)
        until(lambda: one.peering.counts["Unreachable"] == 1, one)


def test_queues_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what waits for its place, for its line, for an answer; and lines themselves."""
    monkeypatch.setattr(peering_module, "MAX_WAITING", 5)
    monkeypatch.setattr(peerlines, "MAX_QUEUED", 3)
    with nodes("a", "b") as made, liar(made.authority, "c", []) as endpoint:
        made.place("a", FAR, endpoint, called="c")
        one, _ = sides(made, {})
        ask(one, *range(10))
        assert one.peering.counts == {"Full": 5}
        until(lambda: one.peering.counts["Full"] == 7, one)
        monkeypatch.setattr(peerlines, "MAX_LINES", 1)
        made.place("a", "10.0.0.1", "b")
        ask(one, 11, address="10.0.0.1")
        until(lambda: one.peering.counts["Full"] == 8, one)


@pytest.mark.parametrize(
    ("address", "found"),
    [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("FD00::0:1", "fd00::1"), ("::1", ""), ("", ""), ("x", ""),
     ("fe80::1%eth0", ""), ("0.0.0.0", "")],
)  # fmt: skip
def test_addresses(address: str, found: str) -> None:
    """As the operator has them, or of no other node."""
    assert canonical(address) == found


def test_endpoints() -> None:
    """An address that a pod's own is put into, whatever family it is of."""
    assert [check_endpoint(text) for text in ("10.1.2.3:1", "[10.1.2.3]:1", "[fd00::1]:65535")] == [
        "10.1.2.3:1", "10.1.2.3:1", "[fd00::1]:65535",
    ]  # fmt: skip
    for text in ("", ":1", "host:1", "10.1.2.3", "10.1.2.3:x", "10.1.2.3:65536", "10.1.2.3:-1"):
        with pytest.raises(UsageError):
            check_endpoint(text)
