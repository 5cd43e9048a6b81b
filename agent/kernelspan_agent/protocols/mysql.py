# SPDX-License-Identifier: Apache-2.0
"""MySQL's protocol, MariaDB's too: statements and what answers them, in their order.

The server speaks first. A command's packet has the number 0, what belongs to it and its answer the next ones. A statement
is told once, however many results it has; of prepared ones the executions, with their text if we saw them prepared; of other
commands what fails. See `ordered` for what is told of a connection that was joined in its middle, or of which something was
not seen; the end of a long answer is then what came before the next command.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.databases import Query
from kernelspan_agent.protocols.exchanges import Told, read
from kernelspan_agent.protocols.mysqlanswers import END, Answer, Form
from kernelspan_agent.protocols.mysqlcommands import (
    FORMS,
    LAST_PREPARED,
    RUNS,
    SELECTS_NONE,
    STREAMS,
    Code,
    is_command,
    statement_of,
)
from kernelspan_agent.protocols.mysqlhello import ATTRIBUTES, SEVERAL, TRACKS, database_of_change, greeting_of, hello_of
from kernelspan_agent.protocols.mysqlsession import Session
from kernelspan_agent.protocols.mysqlwire import Message, Reader, packet_of, result_at_end
from kernelspan_agent.protocols.ordered import TURNS, OrderedTalk
from kernelspan_agent.protocols.statements import Text, Texts

MAX_OPEN = 1024  # commands that are not answered
_HEADER = 4  # bytes of a packet's
_BEGINS_RESULT = b"\x01\x00\x00\x01"  # of one row's columns: their number


@dataclass(slots=True, eq=False, kw_only=True)
class Asked(Query):
    """A statement, or a command that failed."""

    protocol: ClassVar[WireProtocol] = WireProtocol.MYSQL


@dataclass(slots=True, eq=False)
class _Command:
    """`last`: the number of its last packet, or its answer's, so far; -1: not known. `asked`: as it is told, if it is."""

    code: Code | None  # None: the login
    start_ns: int
    answer: Answer
    last: int = 0
    is_certain: bool = False
    asked: Asked | None = None
    text: Text | None = None
    database: bytes = b""  # that it selects
    packets: int = field(default=0)  # of the client's, behind the first


class MysqlTalks:
    """Makes the conversations, which share what they remember."""

    def __init__(self) -> None:
        self._texts, self._count = Texts(), itertools.count()

    def begin(self, payload: Payload) -> MysqlTalk | None:
        """See TalkClass."""
        data, is_first = payload.data, payload.is_first or payload.position is None
        number, body = packet_of(data, payload.moved)
        if number == 0 and is_first and greeting_of(body):
            return self._talk(not payload.sends, is_certain=True)
        if _is_command(payload):
            return self._talk(payload.sends, is_certain=False)
        if number == 1 and body[:1] in {b"\x00", b"\xff"}:
            return self._talk(not payload.sends, is_certain=False)
        if data[:4] == _BEGINS_RESULT and data[7:8] == b"\0" and data[8:13] == b"\x02\x03def":
            return self._talk(not payload.sends, is_certain=False)
        if payload.moved == len(data) == _HEADER and data[3] == 0 and payload.position is not None:
            # a packet's header, which is read alone: the server's, where it is the first
            return self._talk(payload.sends is not payload.is_first, is_certain=payload.is_first)
        return None

    def _talk(self, requests_sent: bool, *, is_certain: bool) -> MysqlTalk:
        return MysqlTalk(requests_sent, self._texts, self._count, is_certain=is_certain)


