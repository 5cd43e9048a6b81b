# SPDX-License-Identifier: Apache-2.0
"""Both ends of a request on two nodes, whose agents ask one another: one trace, or two, and never a wrong one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.trace import peers
from kernelspan_agent.trace.joins import HOLD_NS, LONG_HOLD_NS
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.peers import Origin, Outcome, Query, Question, Sent, said_hash
from tests.unit.trace.builders import MS, at
from tests.unit.trace.services import Service, World, joined

FAR, THIRD = "10.0.0.9", "10.0.0.7"
LONG = (HOLD_NS + 1) / MS


@dataclass
class Wire:
    """The Post of one world. `others`: by address, whom its questions go to; `ahead_ms`: what their clocks are measured to be."""

    node: str
    others: dict[str, Wire] = field(default_factory=dict)
    ahead_ms: tuple[float, float] = (-1.0, 1.0)
    delay: bool = False  # answers do not come
    queries: list[Query] = field(default_factory=list)
    answers: deque[tuple[int, Outcome, Origin | None]] = field(default_factory=deque)
    questions: deque[Question] = field(default_factory=deque)
    clock: World = field(default_factory=World)

    def ask(self, query: Query) -> None:
        self.queries.append(query)
        if query.address in self.others:
            other = self.others[query.address]
            arrived, reply = at(other.clock.clock), partial(self.reply, query.key)
            other.questions.append(
                Question(self.node, query.exchange_id, query.said, query.profile_uid, arrived, reply)
            )

    def reply(self, key: int, outcome: Outcome, sent: Sent | None) -> None:
        least, most = self.ahead_ms
        ahead = round(least * MS), round(most * MS)
        self.answers.append((key, outcome, Origin(sent, ahead) if sent is not None else None))

    def heard(self) -> list[tuple[int, Outcome, Origin | None]]:
        return [] if self.delay else [self.answers.popleft() for _ in range(len(self.answers))]

    def asked(self) -> list[Question]:
        return [self.questions.popleft() for _ in range(len(self.questions))]

    def flush(self) -> None:
        """All has gone by itself."""


def two() -> tuple[World, World]:
    """The first asks, the second is asked; each can ask the other's agent."""
    first, second = World(), World()
    for world, node in ((first, "a"), (second, "b")):
        world.joins.post = Wire(node, clock=world)
    wire(first).others[THIRD], wire(second).others[FAR] = wire(second), wire(first)
    return first, second


def wire(world: World) -> Wire:
    assert isinstance(world.joins.post, Wire)
    return world.joins.post


def go_on(*worlds: World, after_ms: float = 10.0) -> None:
    """Time goes on everywhere, until nothing is said any more."""
    for each in worlds:
        each.tick(after_ms)
    for _ in range(3):
        for each in worlds:
            each.tick()


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("open_until_then", [True, False])
def test_whichever_end_is_heard_of_first(first: str, *, open_until_then: bool) -> None:
    """The server's span is below the client's of the other node, and says how that is known; what it did is of the trace."""
    here, there = two()
    asks, serves = here.service("asks"), there.service("serves")
    if first == "client":
        asks.asks(5)
    serves.receives(5, peer=FAR)
    inside = serves.do()
    if not open_until_then:
        serves.answers()
    go_on(here, there)
    if first == "server":
        assert serves.shown() == []
        asks.asks(5, ago=15)
        go_on(here, there)
    assert serves.shown() == [inside]
    if open_until_then:
        serves.answers()
    there.end()
    here.end()
    client, server = asks.request("CLIENT"), serves.request()
    assert joined(server, client)
    assert server.attributes["kernelspan.joined"] == "Peer"
    assert server.attributes["kernelspan.correlation"] == "Thread"
    assert "kernelspan.clock.ahead" not in server.attributes
    assert next(span for span in serves.found if span.number == inside).trace == client.trace
    assert (there.joins.joined, there.joins.joined_elsewhere, there.joins.expired) == (1, 1, 0)
    assert here.joins.questions.answered == {Outcome.FOUND: 1}


def test_only_numbers_are_said() -> None:
    """Neither method nor target: a hash of them, another one for each exchange."""
    here, there = two()
    serves = there.service("uid-of-it/3/0123")
    serves.receives(5, "/secret", peer=FAR)
    go_on(here, there)
    (query,) = wire(there).queries
    assert (query.address, query.exchange_id, query.profile_uid) == (FAR, 5, "uid-of-it")
    assert query.said == said_hash(5, ("GET", "/secret")) != said_hash(6, ("GET", "/secret"))
    assert query.said.bit_length() <= 64
    there.end()


def test_nobody_there_has_asked() -> None:
    """A root, after the hold; the other says so before."""
    here, there = two()
    here.service("asks").asks(6)
    serves = there.service("serves")
    serves.receives(5, peer=FAR)
    go_on(here, there)
    assert here.joins.questions.answered == {}
    go_on(here, there, after_ms=peers.QUESTION_NS / MS)
    assert here.joins.questions.answered == {Outcome.NOBODY: 1}
    go_on(here, there, after_ms=LONG)
    serves.answers()
    there.end()
    assert serves.request().parent == 0
    assert "kernelspan.joined" not in serves.request().attributes
    assert (there.joins.joined, there.joins.expired) == (0, 1)


