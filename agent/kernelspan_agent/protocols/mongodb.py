# SPDX-License-Identifier: Apache-2.0
"""MongoDB: commands, and what answers them by their numbers.

An answer names what it answers, so nothing depends on order or on having seen all. What drivers ask for themselves, again and
again, is not told: who the server is, and whether it is there.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.databases import Query
from kernelspan_agent.protocols.exchanges import Told
from kernelspan_agent.protocols.framed import Asking, Framed, Message
from kernelspan_agent.protocols.mongowire import HEADER_BYTES, asked, error, header

MAX_OPEN = 1024  # commands of a connection that are not answered; the oldest is then told without an answer
MAX_EARLY = 64
_OWN = {"hello", "isMaster", "ismaster"}  # of drivers


@dataclass(slots=True, eq=False, kw_only=True)
class Command(Query):
    """A command of MongoDB."""

    protocol: ClassVar[WireProtocol] = WireProtocol.MONGODB
    ends_when_closed: ClassVar[bool] = True

    @property
    def said(self) -> tuple[str, ...]:
        """See Exchange."""
        return self.operation, self.collection, self.namespace


class MongoTalk:
    """One connection."""

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass."""
        found = header(payload.data)
        return None if found is None else cls(payload.sends is (found.answers == 0))

    def __init__(self, requests_sent: bool) -> None:
        self._requests_sent = requests_sent
        self._streams = {each: Framed(HEADER_BYTES, _length, _is_one) for each in (True, False)}  # sent, received
        self._begun = Asking()
        self._open: OrderedDict[int, Command] = OrderedDict()  # by their numbers
        self._early: OrderedDict[int, tuple[str, int]] = OrderedDict()  # answers whose command has yet to come

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        told = Told()
        stream = self._streams[payload.sends]
        messages = stream.feed(payload, missed=missed)
        if payload.sends != self._requests_sent:
            for message in messages:
                self._answer(message, end_ns, told)
            return told
        for message, when_ns, exchange_id in self._begun.of(stream, messages, payload, start_ns, end_ns):
            self._ask(message, when_ns, exchange_id, told)
        return told

    def _ask(self, message: Message, when_ns: int, exchange_id: int, told: Told) -> None:
        known = header(message.head)
        assert known is not None
        if not known.is_message:
            return
        said = asked(message.head)
        if said is None:
            told.unreadable += 1
            return
        if said.command in _OWN:
            return
        command = Command(
            not self._requests_sent,
            when_ns,
            operation=said.command,
            text="",
            raw="",
            collection=said.collection,
            namespace=said.database,
            exchange_id=exchange_id,
        )
        told.began.append(command)
        early = self._early.pop(known.number, None)
        if not said.wants_answer:
            command.end_ns = when_ns
            told.ended.append(command)
        elif early is not None and early[1] > when_ns:
            _end(command, *early, told)
        else:
            self._open[known.number] = command
            if len(self._open) > MAX_OPEN:
                told.ended.append(self._open.popitem(last=False)[1])

    def _answer(self, message: Message, when_ns: int, told: Told) -> None:
        known = header(message.head)
        assert known is not None
        said = error(message.head) if known.is_message else ""
        command = self._open.pop(known.answers, None)
        if command is not None:
            _end(command, said, when_ns, told)
        elif self._requests_sent:
            # (another thread may have received it while the call that asks returns)
            self._early[known.answers] = said, when_ns
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)


def _end(command: Command, said: str, when_ns: int, told: Told) -> None:
    command.error, command.end_ns = said, max(when_ns, command.start_ns)
    told.ended.append(command)


def _length(head: bytes | bytearray) -> int:
    found = header(head)
    return 0 if found is None else found.length


def _is_one(payload: Payload) -> bool:
    """Whether a call moved one message, or its beginning, or its header alone."""
    found = header(payload.data)
    return found is not None and (payload.moved == HEADER_BYTES or found.length >= payload.moved)
