# SPDX-License-Identifier: Apache-2.0
"""Kafka: what is produced, fetched and committed, and what answers it by its number.

An answer does not say what it answers but by a number, so what was asked is kept. Brokers answer a connection in its order: what
was asked before what is answered has been answered unseen. Newer versions call topics by ids, whose names are told where a client
asks what there is: they are kept for all connections, and an id whose name was not seen has none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols import kafkawire
from kernelspan_agent.protocols.exchanges import Exchange, Told
from kernelspan_agent.protocols.framed import Asking, Framed, Message
from kernelspan_agent.protocols.kafkaerrors import error_name
from kernelspan_agent.protocols.kafkawire import FETCH, LENGTH, METADATA, OFFSET_COMMIT, PRODUCE, Part, Parts, Topic

MAX_OPEN = 1024  # requests of a connection that are not answered; the oldest is then told without an answer
MAX_EARLY = 8  # answers whose request has yet to come
MAX_NAMES = 16384
_EARLY_BYTES = 1024  # of each that are kept
_OPERATIONS = {PRODUCE: "send", FETCH: "poll", OFFSET_COMMIT: "commit"}


@dataclass(slots=True, eq=False, kw_only=True)
class Messaging(Exchange):
    """What was done with messages of Kafka. Empty, None: not known, or there is none.

    `topic`, `partition`: where it was one alone. `count`: how many were sent. `offset`: of the only one that was sent. `error`:
    the first that the answer tells. `returned`: messages were fetched.
    """

    protocol: ClassVar[WireProtocol] = WireProtocol.KAFKA
    ends_when_closed: ClassVar[bool] = True
    operation: str
    client_id: str
    number: int
    group: str = ""
    topic: str = ""
    partition: int | None = None
    count: int | None = None
    offset: int | None = None
    error: str = ""
    returned: bool = False

    @property
    def said(self) -> tuple[str, ...]:
        """See Exchange."""
        return self.operation, self.client_id, str(self.number)

    @property
    def is_told(self) -> bool:
        """Who waits for messages asks twice a second: what brings none, and no error, is not told."""
        return self.operation != _OPERATIONS[FETCH] or self.returned or bool(self.error)


class Topics:
    """Names of topics by their ids; of one that was told two names none is."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, str] = OrderedDict()

    def learn(self, topic: bytes, name: str) -> None:
        """An answer tells them."""
        known = self._names.setdefault(topic, name)
        self._names[topic] = known if known == name else ""
        self._names.move_to_end(topic)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def name(self, topic: Topic | None) -> str:
        """Empty: not known."""
        return topic if isinstance(topic, str) else self._names.get(topic or b"", "")


class KafkaTalks:
    """Makes the conversations, which share the names of topics."""

    def __init__(self) -> None:
        self._topics = Topics()

    def begin(self, payload: Payload) -> KafkaTalk | None:
        """See TalkClass."""
        if payload.protocol is not WireProtocol.KAFKA:
            return None
        if _begins_request(payload):
            return KafkaTalk(payload.sends, self._topics)
        if kafkawire.header(payload.data, 0) is not None:  # its length was read alone: it is all that follows
            talk = KafkaTalk(payload.sends, self._topics)
            talk.goes_on(payload.moved)
            return talk
        return None


@dataclass(slots=True)
class _Request:
    """That has no answer yet. `told`: its span, if it has one; `asked`: and what it is about."""

    key: int
    version: int
    told: Messaging | None = None
    asked: Parts | None = None