def test_an_answer_that_comes_too_late_joins_nothing() -> None:
    """The request is a root by then; that there was an answer is counted."""
    here, there = two()
    here.service("asks").asks(5)
    serves = there.service("serves")
    serves.receives(5, peer=FAR)
    wire(there).delay = True
    go_on(here, there)
    go_on(here, there, after_ms=LONG)
    wire(there).delay = False
    go_on(here, there)
    serves.answers()
    there.end()
    assert serves.request().parent == 0
    assert (there.joins.expired, there.joins.passed_over) == (1, 1)


@pytest.mark.parametrize(
    ("ahead_ms", "fits"),
    [((-1, 1), True), ((499, 501), False), ((-520, -500), False), ((-5000, 5000), True), ((3, 4), True)],
)
def test_times_are_compared_as_far_as_clocks_are_known(ahead_ms: tuple[float, float], *, fits: bool) -> None:
    """What was certainly received before it was sent, or after it was answered, is another's."""
    here, there = two()
    wire(there).ahead_ms = ahead_ms
    asks, serves = here.service("asks"), there.service("serves")
    asks.asks(5)
    here.clock += 100
    there.clock += 50
    serves.receives(5, peer=FAR)
    asks.told()
    go_on(here, there)
    serves.answers()
    there.end()
    server = serves.request()
    assert (server.parent != 0) == fits
    assert there.joins.passed_over == (not fits)
    assert server.attributes.get("kernelspan.clock.ahead") == (3 * MS if ahead_ms == (3, 4) else None)


def test_who_waits_for_a_third_node_is_waited_for() -> None:
    """A trace over three nodes, whose first request is settled only after its hold: one trace, in spite of that.

    So is one of the middle node's own, which began long after and waits for less.
    """
    first, second, third = World(), World(), World()
    for world, node in ((first, "a"), (second, "b"), (third, "c")):
        world.joins.post = Wire(node, clock=world)
    wire(second).others[FAR], wire(third).others[FAR] = wire(first), wire(second)
    front, middle, back = first.service("front"), second.service("middle"), third.service("back")
    beside = second.service("beside")
    front.receives(1)  # of nobody: it waits to the end of its hold
    front.asks(2)
    middle.receives(2, peer=FAR)
    middle.asks(3)
    back.receives(3, peer=FAR)
    inside = back.do()
    middle.asks(4, "/b", on=101)
    beside.receives(4, "/b", peer="127.0.0.1")
    second.clock += 300  # a clock that is ahead: its holds end first
    for _ in range(8):
        go_on(first, second, third, after_ms=100)
    for each in (back, middle, beside):
        each.answers()
    for service in (middle, front):
        service.told()
    front.answers()
    for world in (third, second, first):
        world.end()
    assert front.request().parent == 0
    assert joined(middle.request(), front.request("CLIENT"))
    assert beside.request(path="/b").trace == middle.request().trace
    assert joined(back.request(), middle.request("CLIENT"))
    assert next(span for span in back.found if span.number == inside).trace == front.request().trace
    assert [world.joins.expired for world in (first, second, third)] == [1, 0, 0]


def test_what_never_becomes_known_is_given_up() -> None:
    """The other has said that it will, and does not: a root after the longer hold."""
    here, there = two()
    serves = there.service("serves")
    serves.receives(5, peer=FAR)
    go_on(here, there)
    wire(there).reply(wire(there).queries[0].key, Outcome.PENDING, None)
    go_on(here, there, after_ms=LONG)
    assert there.joins.waiting == 1
    go_on(here, there, after_ms=LONG_HOLD_NS / MS)
    assert there.joins.waiting == 0
    there.end()


def test_the_same_number_twice_joins_nothing() -> None:
    """At the end that asked, at the end that received, or claimed by two nodes."""
    here, there = two()
    asks, serves = here.service("asks"), there.service("serves")
    asks.asks(5)
    asks.asks(5, on=101)
    serves.receives(5, peer=FAR)
    go_on(here, there)
    assert here.joins.questions.answered == {Outcome.AMBIGUOUS: 1}
    asks.asks(6, on=102)
    serves.receives(6, on=2, peer=FAR)
    serves.receives(6, on=3, peer=FAR)
    asks.asks(7, on=103)
    other = World()
    other.joins.post = Wire("c", {FAR: wire(here)}, clock=other)
    of_other = other.service("other")
    serves.receives(7, on=4, peer=FAR)
    go_on(here, there, other)
    of_other.receives(7, peer=FAR)
    go_on(here, there, other)
    go_on(here, there, other, after_ms=LONG)
    there.end()
    other.end()
    assert (there.joins.joined, other.joins.joined) == (1, 0)  # who came first, of the last; nobody can know better
    assert other.joins.ambiguous == 1


