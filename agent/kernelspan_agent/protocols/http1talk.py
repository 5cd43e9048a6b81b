# SPDX-License-Identifier: Apache-2.0
"""HTTP/1's requests and the responses that answer them, in their order.

A response does not say what it answers, and one that is missed would shift all that follow. So where bytes of a direction
were missed, what is open is given up, but for a request that the bytes behind them must answer: the last one, if it was asked
when all before had gone by, of a client that was never seen to ask while something was not answered. One that was, on a
connection of which not all was seen, is told without answers from there. So is whatever is asked where nothing says how many
bytes went by (Unix sockets), once something was asked while something else waited.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.exchanges import Exchange, Told, read
from kernelspan_agent.protocols.http1 import End, Head, Part, Reader, may_ask

MAX_PIPELINED = 256
MAX_EARLY = 8  # calls of an answer whose request has yet to come
_U32 = 0xFFFFFFFF
_FAR = 1 << 31  # positions that are as far apart are the other way round


@dataclass(slots=True, eq=False)
class HttpExchange(Exchange):
    """A request of HTTP."""

    protocol: ClassVar[WireProtocol] = WireProtocol.HTTP
    request: Head
    response: Head | None = None
    request_body: int = -1  # bytes with their framing; -1: not complete
    response_body: int = -1
    reset: str = ""  # it was given up: why

    @property
    def said(self) -> tuple[str, ...]:
        """Its method and target."""
        return self.request.method, self.request.target

    @property
    def has_head(self) -> bool:
        """Whether its end was seen."""
        return not self.request.is_cut


@dataclass(slots=True, eq=False)
class _Open:
    """A request that is not answered. `begins`: where the call began that its head did; `answered`: where answers were then.

    `is_behind_gap`: others may have been asked before it, and behind the one that is before it here.
    """

    exchange: HttpExchange
    begins: int | None
    answered: int | None
    is_behind_gap: bool = False


@dataclass(slots=True)
class _Side:
    """One direction. `at`: where what was seen of it ends; None: not known."""

    reader: Reader
    at: int | None = None

    def move(self, payload: Payload) -> int | None:
        """How many bytes before this call's were not seen; None: that is not known."""
        before, self.at = self.at, payload.position
        if before is None or payload.position is None:
            return None
        return payload.position - payload.moved - before & _U32