class KafkaTalk:
    """One connection."""

    def __init__(self, requests_sent: bool, topics: Topics) -> None:
        self._requests_sent, self._topics = requests_sent, topics
        self._asking = Framed(kafkawire.REQUEST_BYTES, kafkawire.length_of_request, _begins_request)
        self._answering = Framed(kafkawire.ANSWER_BYTES, kafkawire.length_of_answer, self._begins_answer)
        self._begun = Asking()
        self._open: OrderedDict[int, _Request] = OrderedDict()  # by their numbers
        self._early: OrderedDict[int, tuple[bytes, int]] = OrderedDict()  # answers whose request has yet to come

    def goes_on(self, size: int) -> None:
        """The length of what a request goes on with has been read alone."""
        self._asking.goes_on(size.to_bytes(LENGTH, "big"))

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told = Told()
        if payload.sends != self._requests_sent:
            for message in self._answering.feed(payload, missed=missed):
                self._answer(message.head, end_ns, told)
            return told
        messages = self._asking.feed(payload, missed=missed)
        for message, when_ns, exchange_id in self._begun.of(self._asking, messages, payload, start_ns, end_ns):
            self._ask(message, when_ns, exchange_id, told)
        return told

    def _ask(self, message: Message, when_ns: int, exchange_id: int, told: Told) -> None:
        known = kafkawire.header(message.head)
        assert known is not None
        request = _Request(known.key, known.version)
        if known.key in _OPERATIONS:
            asked = request.asked = kafkawire.asked(message.head, known)
            request.told = Messaging(
                not self._requests_sent,
                when_ns,
                operation=_OPERATIONS[known.key],
                client_id=known.client_id,
                number=known.number,
                group=asked.group,
                exchange_id=exchange_id,
            )
            self._say(request.told, asked)
            told.began.append(request.told)
            if asked.acks == 0:  # there is no answer
                request.told.end_ns = when_ns
                told.ended.append(request.told)
                return
        early = self._early.pop(known.number, None)
        if early is not None and early[1] > when_ns:
            self._end(request, *early, told)
            return
        self._open[known.number] = request
        self._open.move_to_end(known.number)
        if len(self._open) > MAX_OPEN:
            _unanswered(self._open.popitem(last=False)[1], told)

    def _answer(self, head: bytes, when_ns: int, told: Told) -> None:
        number = _number(head)
        if number in self._open:
            for known in self._until(number):
                _unanswered(known, told)
            self._end(self._open.pop(number), head, when_ns, told)
        elif self._requests_sent:
            # (another thread may have received it while the call that asks returns)
            self._early[number] = head[:_EARLY_BYTES], when_ns
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)

    def _until(self, number: int) -> Iterator[_Request]:
        """What was asked before this one, which it has no longer."""
        while next(iter(self._open)) != number:
            yield self._open.popitem(last=False)[1]

    def _end(self, request: _Request, head: bytes, when_ns: int, told: Told) -> None:
        if request.key == METADATA:
            for topic, name in kafkawire.topic_names(head, request.version):
                self._topics.learn(topic, name)
        exchange, asked = request.told, request.asked
        if exchange is None or asked is None:
            return
        answered = kafkawire.answered(head, request.key, request.version)
        self._say(exchange, asked)
        codes = (answered.error, *(each.error for each in answered.found))
        exchange.error = error_name(next((code for code in codes if code), 0))
        if request.key == FETCH:
            self._returned(exchange, answered)
        elif exchange.count == 1 and not exchange.error and answered.found and answered.found[0].offset >= 0:
            exchange.offset = answered.found[0].offset
        exchange.end_ns = max(when_ns, exchange.start_ns)
        told.ended.append(exchange)

    def _say(self, exchange: Messaging, parts: Parts) -> None:
        """Where to, as the request has it."""
        part = parts.only_part()
        exchange.topic = self._topics.name(parts.only_topic())
        exchange.partition = None if part is None else part.number
        counts = [each.count for each in parts.found]
        if parts.is_whole or part is not None:
            exchange.count = sum(each or 0 for each in counts) if counts and None not in counts else None

    def _returned(self, exchange: Messaging, answered: Parts) -> None:
        """Where from: a request leaves out what it has asked for before, and an answer what has nothing."""
        full = [each for each in answered.found if each.size > 0 or each.error]
        exchange.returned = any(each.size > 0 for each in full)
        topics = {each.topic for each in full}
        if answered.topics < 0 or not full:
            return
        is_one = len(topics) == 1 and (answered.is_whole or answered.topics == 1)
        exchange.topic = self._topics.name(full[0].topic) if is_one else ""
        only: Part | None = full[0] if answered.is_whole and len(full) == 1 else answered.only_part()
        exchange.partition = None if only is None else only.number

    def _begins_answer(self, payload: Payload) -> bool:
        """Whether a call moved the beginning of one, or its length alone."""
        if payload.moved == LENGTH:
            return kafkawire.may_be_length(payload.data)
        return kafkawire.length_of_answer(payload.data) >= payload.moved and _number(payload.data) in self._open


def _unanswered(request: _Request, told: Told) -> None:
    if request.told is not None:
        told.ended.append(request.told)


def _number(head: bytes) -> int:
    return int.from_bytes(head[LENGTH : kafkawire.ANSWER_BYTES], "big")


def _begins_request(payload: Payload) -> bool:
    """Whether a call moved one, or its beginning, or its length alone."""
    if payload.moved == LENGTH:
        return kafkawire.may_be_length(payload.data)
    return kafkawire.length_of_request(payload.data) >= payload.moved
