# SPDX-License-Identifier: Apache-2.0
"""Requests of which both ends are traced: the end that answered goes on with the trace of the one that asked.

All profiles of an engine share one table of both ends. An end is known by the exchange's number (Payload.exchange_id),
which a request keeps from one end to the other whatever lies between. Both ends must say the same of it, and the times must
fit; what is named twice at one end, by whatever accident, joins nothing: rather no parent than a wrong one.

Which end is heard of first is open: the one that asked may still be in the call that sent the request when the other has
long begun to work. So a request that was received waits (`Waiting`), and hold.py keeps its spans back. What waits is
settled in rounds (`settle`), in the order in which the requests began: a trace that goes through several services is known
from its beginning. Where there is a `post` the agent of the node that a request came from is asked besides (peers.py), and what
it tells is believed if this node has no end of that number.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from kernelspan_agent.model import Segment
from kernelspan_agent.protocols.exchanges import Exchange
from kernelspan_agent.trace.keep import Keep
from kernelspan_agent.trace.peers import End, Origin, Outcome, Post, Query, Question, Questions, said_hash
from kernelspan_agent.trace.spans import Trace

HOLD_NS = 500_000_000
# How long a request waits for the end that asked, on the clock of what the stages have taken on: by then that call has
# returned and its record was drained, but for a thread that the scheduler left out for as long.
LONG_HOLD_NS = 2_000_000_000  # where who asked is known, and waits itself for the one that has asked it
KEPT_NS = 3_000_000_000  # how long an end that asked is kept when it has its answer: more than the other waits
MAX_ASKED = 16384
MAX_WAITING = 16384


@dataclass(slots=True, eq=False)
class Asked:
    """The end of an exchange that asked: a span, which may be a parent."""

    party: Party
    exchange: Exchange
    trace: Trace
    span_id: int
    ambiguous: bool = False
    taken_by: tuple[Party, ...] = ()  # whose requests it is the parent of
    taken_elsewhere: tuple[tuple[str, str], ...] = ()  # and those of other nodes: node and profile

    def fits(self, waiting: Waiting) -> bool:
        """Whether it can be what this one received: the same words, not before it was sent nor after it was answered."""
        mine, received_ns = self.exchange, waiting.exchange.start_ns
        in_time = mine.start_ns <= received_ns and (not mine.end_ns or received_ns <= mine.end_ns)
        return in_time and mine.said == waiting.exchange.said


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that was received, whose trace and parent are not known yet. `key`: what its trace is called meanwhile.

    `peer`: the address that it came from; `origin`: what another node's agent told; `told`: what its span says of that.
    `begun`: traces that requests below it name: one that nobody asked for belongs to the one trace that was begun in it.
    """

    party: Party
    exchange: Exchange
    trace: Trace
    root_id: int
    key: int
    parent_id: int = 0
    ambiguous: bool = False
    settled: bool = False
    over: tuple[bool, int] | None = None  # whether it failed and how many ns it took, where it has ended before
    peer: str = ""
    origin: Origin | None = None
    is_pending: bool = False  # another node's agent will tell
    told: Segment | None = None
    begun: dict[tuple[int, int], bool] = field(default_factory=dict)  # high and low: whether it is said to be sampled
    refuted: bool = False  # it is not known for whom these were begun


@dataclass(slots=True, eq=False)
class Party:
    """One profile's ends. `waiting`: its requests whose spans are kept back, by `key`; hold.py lets go of them.

    `asks`: spans of requests that its processes make are wanted. `bound`: of ids, which are sampled; `parent_based`: where a
    parent says so, that holds. `keep`: decides on those that are not.
    """

    joins: Joins
    order: str
    asks: bool
    bound: int
    parent_based: bool
    keep: Keep | None = None
    waiting: dict[int, Waiting] = field(default_factory=dict)

    @property
    def profile_uid(self) -> str:
        """What its profile is called on every node (`order` is its key on this one: node.desired)."""
        return self.order.partition("/")[0]

    def asked(self, exchange: Exchange, trace: Trace, span_id: int) -> Asked | None:
        """An end that asked; None: its number is not known, or not its alone."""
        return self.joins.asked(Asked(self, exchange, trace, span_id)) if exchange.exchange_id else None

    def received(self, exchange: Exchange, trace: Trace, root_id: int, peer: str = "") -> Waiting | None:
        """An end that received, its trace one that it has for itself; None: it keeps that, and has no parent."""
        if not exchange.exchange_id:
            return None
        return self.joins.received(Waiting(self, exchange, trace, root_id, trace.low, peer=peer))