class HttpTalk:
    """One connection. `requests_sent`: whether it is our end that asks. `is_whole`: of which these are the first bytes."""

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass. Not in the middle of a response."""
        if not may_ask(payload.data):
            return None
        talk = cls(payload.sends, is_whole=payload.is_first)
        talk._responses.at = payload.other
        return talk

    def __init__(self, requests_sent: bool, *, is_whole: bool = False) -> None:
        self.requests_sent = requests_sent
        methods: deque[str] = deque()
        self._methods = methods
        self._requests, self._responses = _Side(Reader()), _Side(Reader(methods))
        self._open: deque[_Open] = deque()  # in the order of their requests
        self._early: deque[tuple[Payload, int, bool]] = deque()  # what may answer the next one, and when it came
        self._asked: HttpExchange | None = None  # whose request's body is on its way
        self._first_ns = self._first_id = 0  # when the head that is on its way began, and with what exchange_id
        self._begins: int | None = None  # and where
        self._is_behind_gap = False  # and whether bytes were missed before it
        self._is_whole = is_whole  # nothing that was asked may be unseen, and not answered
        self._pipelines = False  # something was asked while something else was not answered
        self._is_lost = False  # which answer is whose is not known any more
        self._ended_at: int | None = None  # where the last answer to what was seen ended, or behind that
        self._overtaken: _Open | None = (
            None  # that looked open when another was asked, as what answers was not seen yet
        )

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk. A message that begins is known by itself, whatever was missed."""
        told = Told()
        if payload.sends == self.requests_sent:
            told.was_asked = not payload.sends
            # what is sent goes out from the call's begin, what is received is there at its end
            self._feed_request(payload, start_ns if payload.sends else end_ns, told, missed=missed)
        else:
            gap = self._responses.move(payload)
            if self._is_lost:
                self._give_up(told)  # it may be any one's answer
            else:
                self._feed_response(payload, end_ns, told, gap if missed else 0)
        return told

    def _feed_request(self, payload: Payload, when_ns: int, told: Told, *, missed: bool) -> None:
        told.is_whole = not missed and len(payload.data) + len(payload.tail) == payload.moved
        gap = self._requests.move(payload)
        if missed:
            self._missed_request(gap)
        if not self._requests.reader.is_in_head:
            self._first_ns, self._first_id = when_ns, payload.exchange_id
            self._begins = None if payload.position is None else payload.position - payload.moved & _U32
        for part in read(self._requests.reader.feed, payload):
            if isinstance(part, Head):
                self._asked = HttpExchange(not self.requests_sent, self._first_ns, part, exchange_id=self._first_id)
                asked = _Open(self._asked, self._begins, payload.other, self._is_behind_gap)
                self._first_ns, self._first_id, self._begins, self._is_behind_gap = when_ns, 0, None, False
                told.began.append(self._asked)
                self._ask(asked, told)
            elif self._asked is not None:
                self._asked.request_body = part.body
                told.asked.append(self._asked)
                self._asked = None
        if self._early and self._open and self._open[0].exchange in told.began:
            self._answer_early(self._open[0], told)

    def _missed_request(self, gap: int | None) -> None:
        """Something of what is asked was not seen."""
        parts = None if gap is None else self._requests.reader.passed(gap)
        if parts is None:
            self._requests.reader.begin_anew()
            self._asked, self._is_behind_gap, self._is_whole = None, True, False
            self._early.clear()
        elif parts and isinstance(parts[0], End) and self._asked is not None:
            self._asked.request_body, self._asked = parts[0].body, None

    def _ask(self, asked: _Open, told: Told) -> None:
        """A request has begun."""
        waits = self._waits()
        if len(self._open) >= MAX_PIPELINED:
            self._is_lost = True
            self._give_up(told)
        self._open.append(asked)
        self._methods.append(asked.exchange.request.method)
        self._is_lost = self._is_lost or (self._pipelines and not self._is_whole)
        if self._is_lost:
            return
        if waits:
            if asked.answered is None:
                self._is_lost = True
            elif asked.begins is None or asked.answered in {self._responses.at, self._open[-2].answered}:
                self._pipelines = True
                self._is_lost = not self._is_whole
            elif self._overtaken is None:
                self._overtaken = self._open[0]
        elif len(self._open) == 1 or asked.is_behind_gap:
            self._give_up(told, asked)
            if asked.is_behind_gap and asked.answered is not None and asked.answered == self._ended_at:
                self._pipelines = self._is_lost = True  # nothing has answered what was asked unseen
                return
            asked.is_behind_gap = False  # all before has been answered
            self._responses.reader.begin_anew()

    def _waits(self) -> bool:
        """Whether something is not answered, but for a response that ends where the next begins."""
        if not self._open or len(self._open) > 1:
            return bool(self._open)
        return self._open[0].exchange.response is None or not self._responses.reader.is_open_ended

    def _lose(self, told: Told) -> None:
        """Which answer is whose will not be known any more."""
        self._is_lost = True
        self._give_up(told)
        self._early.clear()

    def _give_up(self, told: Told, but: _Open | None = None) -> None:
        """Ends all that are open without an answer, or with what was seen of it."""
        for each in self._open:
            if each is not but:
                (told.given_up if each.exchange.response is None else told.ended).append(each.exchange)
        self._open.clear()
        self._methods.clear()
        self._overtaken = None
        if but is not None:
            self._open.append(but)
            self._methods.append(but.exchange.request.method)

    def _answer_early(self, asked: _Open, told: Told) -> None:
        """An answer may be told of before its request is, if another thread receives it while the call that sends returns."""
        early, self._early = self._early, deque()
        for payload, when_ns, missed in early:
            if not self._is_lost and when_ns > asked.exchange.start_ns and self._may_answer(payload, asked):
                self._feed_response(payload, when_ns, told, None if missed else 0)

    def _may_answer(self, payload: Payload, asked: _Open) -> bool:
        """Whether a call can have moved some of what answers this."""
        if payload.position is None or payload.other is None or asked.answered is None:
            return True
        if asked.begins is not None and not 0 < (payload.other - asked.begins & _U32) < _FAR:
            return False  # it was not asked yet
        # Who answers has not before it was asked. Who asks may have received it when the call that asks returns.
        return self.requests_sent or (payload.position - payload.moved - asked.answered & _U32) < _FAR

    def _feed_response(self, payload: Payload, when_ns: int, told: Told, gap: int | None) -> None:
        """`gap`: bytes before it that were missed; None: some, and it is not known how many."""
        overtaken, self._overtaken = self._overtaken, None
        if gap != 0:
            self._missed_response(payload, gap, told)
        elif self._is_for_unseen(payload):
            self._give_up(told)
        self._take_response(payload, when_ns, told, missed=gap != 0)
        if overtaken is not None and gap == 0 and (self.requests_sent or (self._open and self._open[0] is overtaken)):
            self._pipelines = True  # what was not seen yet did not answer all before
            if not self._is_whole:
                self._lose(told)

    def _is_for_unseen(self, payload: Payload) -> bool:
        """Whether more had been asked when this moved than was seen: of a client that waits it answers that."""
        if self._is_whole or self._asked is not None or not self._open or self._open[0].exchange.response is not None:
            return False
        return None not in {payload.other, self._requests.at} and payload.other != self._requests.at

    def _missed_response(self, payload: Payload, gap: int | None, told: Told) -> None:
        """Something of what answers was not seen."""
        reader = self._responses.reader
        is_only = len(self._open) == 1 and None not in {payload.other, self._requests.at}
        if is_only and reader.is_open_ended and payload.other == self._requests.at:
            return
        parts = None if gap is None or not self._open else reader.passed(gap)
        if parts is not None:
            if parts and isinstance(parts[0], End):  # when it ended is not known
                self._answered(parts[0], None, told)
            return
        self._is_whole = False
        reader.begin_anew()
        if self._pipelines:
            self._lose(told)
            return
        last = self._open[-1] if self._open else None
        if last is not None:
            begins = None if payload.position is None else payload.position - payload.moved & _U32
            is_all = None not in {begins, last.answered} and payload.other == self._requests.at
            is_certain = (
                is_all and last.exchange.response is None and last.answered == begins and not last.is_behind_gap
            )
            self._give_up(told, last if is_certain else None)

    def _take_response(self, payload: Payload, when_ns: int, told: Told, *, missed: bool) -> None:
        """What is said to what is open; what may be for the next one is kept."""
        data, tail, moved = payload.data, payload.tail, payload.moved
        is_seen = len(data) + len(tail) == moved
        pieces = [(data + tail, moved)] if is_seen else [(data, moved - len(tail)), (tail, len(tail))]
        for piece, size in pieces:
            at = 0
            while at < size and not self._is_lost:
                if not self._open and self.requests_sent:
                    self._keep(replace(payload, data=piece[at:], tail=b"", moved=size - at), when_ns, missed=missed)
                    break
                if self._open and not self._may_answer(payload, self._open[0]):
                    return
                parts, taken = self._responses.reader.take(piece[at:], size - at)
                at += taken
                for part in parts:
                    self._answered(part, when_ns, told)
        current = self._open[0].exchange if self._open else None
        if current is not None and current.response is not None:
            current.end_ns = when_ns
            current.is_open_ended = self._responses.reader.is_open_ended
            if current.is_open_ended:
                told.open_ended.append(current)

    def _keep(self, payload: Payload, when_ns: int, *, missed: bool) -> None:
        """What it answers may not have returned yet from the call that asks."""
        self._early.append((payload, when_ns, missed))
        if len(self._early) > MAX_EARLY:
            self._early.clear()
            self._early.append((replace(payload, data=b"", position=None), when_ns, True))

    def _answered(self, part: Part, when_ns: int | None, told: Told) -> None:
        """`when_ns`: None: not known."""
        if not self._open:
            return
        current = self._open[0].exchange
        if isinstance(part, Head):
            if part.status >= 200 or part.status == 101:
                current.response = part
                told.answered.append(current)
            return
        if current.response is None:
            return
        current.response_body = part.body
        if not part.inferred and when_ns is not None:
            current.end_ns = when_ns
        self._open.popleft()
        self._ended_at = self._responses.at
        told.ended.append(current)
        if self._open and self._open[0].is_behind_gap:
            self._lose(told)
