# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: simple queries and executions of prepared statements, and what came of them.

What is sent up to a Query or a Sync is a group; the server says of each when it is done with it (ReadyForQuery). In a group
executions are answered in their order; an error ends it, and what follows in it is not done. See `ordered` for what is told
of a connection that was joined in its middle, or of which something was not seen; the end of a long answer is then known by
its last bytes. A statement's text is known if we saw it parsed.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from kernelspan_agent.model import Payload, WireProtocol
from kernelspan_agent.protocols.databases import Query
from kernelspan_agent.protocols.exchanges import Told, read
from kernelspan_agent.protocols.ordered import TURNS, OrderedTalk
from kernelspan_agent.protocols.pgwire import (
    GSS,
    TLS,
    VERSION,
    Message,
    Reader,
    first_code,
    is_request,
    result_at_end,
    without_ready,
)
from kernelspan_agent.protocols.sql import facts_of
from kernelspan_agent.protocols.statements import Text, Texts

MAX_GROUPS, MAX_QUERIES, MAX_PARSED = 256, 256, 64  # that are not answered
MAX_PORTALS = 256  # whose text is remembered
MAX_NAME = 128
_CLIENTS = b"QPBDECSHFdcfpX"
_SERVERS = b"RKSZTDCIEN123ntsGHWdcAvV"
_CODE = re.compile(rb"(?:\A|\x00)C([0-9A-Z]{5})\x00")
_SKIPPED = "_OTHER"  # error.type of what was not done because of an error before it


@dataclass(slots=True, eq=False, kw_only=True)
class Asked(Query):
    """A query or an execution."""

    protocol: ClassVar[WireProtocol] = WireProtocol.POSTGRESQL


@dataclass(slots=True, eq=False)
class _Group:
    """`queries`: those that are not answered. `parsed`: statements that the server has yet to accept, by their names."""

    is_simple: bool
    start_ns: int
    queries: deque[Asked] = field(default_factory=deque)
    parsed: deque[tuple[bytes, Text | None]] = field(default_factory=deque)
    portals: dict[bytes, Text | None] = field(default_factory=dict)
    is_complete: bool = False  # no more is sent for it
    has_failed: bool = False
    error: str = ""


class PostgresTalks:
    """Makes the conversations, which share what they remember."""

    def __init__(self) -> None:
        self._texts, self._count = Texts(), itertools.count()

    def begin(self, payload: Payload) -> PostgresTalk | None:
        """See TalkClass."""
        if first_code(payload.data, payload.moved):
            return PostgresTalk(payload.sends, self._texts, self._count, is_certain=True)
        if is_request(payload.data, payload.moved, payload.tail):
            return PostgresTalk(payload.sends, self._texts, self._count, is_certain=False)
        return None


