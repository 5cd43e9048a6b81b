# SPDX-License-Identifier: Apache-2.0
"""What answers a command of MySQL's protocol, packet for packet, until it ends.

Results tell their forms themselves (MariaDB's manual, "Result Set Packets"; MySQL's, "Command Phase"), so that what both ends
agreed upon when they met need not be known: whether columns are followed by a packet of their own shows in its length.
"""

from __future__ import annotations

import enum

from kernelspan_agent.protocols.mysqlwire import GREATEST, Message, number_of, string_of

OK, LOCAL_FILE, END, ERROR = 0x00, 0xFB, 0xFE, 0xFF
_MORE_RESULTS, _CURSOR, _STATE_CHANGED = 0x8, 0x40, 0x4000  # of a status
NO_BACKSLASHES = 0x200
_END_BYTES, _OK_BYTES, _PREPARED_BYTES = 5, 7, 12  # of END without more, of OK at least, of what answers Prepare
_SCHEMA = 1  # of the session's state that is told
_PROGRESS = 0xFFFF  # instead of an error's number: how far MariaDB is
_COLUMN = b"\x03def"


class Form(enum.Enum):
    """What answers a command."""

    NOTHING = enum.auto()
    ONE = enum.auto()  # OK, END or an error
    TEXT = enum.auto()  # one packet
    RESULTS = enum.auto()
    ROWS = enum.auto()
    COLUMNS = enum.auto()
    PREPARED = enum.auto()
    LOGIN = enum.auto()  # and the client may be asked for more


_RESULTS = frozenset([Form.RESULTS, Form.ROWS, Form.COLUMNS])


class _State(enum.Enum):
    HEAD = enum.auto()
    COLUMNS = enum.auto()
    AFTER_COLUMNS = enum.auto()
    ROWS = enum.auto()


class Answer:
    """Of one command. `is_wrong`: something came that none has. Not known: None, and of numbers -1."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._state = _State.ROWS if form in {Form.ROWS, Form.COLUMNS} else _State.HEAD
        self._columns = 0  # to come
        self._lists: list[int] = []  # of columns, that follow these
        self.is_wrong = False
        self.error = ""
        self.results = 0
        self.status = -1  # the server's, as it was said last
        self.schema: str | None = None  # that the server says is selected now
        self.tracks = False  # it says so whenever that changes
        self.statement = b""  # the number of what is prepared
        self.wants_file = False  # the client sends one, and then nothing
        self.may_end_again = False  # one END more may follow

    @property
    def is_clients_turn(self) -> bool:
        """Whether what the client sends is no command."""
        return self.wants_file or self._form is Form.LOGIN

    def take(self, message: Message) -> bool:
        """A packet of it; gives whether it was the last."""
        if message.kind < 0:
            self.is_wrong = True
            return False
        if message.kind == ERROR:
            return self._failed(message)
        if self._form in _RESULTS:
            return self._take_result(message)
        takes = {Form.ONE: self._take_one, Form.LOGIN: self._take_login, Form.PREPARED: self._take_prepared}
        return self._form is Form.TEXT or takes[self._form](message)

    def _take_one(self, message: Message) -> bool:
        return self._ended(message, OK, END)

    def _take_login(self, message: Message) -> bool:
        return message.kind not in {END, 1} and self._ended(message, OK)

    def _take_result(self, message: Message) -> bool:
        is_end = message.kind == END and message.length < GREATEST
        if self._state is _State.HEAD:
            return self._take_head(message)
        if self._state is _State.COLUMNS:
            self._take_column(message)
            return False
        if not is_end:
            self._state = _State.ROWS
            return False
        self._said(message)
        if self._state is _State.AFTER_COLUMNS and message.length == _END_BYTES:
            self._state = _State.ROWS
            return (
                bool(self.status & _CURSOR) and self._result_ended()
            )  # else rows follow; of a cursor they are fetched
        return self._result_ended()

    def _failed(self, message: Message) -> bool:
        number = int.from_bytes(message.body[1:3], "little")
        if number == _PROGRESS:
            return False
        self.is_wrong = not 3 <= message.length < GREATEST
        self.error = str(number)
        return not self.is_wrong

    def _ended(self, message: Message, *kinds: int) -> bool:
        """It is one packet."""
        self.is_wrong = message.kind not in kinds or message.length < _END_BYTES
        if not self.is_wrong:
            self._said(message)
        return not self.is_wrong

    def _take_head(self, message: Message) -> bool:
        body, length = message.body, message.length
        if message.kind == OK and length >= _OK_BYTES:
            self._said(message)
            return self._result_ended()
        if message.kind == LOCAL_FILE:
            self.wants_file = True
            return False
        columns = _columns(body) if length < _OK_BYTES and not message.is_cut else -1
        if columns < 0:
            self.is_wrong = True
            return False
        self._columns = columns
        self._state = _State.COLUMNS if columns else _State.AFTER_COLUMNS
        return False

    def _take_column(self, message: Message) -> None:
        self.is_wrong = not message.body.startswith(_COLUMN[: len(message.body)])
        self._columns -= 1
        if not self._columns:
            self._state = _State.AFTER_COLUMNS

    def _take_prepared(self, message: Message) -> bool:
        if self._state is _State.HEAD:
            body = message.body
            if message.kind != OK or len(body) < _PREPARED_BYTES:
                self.is_wrong = True
                return False
            self.statement = body[1:5]
            if body[12:13] != b"\0":  # else columns are not told
                self._lists = [int.from_bytes(body[at : at + 2], "little") for at in (7, 5)]
                self._lists = [each for each in self._lists if each]
            self._state = _State.COLUMNS
        elif message.kind == END and message.length == _END_BYTES:  # between the lists
            self._said(message)
            return False
        else:
            self._take_column(message)
            self.may_end_again = not self._columns and not self._lists
        if not self._columns and self._lists:
            self._columns = self._lists.pop(0)
            self._state = _State.COLUMNS
        return not self._columns and not self._lists

    def _said(self, message: Message) -> None:
        """What OK or END says of the session."""
        body = message.body
        if message.kind == END and message.length == _END_BYTES:
            self.status = int.from_bytes(body[3:5], "little")
            return
        _, at = number_of(body, 1)
        _, at = number_of(body, at)
        if at + 4 > len(body):
            self.is_wrong = True
            return
        self.status = int.from_bytes(body[at : at + 2], "little")
        if not self.status & _STATE_CHANGED:
            return
        self.tracks = True
        _, at = string_of(body, at + 4)
        size, at = number_of(body, at)
        end = min(at + size, len(body))
        while at < end:
            kind = body[at]
            data, at = string_of(body, at + 1)
            if kind == _SCHEMA:
                self.schema = string_of(data, 0)[0].decode("utf-8", "replace")

    def _result_ended(self) -> bool:
        self.results += 1
        self._state = _State.HEAD if self._form is Form.RESULTS else _State.ROWS
        return not self.status & _MORE_RESULTS


def _columns(body: bytes) -> int:
    """How many columns follow what a result begins with; -1: it begins none.

    Where both ends have agreed that they may be left out, a byte says so: MariaDB's behind the number, MySQL's before it.
    """
    count, at = number_of(body, 0)
    if count > 0 and at == len(body):
        return count
    if count > 0 and at + 1 == len(body) and body[at] <= 1:
        return count if body[at] else 0
    count, at = number_of(body, 1)
    if body[0] <= 1 and count > 0 and at == len(body):
        return count if body[0] else 0
    return -1