class Joins:
    """The table. It counts the requests received that were `joined`, and those that were not: as one end or the other has
    two of the number (`ambiguous`), or as nobody was found who asked (`expired`). `evicted`: ends that asked, too many.
    Of those joined some are with other nodes' (`joined_elsewhere`); what another node told too late or what cannot be is `passed_over`.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[int, list[Asked]] = OrderedDict()  # by exchange_id
        self._answered: deque[tuple[int, Asked]] = deque()  # until when they are kept
        self._waiting: dict[int, Waiting] = {}  # by the key of their traces
        self._received: dict[tuple[Party, int], Waiting] = {}
        self._parties: set[Party] = set()
        self._now_ns = 0
        self._unasked: list[Waiting] = []  # nobody elsewhere, so far
        self.post: Post | None = None
        self.questions = Questions(self._who_is_meant, self._is_settled)
        self.joined = self.ambiguous = self.expired = self.evicted = 0
        self.joined_elsewhere = self.passed_over = 0

    def party(self, order: str, *, asks: bool, bound: int, parent_based: bool, keep: Keep | None = None) -> Party:
        """A profile that wants its requests joined. `order`: who goes first where several asked, of several profiles."""
        party = Party(self, order, asks, bound, parent_based, keep)
        self._parties.add(party)
        return party

    def leave(self, party: Party) -> None:
        """The profile is no more. What of it waited must have been settled."""
        self._parties.discard(party)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __len__(self) -> int:
        """How many that asked are kept."""
        return sum(map(len, self._asked.values()))

    def asked(self, end: Asked) -> Asked | None:
        """See Party."""
        number = end.exchange.exchange_id
        ends = self._asked.setdefault(number, [])
        for other in ends:
            if other.party is end.party:
                other.ambiguous = True
                return None
        ends.append(end)
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
            self.evicted += 1
        self.questions.came(number)
        return end

    def answered(self, end: Asked) -> None:
        """Its exchange is over."""
        over_ns = max(self._now_ns, end.exchange.start_ns, end.exchange.end_ns)
        self._answered.append((over_ns + KEPT_NS, end))

    def received(self, end: Waiting) -> Waiting | None:
        """See Party."""
        if self.post is None and not any(party.asks for party in self._parties):
            return None
        name = end.party, end.exchange.exchange_id
        other = self._received.get(name)
        if other is not None:
            other.ambiguous = True
            self.ambiguous += 1
            return None
        end.trace.sampled = True  # until it is known better: what is not seen now is never seen
        self._received[name] = self._waiting[end.key] = end.party.waiting[end.key] = end
        if self.post is not None and end.peer:
            self._unasked.append(end)
        if len(self._waiting) > MAX_WAITING:
            self._settle(next(iter(self._waiting.values())), must=True)
        return end

    def settle(self, now_ns: int) -> None:
        """A round at this time, at which all that ended before is in: who has waited for long enough waits no more."""
        if now_ns == self._now_ns:  # every profile asks for each round
            return
        self._now_ns = now_ns
        for waiting in self._in_order():
            self._settle(waiting, must=waiting.exchange.start_ns + self._hold_ns(waiting) < now_ns)
        self.questions.expire(now_ns)
        while self._answered and (self._answered[0][0] < now_ns or len(self._answered) > MAX_ASKED):
            self._forget(self._answered.popleft()[1])

    def correspond(self) -> None:
        """Takes what has come from other nodes' agents, asks them and answers them."""
        post = self.post
        if post is None:
            return
        for key, outcome, origin in post.heard():
            self._hear(self._waiting.get(key), outcome, origin)
        for waiting in self._unasked:
            exchange = waiting.exchange
            said, uid = said_hash(exchange.exchange_id, exchange.said), waiting.party.profile_uid
            if not waiting.settled:
                post.ask(Query(waiting.key, waiting.peer, exchange.exchange_id, said, uid))
        self._unasked.clear()
        for question in post.asked():
            self.questions.add(question)
        self.questions.look()
        post.flush()

    def hang_up(self) -> None:
        """Asks and answers nobody elsewhere any more."""
        self.questions.close()
        if self.post is not None:
            self.post.flush()
            self.post = None

    def _hear(self, waiting: Waiting | None, outcome: Outcome, origin: Origin | None) -> None:
        if waiting is None or waiting.origin is not None:
            self.passed_over += outcome is Outcome.FOUND
        elif outcome is Outcome.AMBIGUOUS:
            waiting.ambiguous = True
        elif outcome is Outcome.PENDING:
            waiting.is_pending = True
        elif origin is not None:
            if origin.sent.is_sound and origin.fits(waiting.exchange.start_ns):
                waiting.origin = origin
                self._settle(waiting, must=False)
            else:
                self.passed_over += 1

    def settle_all(self, party: Party) -> None:
        """None of the party's waits any more, nor what they go on from."""
        must, in_order = set(party.waiting), self._in_order()
        for waiting in reversed(in_order):
            if waiting.key in must and (asked := self._who_asked(waiting)) is not None:
                must.add(asked.trace.low)
        for waiting in in_order:
            if waiting.key in must:
                self._settle(waiting, must=True)

    def _in_order(self) -> list[Waiting]:
        return sorted(self._waiting.values(), key=lambda each: each.exchange.start_ns)

    def _settle(self, waiting: Waiting, *, must: bool) -> None:
        asked = self._who_asked(waiting)
        if asked is not None and not self._is_settled(asked):
            asked = None
        is_known_here = waiting.ambiguous or waiting.exchange.exchange_id in self._asked
        origin = None if is_known_here else waiting.origin
        if asked is None and origin is None and not must:
            return
        del self._waiting[waiting.key]
        del self._received[waiting.party, waiting.exchange.exchange_id]
        trace, party = waiting.trace, waiting.party
        waiting.settled = True
        if asked is not None:
            asked.taken_by += (party,)
            is_sampled = asked.trace.sampled and not asked.trace.undecided
            trace.high, trace.low, waiting.parent_id = asked.trace.high, asked.trace.low, asked.span_id
        elif origin is not None:
            sent, waiting.told = origin.sent, origin.segment()
            is_sampled = sent.sampled
            trace.high, trace.low, waiting.parent_id = sent.high, sent.low, sent.span_id
            self.joined_elsewhere += 1
        else:
            is_ambiguous = self._is_ambiguous(waiting)
            self.ambiguous += is_ambiguous
            self.expired += not is_ambiguous
            is_sampled = False
            if len(waiting.begun) == 1 and not waiting.refuted:
                (((trace.high, trace.low), is_sampled),) = waiting.begun.items()
            trace.sampled = (is_sampled and party.parent_based) or trace.low < party.bound
            self._decide(waiting)
            return
        self.joined += 1
        trace.sampled = is_sampled if party.parent_based else trace.low < party.bound
        self._decide(waiting)

    @staticmethod
    def _decide(waiting: Waiting) -> None:
        keep, trace = waiting.party.keep, waiting.trace
        if keep is None or trace.sampled:
            return
        keep.began(trace, waiting.root_id)
        if waiting.over is not None:
            failed, took_ns = waiting.over
            keep.ended(trace, failed=failed, took_ns=took_ns)

    def _who_asked(self, waiting: Waiting) -> Asked | None:
        """Of several profiles' the one of its own, else the first: each is the same request."""
        ends = self._asked.get(waiting.exchange.exchange_id)
        if not ends or self._is_ambiguous(waiting):
            return None
        found = min(ends, key=lambda each: (each.party is not waiting.party, each.party.order))
        return found if found.fits(waiting) else None

    def _is_ambiguous(self, waiting: Waiting) -> bool:
        ends = self._asked.get(waiting.exchange.exchange_id, ())
        return waiting.ambiguous or any(
            each.ambiguous or waiting.party in each.taken_by or each.taken_elsewhere for each in ends
        )

    def _hold_ns(self, waiting: Waiting) -> int:
        asked = None if waiting.is_pending else self._who_asked(waiting)
        is_long = waiting.is_pending or (asked is not None and asked.trace.low in self._waiting)
        return LONG_HOLD_NS if is_long else HOLD_NS

    def _is_settled(self, end: End) -> bool:
        """Whether the trace of its span is known."""
        return not end.trace.unsettled and end.trace.low not in self._waiting

    def _who_is_meant(self, question: Question) -> Asked | Outcome:
        """Of several profiles' the one of the profile that asks, else the first."""
        ends = self._asked.get(question.exchange_id, ())
        mine = question.node, question.profile_uid
        for each in ends:
            others = any(one[0] != question.node or one == mine for one in each.taken_elsewhere)
            if each.ambiguous or each.taken_by or others:
                return Outcome.AMBIGUOUS
        fitting = [one for one in ends if said_hash(question.exchange_id, one.exchange.said) == question.said]
        if not fitting:
            return Outcome.NOBODY
        return min(fitting, key=lambda one: (one.party.profile_uid != question.profile_uid, one.party.order))

    def _forget(self, end: Asked) -> None:
        ends = self._asked.get(end.exchange.exchange_id)
        if ends is not None and end in ends:
            ends.remove(end)
            if not ends:
                del self._asked[end.exchange.exchange_id]