class PostgresTalk(OrderedTalk):
    """One connection. `count`: gives it a number of its own, and another once its statements are not known any more."""

    def __init__(self, requests_sent: bool, texts: Texts, count: Iterator[int], *, is_certain: bool) -> None:
        self._requests, self._replies = Reader(_CLIENTS, b"QPBEC"), Reader(_SERVERS, b"E")
        super().__init__(requests_sent, self._requests, self._replies, is_certain=is_certain)
        self._requests.is_first = is_certain
        self._groups: deque[_Group] = deque()
        self._texts, self._count = texts, count
        self._number = next(count)
        self._portals: OrderedDict[bytes, Text | None] = OrderedDict()
        self._database = ""
        self._asks_for = 0  # TLS or GSS, which is answered by one byte
        self._result: str | None = None  # that the last call ended with, of an answer of which not all was seen
        self._is_copying = False  # what the client sends are data
        self._starts = is_certain  # it has not said yet that it is ready for the first time

    def _take_requests(self, payload: Payload, when_ns: int, told: Told) -> None:
        if self._is_copying:
            return
        for message in read(self._requests.feed, payload):
            if not message.kind:
                self._start(message)
            elif not self._starts:
                self._ask(message, when_ns, told)
            if self._requests.is_lost:
                break
        if self._requests.is_lost:
            self._lose(told)

    def _start(self, message: Message) -> None:
        code = int.from_bytes(message.body[:4], "big")
        if code in {TLS, GSS}:
            self._asks_for = code
            return
        words = message.body[4:].split(b"\0")
        said = dict(zip(words[::2], words[1::2], strict=False))
        if code >> 16 != VERSION or b"replication" in said:
            self._is_over = True
            return
        self._database = said.get(b"database", said.get(b"user", b"")).decode("utf-8", "replace")[:MAX_NAME]

    def _ask(self, message: Message, when_ns: int, told: Told) -> None:
        kind = message.kind
        if kind == b"Q":
            group = self._group(when_ns, is_simple=True)
            self._query(group, Text(_text(message.body), message.is_cut), when_ns, told)
            self._completed(group)
        elif kind in {b"P", b"B", b"E"}:
            group = self._group(when_ns)
            name, _, rest = message.body.partition(b"\0")
            if kind == b"P":
                text = Text(_text(rest), message.is_cut) if b"\0" in message.body else None
                group.parsed.append((name[:MAX_NAME], text))
                if len(group.parsed) > MAX_PARSED:
                    self._requests.is_lost = True
            elif kind == b"B":
                group.portals[name[:MAX_NAME]] = self._prepared(group, rest.partition(b"\0")[0][:MAX_NAME])
            else:
                name = name[:MAX_NAME]
                known = group.portals if name in group.portals else self._portals
                self._query(group, known.get(name), when_ns, told)
        elif kind == b"S":
            self._completed(self._group(when_ns))
        elif kind == b"C" and message.body[:1] == b"S":
            self._texts.pop(self._number, message.body[1:].partition(b"\0")[0][:MAX_NAME])

    def _group(self, when_ns: int, *, is_simple: bool = False) -> _Group:
        """The group that is being asked."""
        if self._groups and not self._groups[-1].is_complete:
            return self._groups[-1]
        group = _Group(is_simple, when_ns)
        self._groups.append(group)
        if len(self._groups) > MAX_GROUPS:
            self._requests.is_lost = True
        return group

    def _completed(self, group: _Group) -> None:
        group.is_complete = True
        if not self._is_certain:
            self._asked += 1

    def _prepared(self, group: _Group, name: bytes) -> Text | None:
        for parsed, text in reversed(group.parsed):
            if parsed == name:
                return text
        return self._texts.get(self._number, name)

    def _query(self, group: _Group, text: Text | None, when_ns: int, told: Told) -> None:
        if not self._is_certain or len(group.queries) >= MAX_QUERIES:
            return
        query = self._asked_for(text, when_ns if group.queries else group.start_ns)
        group.queries.append(query)
        told.began.append(query)

    def _asked_for(self, text: Text | None, when_ns: int) -> Asked:
        is_server, database = not self._requests_sent, self._database
        if text is None:
            return Asked(is_server, when_ns, operation="", text="", raw="", namespace=database)
        facts = facts_of(text.sql, is_cut=text.is_cut)
        raw = facts.text if facts.has_password else text.sql + "..." * text.is_cut
        return Asked(
            is_server,
            when_ns,
            operation=facts.operation,
            text=facts.text,
            raw=raw,
            summary=facts.summary,
            collection=facts.collection,
            namespace=database,
        )

    def _take_replies(self, payload: Payload, when_ns: int, told: Told) -> None:
        data, moved = payload.data, payload.moved
        if self._asks_for:
            # One byte: whether the connection goes on encrypted. An old server's error ends it.
            self._is_over = data[:1] != b"N" or moved != 1
            self._asks_for, self._requests.is_first = 0, True
            return
        if not self._replies.is_lost:
            for message in read(self._replies.feed, payload):
                self._answer(message, when_ns, told)
                if self._is_over:
                    return
        if self._replies.is_lost:
            self._lose(told)
            if (payload.tail or len(data) == moved) and not self._was_asked_unseen(payload):
                self._find_end(data + payload.tail, when_ns, told)
        if self._groups and self._groups[0].queries:
            self._groups[0].queries[0].end_ns = when_ns

    def _find_end(self, data: bytes, when_ns: int, told: Told) -> None:
        """The end of an answer of which not all was seen, in its last bytes: of one group that was all there is."""
        if self._is_multiplexed or self._requests.is_lost or len(self._groups) != 1 or self._turns < TURNS:
            return
        group = self._groups[0]
        before = without_ready(data)
        if before is None:
            self._result = result_at_end(data)
            return
        code = result_at_end(before) if before else self._result  # which a call may end with, and the next begin behind
        if code is None or not group.is_complete or len(group.queries) != 1:
            return
        self._replies.reset()
        self._is_certain = True
        self._end(group, code, when_ns, told)
        self._ready(when_ns, told)

    def _answer(self, message: Message, when_ns: int, told: Told) -> None:
        kind = message.kind
        if kind == b"W":
            self._is_over = True
        elif kind == b"Z" and self._starts:
            self._starts = False
        elif kind == b"Z":
            self._ready(when_ns, told)
        elif kind == b"G":
            self._is_copying = True
        elif self._groups and kind in {b"C", b"s", b"I", b"E", b"1"}:
            group = self._groups[0]
            if kind == b"E":
                found = _CODE.search(message.body)
                self._end(group, found[1].decode() if found else _SKIPPED, when_ns, told)
            elif kind == b"1":
                if group.parsed:
                    self._texts.put(self._number, *group.parsed.popleft())
            elif not group.is_simple:
                self._end(group, "", when_ns, told)

    def _end(self, group: _Group, error: str, when_ns: int, told: Told) -> None:
        """An execution has ended; of a simple query the error is known."""
        if error:
            group.has_failed, group.error = True, error
            if not group.queries and group.parsed and self._is_certain:  # it was only to be parsed
                query = self._asked_for(group.parsed[0][1], group.start_ns)
                group.queries.append(query)
                told.began.append(query)
        if not group.queries or (group.is_simple and not error):
            return
        query = group.queries[0]
        query.end_ns = max(when_ns, query.start_ns)
        if error and not query.error:
            query.error = error
        if not group.is_simple:
            group.queries.popleft()
            told.ended.append(query)

    def _ready(self, when_ns: int, told: Told) -> None:
        """The server is done with a group."""
        has_copied, self._is_copying = self._is_copying, False
        if not self._is_certain:
            self._answered += 1
        if not self._groups or not (has_copied or self._groups[0].is_complete):
            if self._is_certain:
                self._out_of_step(told)
            return
        group = self._groups.popleft()
        for query in group.queries:
            query.end_ns = max(when_ns, query.start_ns)
            if group.has_failed and not query.error:
                query.error = _SKIPPED
            told.ended.append(query)
        self._keep(group)

    def _keep(self, group: _Group) -> None:
        """What a group has made is there for the next ones, if it has not failed."""
        for name in group.portals:
            self._portals.pop(name, None)
        if group.has_failed:
            return
        for parsed in group.parsed:
            self._texts.put(self._number, *parsed)
        self._portals.update(group.portals)
        while len(self._portals) > MAX_PORTALS:
            self._portals.popitem(last=False)

    def _waits(self) -> bool:
        return bool(self._groups) and self._groups[0].is_complete and not self._is_copying

    def _goes_on(self) -> bool:
        is_lost = self._requests.is_lost or self._replies.is_lost
        return not is_lost and bool(self._groups) and not self._groups[0].is_complete

    def _end_all(self, told: Told) -> None:
        for group in self._groups:
            told.ended.extend(group.queries)
            for name, _ in group.parsed:  # whether the server took them is not known
                self._texts.pop(self._number, name)
        self._groups.clear()
        self._is_copying = False

    def _forget(self) -> None:
        self._starts = False
        if self._requests.is_lost:
            self._number = next(self._count)
            self._portals.clear()


def _text(body: bytes) -> str:
    return body.partition(b"\0")[0].decode("utf-8", "replace")
