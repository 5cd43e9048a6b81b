# SPDX-License-Identifier: Apache-2.0
"""Commands of MySQL's protocol: what answers each, and the statement that one bears.

MySQL's manual, "Command Phase", and MariaDB's, "2 - Text Protocol" and "3 - Binary Protocol (Prepared Statements)".
"""

from __future__ import annotations

import enum

from kernelspan_agent.protocols.mysqlanswers import Form
from kernelspan_agent.protocols.mysqlwire import number_of, string_of


class Code(enum.IntEnum):
    """A command's first byte."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    REFRESH = 0x07
    SHUTDOWN = 0x08
    STATISTICS = 0x09
    PROCESS_INFO = 0x0A
    PROCESS_KILL = 0x0C
    DEBUG = 0x0D
    PING = 0x0E
    CHANGE_USER = 0x11
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    RESET_CONNECTION = 0x1F
    STMT_BULK_EXECUTE = 0xFA


FORMS = dict.fromkeys(Code, Form.ONE) | {
    Code.QUIT: Form.NOTHING,
    Code.QUERY: Form.RESULTS,
    Code.FIELD_LIST: Form.COLUMNS,
    Code.STATISTICS: Form.TEXT,
    Code.PROCESS_INFO: Form.RESULTS,
    Code.CHANGE_USER: Form.LOGIN,
    Code.STMT_PREPARE: Form.PREPARED,
    Code.STMT_EXECUTE: Form.RESULTS,
    Code.STMT_SEND_LONG_DATA: Form.NOTHING,
    Code.STMT_CLOSE: Form.NOTHING,
    Code.STMT_FETCH: Form.ROWS,
    Code.STMT_BULK_EXECUTE: Form.RESULTS,
}
# What follows is a stream of a replica's, or a copy of the server: the binary log, a table, a registration, a clone.
STREAMS = frozenset([0x12, 0x13, 0x14, 0x15, 0x1E, 0x20, 0x21])
RUNS = frozenset([Code.QUERY, Code.STMT_EXECUTE, Code.STMT_BULK_EXECUTE])  # statements
SELECTS_NONE = frozenset([Code.STMT_PREPARE, Code.STMT_FETCH, Code.STMT_RESET, Code.PING])  # no other database
LAST_PREPARED = b"\xff\xff\xff\xff"  # instead of a statement's number, MariaDB's
_SIZES = {0: -1, 1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 0, 8: 8, 9: 4, 13: 2}  # of values by their types
_WITH_LENGTH = frozenset([7, 10, 11, 12])  # one byte of it: dates and times


def is_command(kind: int, length: int) -> bool:
    """Whether a packet may be one: its first byte, and its length."""
    if kind in {Code.QUIT, Code.PING, Code.STATISTICS, Code.RESET_CONNECTION, Code.DEBUG, Code.PROCESS_INFO}:
        return length == 1
    if kind in {Code.STMT_EXECUTE, Code.STMT_FETCH}:
        return length >= 9
    if kind in {Code.STMT_CLOSE, Code.STMT_RESET}:
        return length == 5
    return kind in FORMS and length > 1


def statement_of(body: bytes, *, has_attributes: bool | None) -> bytes | None:
    """The text of a query, behind its attributes if the client may give some; None: not known whether.

    `body`: behind the command's byte. Gives None where the text's beginning is not known.
    """
    if has_attributes is None:
        has_attributes = body[1:2] == b"\1" and body[:1] not in b"\t\n\r "
    if not has_attributes:
        return body
    count, at = number_of(body, 0)
    _, at = number_of(body, at)
    if count > 0:
        nulls = body[at : at + (count + 7) // 8]
        at += len(nulls)
        if body[at : at + 1] != b"\1":
            return None
        at = _after_values(body, at + 1, count, nulls)
    return body[at:] if 0 < at <= len(body) and count >= 0 else None


def _after_values(body: bytes, at: int, count: int, nulls: bytes) -> int:
    """Where the values end, of which first the types and names are; -1: not known."""
    kinds = []
    for _ in range(count):
        if at + 2 > len(body):
            return -1
        kinds.append(body[at])
        _, at = string_of(body, at + 2)
    for number, kind in enumerate(kinds):
        if len(nulls) <= number // 8 or nulls[number // 8] >> number % 8 & 1:
            continue
        if kind in _WITH_LENGTH:
            at += 1 + body[at] if at < len(body) else 1
        elif _SIZES.get(kind, -1) >= 0:
            at += _SIZES[kind]
        else:
            _, at = string_of(body, at)
    return at
