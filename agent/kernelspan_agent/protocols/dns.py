# SPDX-License-Identifier: Apache-2.0
"""DNS: questions and what answers them, by datagrams and on streams.

An answer is a question's if it came on its socket, from whom it was sent to (as far as both are known), with its number, and
repeats it. So it does not matter in which order answers come, or what was missed. A question that is sent again with its
number to the same server is the same one. What answers nothing that is open is passed over: it is late, comes twice, or is
somebody's who would like it to be taken for an answer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, Peer, WireProtocol
from kernelspan_agent.protocols.dnswire import Message, Question, parse
from kernelspan_agent.protocols.exchanges import Exchange, Told
from kernelspan_agent.protocols.framed import Framed

MAX_OPEN = 1024  # questions of one socket that are not answered; the oldest is then told without an answer
MAX_EARLY = 16  # answers whose question has yet to come
PATIENCE_NS = 60_000_000_000  # after which the same number is another question's: resolvers give up after less
_REPEATS_NOT = {1, 2, 4, 5}  # FORMERR, SERVFAIL, NOTIMP, REFUSED: of a server that did not read the question
_LENGTH, _DATAGRAM_HEADER = 2, 4

_Key = tuple[bool, int, Question]  # whether it is answered here, its number, the question


@dataclass(slots=True, eq=False, kw_only=True)
class Lookup(Exchange):
    """A question. `sent`: how often. `rcode` None: not answered, as far as was seen. `addresses` None: not all known."""

    protocol: ClassVar[WireProtocol] = WireProtocol.DNS
    name: str
    type: int
    cls: int
    is_stream: bool
    peer: Peer | None = None
    sent: int = 1
    rcode: int | None = None
    addresses: tuple[str, ...] | None = None
    is_truncated: bool = False

    def closed(self, when_ns: int) -> None:
        """See Exchange."""
        if self.rcode is None:
            self.end_ns = max(self.start_ns, when_ns)

    @property
    def said(self) -> tuple[str, ...]:
        """See Exchange."""
        return (self.name, str(self.type), str(self.cls))


class DnsTalk:
    """One socket."""

    def __init__(self, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._open: OrderedDict[_Key, list[Lookup]] = OrderedDict()
        self._count = 0
        self._early: deque[tuple[Message, Peer | None, int]] = deque(maxlen=MAX_EARLY)
        # What is sent, what is received: each message behind its length (RFC 1035, 4.2.2).
        self._streams = {
            each: Framed(_LENGTH, lambda head: _LENGTH + _length(head), _is_one) for each in (True, False) if is_stream
        }

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass."""
        if payload.is_datagram:
            return cls(is_stream=False)
        if not _may_begin_stream(payload):
            return None
        talk = cls(is_stream=True)
        if payload.protocol and not _is_one(payload) and parse(payload.data, payload.moved) is not None:
            talk._streams[payload.sends].goes_on(payload.moved.to_bytes(_LENGTH, "big"))
        return talk

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told = Told()
        if self._is_stream:
            framed = self._streams[payload.sends].feed(payload, missed=missed)
            messages = [parse(each.head[_LENGTH:], each.length - _LENGTH) for each in framed]
        else:
            messages = list(_datagrams(payload))
        for message in messages:
            if message is None:
                told.unreadable += 1
            elif message.is_answer:
                self._answer(message, payload, end_ns, told)
            else:
                # what is sent goes out from the call's begin, what is received is there at its end
                self._ask(message, payload, start_ns if payload.sends else end_ns, len(messages) == 1, told)
        return told

    def _ask(self, message: Message, payload: Payload, when_ns: int, is_alone: bool, told: Told) -> None:
        assert message.question is not None
        key = not payload.sends, message.number, message.question
        for known in list(self._open.get(key, ())):
            if not _may_be(known.peer, payload.peer):
                continue
            if when_ns - known.start_ns < PATIENCE_NS and not self._is_stream:
                known.sent += 1
                return
            self._take(key, known)
            told.ended.append(known)
        lookup = Lookup(
            not payload.sends,
            when_ns,
            name=message.text,
            type=message.question.type,
            cls=message.question.cls,
            is_stream=self._is_stream,
            peer=payload.peer,
            exchange_id=payload.exchange_id if is_alone else 0,
        )
        told.began.append(lookup)
        for early in self._early:
            answer, peer, answered_ns = early
            is_it = (answer.number, answer.question) == (message.number, message.question)
            if payload.sends and is_it and answered_ns > when_ns and _may_be(peer, payload.peer):
                self._early.remove(early)
                _end(lookup, answer, answered_ns, told)
                return
        self._open.setdefault(key, []).append(lookup)
        self._count += 1
        if self._count > MAX_OPEN:
            oldest, lookups = next(iter(self._open.items()))
            told.ended.append(lookups[0])
            self._take(oldest, lookups[0])

    def _answer(self, message: Message, payload: Payload, when_ns: int, told: Told) -> None:
        found = self._find(payload.sends, message, payload.peer)
        if found is not None:
            self._take(*found)
            _end(found[1], message, when_ns, told)
        elif not payload.sends and message.question is not None:
            # (another thread may have received it while the call that asks returns)
            self._early.append((message, payload.peer, when_ns))

    def _find(self, is_server: bool, message: Message, peer: Peer | None) -> tuple[_Key, Lookup] | None:
        if message.question is not None:
            keys: list[_Key] = [(is_server, message.number, message.question)]
        elif message.rcode in _REPEATS_NOT:
            keys = [key for key in self._open if key[:2] == (is_server, message.number)]
        else:
            return None
        found = [(key, each) for key in keys for each in self._open.get(key, ()) if _may_be(each.peer, peer)]
        return found[0] if len(found) == 1 else None

    def _take(self, key: _Key, lookup: Lookup) -> None:
        self._open[key].remove(lookup)
        self._count -= 1
        if not self._open[key]:
            del self._open[key]


def _end(lookup: Lookup, message: Message, when_ns: int, told: Told) -> None:
    lookup.end_ns = max(when_ns, lookup.start_ns)
    lookup.rcode, lookup.addresses, lookup.is_truncated = message.rcode, message.addresses, message.is_truncated
    told.ended.append(lookup)


def _may_be(one: Peer | None, other: Peer | None) -> bool:
    """Whether both may be the same: of a call that says nothing of it, it is not known who it was."""
    return one is None or other is None or one == other


def _datagrams(payload: Payload) -> Iterator[Message | None]:
    if not payload.is_many:
        yield parse(payload.data, payload.moved)
        return
    data, at, moved = payload.data, 0, 0
    while at + _DATAGRAM_HEADER <= len(data):
        length, copied = (int.from_bytes(data[at + each : at + each + 2], "little") for each in (0, 2))
        at += _DATAGRAM_HEADER
        yield parse(data[at : at + copied], length)
        at, moved = at + copied, moved + length
    if moved != payload.moved:
        yield None  # there was no room for the others


def _may_begin_stream(payload: Payload) -> bool:
    """Whether messages begin with these bytes. A length may be read alone, before the kernel could say what it is."""
    if payload.protocol is WireProtocol.UNKNOWN:
        return len(payload.data) == payload.moved == _LENGTH and not payload.sends
    return len(payload.data) >= _LENGTH


def _length(data: bytes | bytearray) -> int:
    return int.from_bytes(data[:_LENGTH], "big")


def _is_one(payload: Payload) -> bool:
    """Whether a call moved one message, or the beginning of one whose length is what it says."""
    length = payload.moved - _LENGTH
    return _length(payload.data) == length and parse(payload.data[_LENGTH:], length) is not None
