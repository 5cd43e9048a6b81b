# SPDX-License-Identifier: Apache-2.0
"""Redis: commands and what answers them, in their order.

See `ordered` for what is told of a connection that was joined in its middle, or of which something was not seen.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Self

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.databases import Query
from kernelspan_agent.protocols.exchanges import Told, read
from kernelspan_agent.protocols.ordered import OrderedTalk
from kernelspan_agent.protocols.rediscommands import COMMANDS, SECRET, SUBCOMMANDS
from kernelspan_agent.protocols.resp import MAX_ITEM_BYTES, MAX_ITEMS, Reader, Value

MAX_OPEN = 1024  # commands that are not answered; what comes beyond them is counted, and not told
MAX_EARLY = 64
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_CODE = re.compile(rb"[A-Z][A-Z0-9_]{0,39}")
_CONFIRMS = {b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"}
_PUSHED = _CONFIRMS | {b"message", b"pmessage", b"smessage"}
_ENDS_ALL = {"MONITOR", "SYNC", "PSYNC"}  # what follows is a stream
_BEGINS = re.compile(rb"\*(?:[0-9]{1,3}(?:\r(?:\n(?:\$.*)?)?)?)?\Z", re.DOTALL)


@dataclass(slots=True, eq=False, kw_only=True)
class Command(Query):
    """A command of Redis. `database`: that it selects."""

    protocol: ClassVar[WireProtocol] = WireProtocol.REDIS
    database: str = ""
    subscribes: bool = False


class RedisTalk(OrderedTalk):
    """One connection."""

    def __init__(self, requests_sent: bool, *, is_certain: bool) -> None:
        self._requests, self._replies = Reader(), Reader()
        super().__init__(requests_sent, self._requests, self._replies, is_certain=is_certain)
        self._open: deque[Command] = deque()  # in their order
        self._untold = 0  # behind those
        self._early: deque[tuple[Value, int]] = deque()  # answers whose command has yet to come, and their time
        self._first_ns = 0  # when the command that is on its way began
        self._database = "0" if is_certain else ""  # a connection's first
        self._selecting: Command | None = None  # the last that selects another, until it is answered
        self._subscribed = False

    @classmethod
    def begin(cls, payload: Payload) -> Self | None:
        """See TalkClass."""
        if not _BEGINS.match(payload.data):
            return None
        return cls(payload.sends, is_certain=payload.is_first)

    def _take_requests(self, payload: Payload, when_ns: int, told: Told) -> None:
        if not self._requests.is_inside:
            self._first_ns = when_ns
        for value in read(self._requests.feed, payload):
            command = self._command(value)
            self._first_ns = when_ns
            if command is None:
                self._requests.is_lost = True
                break
            if not self._is_certain:
                self._asked += 1
                continue
            told.began.append(command)
            if self._untold or len(self._open) >= MAX_OPEN:
                told.began.pop()
                self._untold += 1
            else:
                self._open.append(command)
                command.namespace = "" if self._selecting else self._database
                self._selecting = command if command.database else self._selecting
            self._answer_early(when_ns, told)
        if self._requests.is_lost:
            self._lose(told)

    def _take_replies(self, payload: Payload, when_ns: int, told: Told) -> None:
        for value in read(self._replies.feed, payload):
            self._answer(value, when_ns, told)
            if self._is_over:
                return
        if self._replies.is_lost:
            self._lose(told)
        if self._open and (self._replies.is_lost or self._replies.is_inside):
            self._open[0].end_ns = when_ns

    def _command(self, value: Value) -> Command | None:
        """What an array of strings is as a command; None: it is none."""
        if not value.is_command or not value.items or not _NAME.fullmatch(value.items[0]):
            return None
        name = value.items[0].decode("ascii")
        upper = name.upper()
        if not self._is_certain and upper not in COMMANDS:
            return None
        text, raw = _texts(name, value)
        command = Command(
            not self._requests_sent,
            self._first_ns,
            operation=name,
            text=text,
            raw=raw,
            database=value.items[1].decode("latin-1") if upper == "SELECT" and len(value.items) > 1 else "",
            subscribes=upper.lower().encode() in _CONFIRMS,
        )
        self._subscribed = self._subscribed or command.subscribes
        return command

    def _answer(self, value: Value, when_ns: int, told: Told) -> None:
        if value.kind == b">" or (self._subscribed and value.kind == b"*"):
            kind = value.items[0].lower() if value.items else b""
            if kind in _CONFIRMS and self._open and self._open[0].subscribes:
                self._end(value, when_ns, told)  # of several channels the first
                return
            if value.kind == b">" or kind in _PUSHED:
                return
        if not self._is_certain:
            self._answered += 1
            if value.is_command and value.items[0].upper().decode("latin-1") in COMMANDS:
                self._answered = -1  # it is a command: the other end asks
                self._requests_sent = not self._requests_sent
                self._turns = -1
        elif self._open:
            self._end(value, when_ns, told)
        elif self._untold:
            self._untold -= 1
        elif self._requests_sent and len(self._early) < MAX_EARLY:
            self._early.append((value, when_ns))
        else:
            self._out_of_step(told)

    def _answer_early(self, asked_ns: int, told: Told) -> None:
        """An answer may be told of before its command is, if another thread receives it while the call that sends returns."""
        while self._early:
            value, when_ns = self._early.popleft()
            if when_ns > asked_ns and self._open:
                self._end(value, when_ns, told)
                return
            self._out_of_step(told)
            return

    def _end(self, value: Value, when_ns: int, told: Told) -> None:
        command = self._open.popleft()
        command.end_ns, command.namespace = max(when_ns, command.start_ns), self._database
        if value.kind in {b"-", b"!"}:
            text = value.line if value.kind == b"-" else b"".join(value.items[:1])
            code = _CODE.match(text)
            command.error = code[0].decode() if code else "_OTHER"
        elif command.database:
            # (in a transaction it is not known yet)
            is_there = value.line == b"OK" and command.database.isdecimal()
            self._database = command.database[:9] if is_there else ""
        if command is self._selecting:
            self._selecting = None
        told.ended.append(command)
        name = command.operation.upper()
        if name == "RESET":
            self._database, self._subscribed = "0", False
        elif name in _ENDS_ALL or (name == "CLIENT" and " REPLY" in command.text.upper()):
            self._is_over = True

    def _waits(self) -> bool:
        return bool(self._open or self._untold)

    def _end_all(self, told: Told) -> None:
        told.ended.extend(self._open)
        self._open.clear()
        self._early.clear()
        self._selecting, self._untold = None, 0

    def _forget(self) -> None:
        if self._requests.is_lost or self._is_multiplexed or self._selecting:
            self._database = ""


def _texts(name: str, value: Value) -> tuple[str, str]:
    """A command as one types it, without its arguments, and with them."""
    upper, arguments = name.upper(), value.items[1:]
    count = value.count - 1
    shown = [name]
    if arguments and (sub := arguments[0].decode("latin-1")).upper() in SUBCOMMANDS.get(upper, ()):
        shown.append(sub)
        count -= 1
    text = " ".join([*shown, *["?"] * min(count, MAX_ITEMS), *["..."] * (count > MAX_ITEMS)])
    if upper in SECRET:
        return text, text
    said = [_said(each) for each in arguments]
    return text, " ".join([name, *said, *["..."] * (value.count > MAX_ITEMS)])


def _said(argument: bytes) -> str:
    said = argument.decode("utf-8", "replace")
    return said if len(argument) < MAX_ITEM_BYTES else said + "..."