class MysqlTalk(OrderedTalk):
    """One connection. `count`: gives it a number of its own, and another once its statements are not known any more."""

    def __init__(self, requests_sent: bool, texts: Texts, count: Iterator[int], *, is_certain: bool) -> None:
        self._requests, self._replies = Reader(), Reader()
        super().__init__(requests_sent, self._requests, self._replies, is_certain=is_certain)
        self._open: deque[_Command] = deque()
        self._texts, self._count = texts, count
        self._number = next(count)
        self._session = Session()
        self._server = 0  # its capabilities
        self._agreed: int | None = None  # what both ends can; None: not known
        self._is_compressed = False  # from the login on
        self._greets = is_certain  # the server has yet to say what it is
        self._first_ns = 0  # when the command that is on its way began
        self._may_end_again = 0  # the number of an END that may follow an answer; 0: none
        self._last_prepared: Text | None = None

    def feed(self, payload: Payload, start_ns: int, end_ns: int, *, missed: bool) -> Told:
        """See Talk."""
        is_new = not self._is_certain and self._turns < TURNS
        if is_new and payload.sends != self._requests_sent and _is_command(payload):
            self._requests_sent = payload.sends  # it is the other end that asks
            self._turns = -1
        return super().feed(payload, start_ns, end_ns, missed=missed)

    def _take_requests(self, payload: Payload, when_ns: int, told: Told) -> None:
        if not self._requests.is_inside:
            self._first_ns = when_ns
        for message in read(self._requests.feed, payload):
            if self._open and self._open[0].answer.wants_file:
                self._go_on(self._open[0], message)
                self._open[0].answer.wants_file = message.length > 0
            elif message.number:
                self._requests.is_lost = not self._open
                if self._open:
                    self._go_on(self._open[-1], message)
            else:
                self._ask(message, told)
            self._first_ns = when_ns
            if self._requests.is_lost or self._is_over:
                break
        if self._requests.is_lost:
            if self._goes_on():
                self._open[0].last = -1
            self._lose(told)

    def _go_on(self, command: _Command, message: Message) -> None:
        """A packet that belongs to a command."""
        if not _follows(message, command):
            self._requests.is_lost = True
            return
        command.last = message.last
        command.packets += 1
        if command.code is not None or command.packets > 1:
            return
        hello = hello_of(message.body, self._server)
        if hello is None or hello.asks_for_tls:
            self._is_over = hello is not None
            self._requests.is_lost = True
            return
        command.database = hello.database
        self._agreed = hello.capabilities
        self._is_compressed = hello.is_compressed

    def _ask(self, message: Message, told: Told) -> None:
        """A command."""
        kind, body = message.kind, message.body[1:]
        if kind in STREAMS:
            self._is_over = True
            self._end_all(told)
            return
        if not is_command(kind, message.length) or len(self._open) >= MAX_OPEN:
            self._requests.is_lost = True
            return
        code = Code(kind)
        command = _Command(code, self._first_ns, Answer(FORMS[code]), message.last, self._is_certain)
        self._prepare(command, body, message)
        if FORMS[code] is Form.NOTHING:
            return
        if not self._is_certain:
            self._asked += 1
        elif code in RUNS:
            command.asked = self._asked_for(command)
            told.began.append(command.asked)
        self._open.append(command)

    def _prepare(self, command: _Command, body: bytes, message: Message) -> None:
        """What a command names: a statement's text, a statement that was prepared, a database."""
        code = command.code
        if code is Code.STMT_CLOSE:
            self._texts.pop(self._number, body[:4])
        elif code is Code.SET_OPTION:
            self._session.is_single = False
        elif code in {Code.INIT_DB, Code.CHANGE_USER}:
            command.database = body if code is Code.INIT_DB else database_of_change(body)
        elif code is Code.STMT_PREPARE:
            command.text = self._last_prepared = Text(body.decode("utf-8", "replace"), message.is_cut)
        elif code is Code.QUERY:
            attributes = None if self._agreed is None else bool(self._agreed & ATTRIBUTES)
            text = statement_of(body, has_attributes=attributes)
            command.text = None if text is None else Text(text.decode("utf-8", "replace"), message.is_cut)
        elif code in RUNS:
            name = body[:4]
            command.text = self._last_prepared if name == LAST_PREPARED else self._texts.get(self._number, name)

    def _asked_for(self, command: _Command) -> Asked:
        session, is_server, text = self._session, not self._requests_sent, command.text
        namespace = session.database if all(each.code in SELECTS_NONE for each in self._open) else ""
        if text is None:
            return Asked(
                is_server,
                command.start_ns,
                operation="",
                text="",
                raw="",
                namespace=namespace,
                system=session.system,
            )
        facts = session.facts_of(text, is_alone=not self._open)
        return Asked(
            is_server,
            command.start_ns,
            operation=facts.operation,
            text=facts.text,
            raw=facts.text if facts.has_password else text.sql + "..." * text.is_cut,
            summary=facts.summary,
            collection=facts.collection,
            namespace=namespace,
            system=session.system,
        )

    def _take_replies(self, payload: Payload, when_ns: int, told: Told) -> None:
        if self._turns < 0 and not self._is_certain:
            return  # nothing was asked yet that we saw
        if not self._open and self._is_certain and self._was_asked_unseen(payload):
            self._requests.is_lost = True  # something was asked that we did not see
            self._lose(told)
        self._read_replies(payload, when_ns, told)
        if self._is_over:
            return
        if self._replies.is_lost:
            self._lose(told)
            self._find_end(payload, when_ns)
        elif self._open and self._open[0].asked:
            self._open[0].asked.end_ns = when_ns

    def _read_replies(self, payload: Payload, when_ns: int, told: Told) -> None:
        for message in [] if self._replies.is_lost else read(self._replies.feed, payload):
            self._take_reply(message, when_ns, told)
            if self._is_over or self._replies.is_lost:
                return

    def _find_end(self, payload: Payload, when_ns: int) -> None:
        """What an answer of which not all was seen ends with, as far as it has come: of one command, if no other was asked."""
        if not self._open or self._is_multiplexed or self._requests.is_lost or self._was_asked_unseen(payload):
            return
        asked = self._open[0].asked
        if asked is None or len(self._open) > 1 or self._turns < TURNS or self._open[0].answer.is_wrong:
            return
        asked.end_ns = when_ns
        is_end_seen = payload.tail or len(payload.data) == payload.moved
        error = result_at_end(payload.data + payload.tail) if is_end_seen else None
        asked.error = error or ""
        asked.is_open_ended = error == ""

    def _take_reply(self, message: Message, when_ns: int, told: Told) -> None:
        may_end_again, self._may_end_again = self._may_end_again, 0
        if self._greets:
            self._greets = False
            greeting = greeting_of(message.body)
            self._is_over = greeting is None or message.number != 0
            if greeting is not None:
                self._server = greeting.capabilities
                self._session.system = "mariadb" if greeting.is_mariadb else "mysql"
                self._open.append(_Command(None, when_ns, Answer(Form.LOGIN), message.last))
            return
        if may_end_again and message.number == may_end_again and message.kind == END:
            return
        if not self._open:
            self._replies.is_lost = True
            if self._is_certain:
                self._out_of_step(told)
            return
        command = self._open[0]
        command.answer.is_wrong = not _follows(message, command)
        command.last = message.last
        has_ended = not command.answer.is_wrong and command.answer.take(message)
        if command.answer.is_wrong:
            self._replies.is_lost = True
        elif has_ended:
            self._open.popleft()
            self._end(command, when_ns, told)

    def _end(self, command: _Command, when_ns: int, told: Told) -> None:
        """It is answered."""
        answer, code = command.answer, command.code
        if answer.may_end_again:
            self._may_end_again = (command.last + 1) & 0xFF
        if not self._is_certain:
            self._answered += 1
        if code is None:
            self._is_over = bool(answer.error) or self._is_compressed
            self._session.tracks = bool(self._agreed and self._agreed & TRACKS)
            self._session.is_single = self._agreed is not None and not self._agreed & SEVERAL
        elif answer.error and command.asked is None and command.is_certain:
            command.asked = self._asked_for(command)
            command.asked.operation = command.asked.operation or code.name
            told.began.append(command.asked)
        asked = command.asked
        if asked is not None:
            asked.end_ns = max(when_ns, asked.start_ns)
            asked.error, asked.is_open_ended = answer.error, False
            asked.namespace = self._session.database
            told.ended.append(asked)
        if code in {Code.RESET_CONNECTION, Code.CHANGE_USER}:
            self._number = next(self._count)
        if not command.is_certain and code is not None:  # it may be another's answer
            self._session.unanswered(code, command.text)
            return
        if code is Code.STMT_PREPARE and not answer.error:
            self._texts.put(self._number, answer.statement, command.text)
        self._session.answered(answer, code, command.text, command.database)

    def _waits(self) -> bool:
        return bool(self._open) and not self._open[0].answer.is_clients_turn

    def _goes_on(self) -> bool:
        return not self._replies.is_lost and bool(self._open) and self._open[0].answer.is_clients_turn

    def _end_all(self, told: Told) -> None:
        for command in self._open:
            if command.asked is not None:
                command.asked.is_open_ended = False
                told.ended.append(command.asked)
            self._session.unanswered(command.code, command.text)
        self._open.clear()
        self._may_end_again = 0

    def _forget(self) -> None:
        if self._greets or any(each.code is None for each in self._open):
            self._turns = -1  # how it goes on is not known
        self._greets = False
        if self._requests.is_lost:
            self._number = next(self._count)
            self._last_prepared = None
            self._session.forget()


def _is_command(payload: Payload) -> bool:
    """Whether a call moved one, and nothing else."""
    number, body = packet_of(payload.data, payload.moved)
    return number == 0 and is_command(body[0], payload.moved - 4)


def _follows(message: Message, command: _Command) -> bool:
    """Whether it is the next of those that belong to the command."""
    return command.last < 0 or message.number == (command.last + 1) & 0xFF
