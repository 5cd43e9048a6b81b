# SPDX-License-Identifier: Apache-2.0
"""Exchanges whose ends are on two nodes: what their agents ask one another, as the stage that traces sees it.

The end that received asks (joins.py), the end that sent is told of here. What is asked about may not be known yet: the call
that sends is under way, or the trace it is of waits itself, perhaps for a third node. So a question is kept for a moment and
answered when there is something to say; that it waits for a trace is said at once, since whoever asks then waits for longer. Nothing else than numbers goes from node to node, and what takes them there is
control's (`Post`).

Clocks of nodes differ. Whoever asks measures between which bounds the difference is (`Origin.ahead_ns`) and compares times by those:
only what is certain tells against a join, and what is certain of the difference is marked on the span.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from kernelspan_agent.model import Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace.spans import Trace
from kernelspan_api import semconv

QUESTION_NS = 300_000_000
# How long one is kept, on the clock of what the stages have taken on: less than the other waits for us (joins.HOLD_NS), which
# so learns that nobody here has sent it.
PENDING_NS = 1_900_000_000  # how long it is kept where a trace is to be known: less than joins.LONG_HOLD_NS
MAX_QUESTIONS = 8192  # that are kept at once
_HIGHEST = (1 << 64) - 1
_MOST_SAID = (1 << 63) - 1  # of what an attribute can hold


class Outcome(enum.Enum):
    """Of a question, as control.proto's Verdict has them."""

    FOUND = 1
    NOBODY = 2
    AMBIGUOUS = 3
    REFUSED = 4
    PENDING = 5


class End(Protocol):
    """The end of an exchange that asked, as far as others are told of it. `taken_elsewhere`: joins.Asked's."""

    exchange: Exchange
    trace: Trace
    span_id: int
    taken_elsewhere: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Query:
    """To be asked of whoever traces the pod at `address`. `key`: what the answer is to bear; `said`: see said_hash."""

    key: int
    address: str
    exchange_id: int
    said: int
    profile_uid: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The end of an exchange that asked: its span, and its times by its own node's clock. `end_ns` 0: not answered yet."""

    high: int
    low: int
    span_id: int
    sampled: bool
    start_ns: int
    end_ns: int

    @property
    def is_sound(self) -> bool:
        """Whether it can be a span at all: the other agent may say anything."""
        ids = self.high, self.low, self.span_id
        return all(0 <= each <= _HIGHEST for each in ids) and bool(self.high or self.low) and bool(self.span_id)


@dataclass(frozen=True, slots=True)
class Origin:
    """What another node's agent has told. `ahead_ns`: its clock is ahead of ours by at least and at most so much."""

    sent: Sent
    ahead_ns: tuple[int, int]

    def fits(self, received_ns: int) -> bool:
        """Whether what was received then, by our clock, can be it: not before it was sent, nor after it was answered."""
        least, most = self.ahead_ns
        sent = self.sent
        return sent.start_ns <= received_ns + most and (not sent.end_ns or received_ns + least <= sent.end_ns)

    def segment(self) -> Segment:
        """What the span of the request says of it."""
        least, most = self.ahead_ns
        differs = max(least if least > 0 else min(most, 0), -_MOST_SAID) if least < _MOST_SAID else _MOST_SAID
        return Segment({semconv.JOINED: "Peer"} | ({semconv.CLOCK_AHEAD: differs} if differs else {}))


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Of the agent of another `node`. `reply`: to be called once, with the end that asked where the outcome is FOUND; and
    before that once with PENDING, perhaps.
    """

    node: str
    exchange_id: int
    said: int
    profile_uid: str
    arrived_ns: int
    reply: Callable[[Outcome, Sent | None], object]


class Post(Protocol):
    """What goes between nodes (control.peering.Peering). Never waits."""

    def ask(self, query: Query) -> None:
        """Sends it with the next `flush`, if it is known where to."""

    def heard(self) -> Iterable[tuple[int, Outcome, Origin | None]]:
        """What was answered since, by the queries' keys."""

    def asked(self) -> Iterable[Question]:
        """What others have asked since."""

    def flush(self) -> None:
        """What was put in is sent."""


def said_hash(exchange_id: int, said: tuple[str, ...]) -> int:
    """64 bits that both ends work out of what they have read alike; of the same words another one in each exchange."""
    text = "\0".join(said).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=exchange_id.to_bytes(8)).digest())


@dataclass(slots=True)
class Questions:
    """Those of other nodes' agents. `find`: who asked, or why that is not known; `is_settled`: whether its trace is.

    `answered` counts by outcome.
    """

    find: Callable[[Question], End | Outcome]
    is_settled: Callable[[End], bool]
    answered: Counter[Outcome] = field(default_factory=Counter)
    _open: dict[Question, None] = field(default_factory=dict)
    _by_number: dict[int, list[Question]] = field(default_factory=dict)
    _behind: dict[Question, int] = field(default_factory=dict)  # of which the trace is to be known, until when
    _due: deque[tuple[int, Question]] = field(default_factory=deque)  # until when the others are kept

    def add(self, question: Question) -> None:
        """One that has come."""
        if len(self._open) >= MAX_QUESTIONS:
            self._reply(question, Outcome.REFUSED)
            return
        self._open[question] = None
        self._due.append((question.arrived_ns + QUESTION_NS, question))
        self._try(question)

    def came(self, exchange_id: int) -> None:
        """There is an end of this number that asked."""
        for question in self._by_number.pop(exchange_id, ()):
            if question in self._open:
                self._try(question)

    def look(self) -> None:
        """Answers those of which the trace is known by now."""
        for question in list(self._behind):
            self._try(question)

    def expire(self, now_ns: int) -> None:
        """All that ended before this time is in: what was kept for long enough is nobody's."""
        for question, until_ns in list(self._behind.items()):
            if until_ns <= now_ns:
                self._reply(question, Outcome.NOBODY)
        while self._due and self._due[0][0] <= now_ns:
            question = self._due.popleft()[1]
            if question in self._open and question not in self._behind:
                self._reply(question, Outcome.NOBODY)

    def close(self) -> None:
        """Nothing more will be known here."""
        for question in list(self._open):
            self._reply(question, Outcome.NOBODY)

    def _try(self, question: Question) -> None:
        found = self.find(question)
        if found is Outcome.NOBODY and question not in self._behind:
            self._by_number.setdefault(question.exchange_id, []).append(question)
        elif isinstance(found, Outcome):
            self._reply(question, found)
        elif self.is_settled(found):
            trace, exchange = found.trace, found.exchange
            found.taken_elsewhere += ((question.node, question.profile_uid),)
            sampled = trace.sampled and not trace.undecided
            sent = Sent(trace.high, trace.low, found.span_id, sampled, exchange.start_ns, exchange.end_ns)
            self._reply(question, Outcome.FOUND, sent)
        elif question not in self._behind:
            self._behind[question] = question.arrived_ns + PENDING_NS
            question.reply(Outcome.PENDING, None)

    def _reply(self, question: Question, outcome: Outcome, sent: Sent | None = None) -> None:
        self._open.pop(question, None)
        self._behind.pop(question, None)
        waiting = self._by_number.get(question.exchange_id)
        if waiting is not None and question in waiting:
            waiting.remove(question)
            if not waiting:
                del self._by_number[question.exchange_id]
        self.answered[outcome] += 1
        question.reply(outcome, sent)