def test_other_words_join_nothing() -> None:
    """Method and target must be the same."""
    here, there = two()
    here.service("asks").asks(5, "/b")
    there.service("serves").receives(5, "/a", peer=FAR)
    go_on(here, there)
    go_on(here, there, after_ms=LONG)
    there.end()
    assert (there.joins.joined, there.joins.expired) == (0, 1)


@pytest.mark.parametrize("fits", [True, False])
def test_who_asked_on_this_node_is_believed_first(*, fits: bool) -> None:
    """Whatever another node says of the same number; also where this node's own was no such request."""
    here, there = two()
    here.service("liar").asks(5)
    asks, serves = there.service("asks"), there.service("serves")
    asks.asks(5, "/a" if fits else "/b")
    serves.receives(5, peer=FAR)
    go_on(here, there)
    serves.answers()
    there.end()
    if fits:
        assert joined(serves.request(), asks.request("CLIENT"))
    else:
        assert serves.request().parent == 0
    assert there.joins.joined_elsewhere == 0


def test_the_same_profile_is_preferred() -> None:
    """Of several that have the client's span: an exporter of its own may be all that a profile has."""
    here, there = two()
    one, other = here.service("one/1/x"), here.service("two/1/x")
    for each in (one, other):
        each.asks(5)
    serves = there.service("two/2/y")
    serves.receives(5, peer=FAR)
    go_on(here, there)
    serves.answers()
    there.end()
    here.end()
    assert joined(serves.request(), other.request("CLIENT"))


def test_sampling_is_the_callers() -> None:
    """A trace that is not sampled there is not here; but for a profile that decides by itself, and what is kept for its end."""
    here, there = two()
    asks = here.service("asks", percent=0)
    follows, decides = there.service("follows"), there.service("decides", parent_based=False)
    keeps = there.service("keeps", keep=Keep(errors=True, slower_than_ns=0))
    asks.asks(5)
    for each in (follows, decides, keeps):
        each.receives(5, peer=FAR)
        each.do()
    go_on(here, there)
    for each in (follows, decides, keeps):
        each.answers(failed=True)
    go_on(here, there)
    there.end()
    assert follows.found == []
    assert decides.request().parent
    assert (keeps.request().attributes["kernelspan.sampling"], keeps.request().attributes["kernelspan.joined"]) == (
        "Local", "Peer",
    )  # fmt: skip


def test_too_many_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that are kept are all answered."""
    monkeypatch.setattr(peers, "MAX_QUESTIONS", 3)
    here, _ = two()
    here.service("any")
    got: list[Outcome] = []
    for number in range(5):
        wire(here).questions.append(
            Question("b", 9 + number % 2, 1, "p", at(0), lambda outcome, _sent: got.append(outcome))
        )
    go_on(here)
    assert got == [Outcome.REFUSED] * 2
    go_on(here, after_ms=LONG)
    assert got == [Outcome.REFUSED] * 2 + [Outcome.NOBODY] * 3
    questions = here.joins.questions
    assert [questions._open, questions._by_number, questions._behind, list(questions._due)] == [{}, {}, {}, []]


def test_who_hangs_up_leaves_no_question_open() -> None:
    """Whoever has asked is told that nobody has sent it, whatever it waited for."""
    here, there = two()
    asks, serves = here.service("asks"), there.service("serves")
    asks.receives(1)
    asks.asks(2)
    for number in (2, 3):
        serves.receives(number, on=number, peer=FAR)
    go_on(here, there)
    here.joins.hang_up()
    assert here.joins.questions.answered == {Outcome.NOBODY: 2}
    here.end()
    there.end()


_WORDS = st.integers(-(1 << 70), 1 << 70)


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.builds(Sent, _WORDS, _WORDS, _WORDS, st.booleans(), _WORDS, _WORDS), st.tuples(_WORDS, _WORDS)), max_size=6))  # fmt: skip
def test_whatever_another_agent_says(said: list[tuple[Outcome, Sent, tuple[int, int]]]) -> None:
    """Nothing breaks, and what joins has ids and times that can be."""
    here, there = two()
    serves = there.service("serves")
    serves.receives(5, peer=FAR)
    go_on(here, there)
    key = wire(there).queries[0].key
    for outcome, sent, ahead in said:
        wire(there).answers.append((key, outcome, Origin(sent, ahead) if outcome is Outcome.FOUND else None))
        wire(there).answers.append((key + 1, outcome, Origin(sent, ahead)))
    go_on(here, there)
    serves.answers()
    there.end()
    server = serves.request()
    assert server.trace
    assert (server.parent != 0) == (there.joins.joined_elsewhere == 1)
    assert abs(int(str(server.attributes.get("kernelspan.clock.ahead", 0)))) < 1 << 63
    if server.parent:
        assert any(
            Origin(sent, ahead).fits(server.start_ns) and sent.span_id == server.parent for _, sent, ahead in said
        )


def test_a_service_of_the_world_knows_nothing_of_peers() -> None:
    """Without a post nothing is asked, and no request waits for anybody elsewhere."""
    world = World()
    serves: Service = world.service("serves", asks=False)
    serves.receives(5, peer=FAR)
    world.tick()
    assert world.joins.waiting == 0
    world.end()
