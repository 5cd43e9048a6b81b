# SPDX-License-Identifier: Apache-2.0
"""What is told of a statement in SQL: its text without values, its kind, and the tables that it is about.

Tables are told for the plain forms of common statements, by the words before them; of another there is less, or nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from kernelspan_agent.protocols import mysqltokens
from kernelspan_agent.protocols.sqltokens import joined, tokens_of

MAX_STATEMENT = 4096  # characters that are looked at
MAX_SUMMARY = 255  # of the conventions
_CACHED = 256

_KINDS = """
ABORT ALTER ANALYZE BEGIN CALL CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE DELETE DISCARD DO DROP
END EXECUTE EXPLAIN FETCH GRANT INSERT LISTEN LOAD LOCK MERGE MOVE NOTIFY PREPARE REFRESH REINDEX RELEASE REPLACE RESET
REVOKE ROLLBACK SAVEPOINT SELECT SET SHOW START TABLE TRUNCATE UNLISTEN UPDATE USE VACUUM VALUES
"""
_MYSQL_KINDS = """
CHANGE CHECK CHECKSUM DESC DESCRIBE FLUSH HANDLER INSTALL KILL OPTIMIZE PURGE RENAME REPAIR SHUTDOWN SIGNAL STOP UNINSTALL
UNLOCK XA
"""
KINDS = frozenset(_KINDS.split())
MYSQL_KINDS = KINDS | frozenset(_MYSQL_KINDS.split())
_INSIDE = frozenset(["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"])  # statements that may be part of another
_BEFORE_INSIDE = frozenset(["(", "EXPLAIN", "ANALYZE", "ALL", "UNION", "EXCEPT", "INTERSECT"])
_TABLE_FOLLOWS = frozenset(["UPDATE", "TRUNCATE", "COPY", "LOCK"])
_MAKES = frozenset(["CREATE", "ALTER", "DROP", "TRUNCATE", "LOCK", "TEMPORARY", "TEMP", "UNLOGGED", "FOREIGN"])
_SKIPPED = frozenset(["ONLY", "IF", "NOT", "EXISTS", "LATERAL", "TABLE"])  # between such a word and the table
_MYSQL_SKIPPED = _SKIPPED | {"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE"}
_JOINS = frozenset(["READS", "INSERT", "MERGE", "UPDATE", "DELETE"])  # where JOIN and INTO are followed by one
_COLUMNS = frozenset(
    ["INSERT", "COPY", "CREATE"]
)  # where columns in parentheses may follow one: elsewhere it is a function


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one statement or several. Empty: nothing. `has_password`: not to be shown with its values."""

    text: str
    operation: str = ""
    collection: str = ""
    summary: str = ""
    has_password: bool = False


@functools.lru_cache(_CACHED)
def facts_of(statement: str, *, is_cut: bool = False) -> Facts:
    """Of a text; `is_cut`: there was more of it."""
    tokens, is_whole = tokens_of(statement[:MAX_STATEMENT])
    is_whole = is_whole and not is_cut and len(statement) <= MAX_STATEMENT
    has_password = any(piece.upper() == "PASSWORD" for piece in tokens)
    return _facts(_Subjects(), tokens, is_whole=is_whole, has_password=has_password)


@functools.lru_cache(_CACHED)
def mysql_facts_of(statement: str, *, is_cut: bool = False, escapes: bool | None = None) -> Facts:
    """Of a text for MySQL or MariaDB. `escapes`: whether a backslash in a string does; None: not known."""
    tokens, is_whole = mysqltokens.tokens_of(statement[:MAX_STATEMENT], escapes)
    is_whole = is_whole and not is_cut and len(statement) <= MAX_STATEMENT
    has_password = mysqltokens.has_password(statement)
    return _facts(_MysqlSubjects(), tokens, is_whole=is_whole, has_password=has_password)


def _facts(subjects: _Subjects, tokens: list[str], *, is_whole: bool, has_password: bool) -> Facts:
    for piece in tokens:
        subjects.take(piece)
    subjects.take(";")
    operation = subjects.operation if subjects.count == 1 else ""
    if not is_whole:  # more tables may follow
        return Facts(joined(tokens) + "...", operation, has_password=has_password)
    return Facts(joined(tokens), operation, subjects.collection, subjects.summary, has_password)


class _Subjects:
    """Kinds of statement and their tables, from one piece after another."""

    kinds = KINDS
    follows = _TABLE_FOLLOWS
    skipped = _SKIPPED
    none = frozenset[str]()  # a name that is no table's
    into = joins = _JOINS  # where INTO and JOIN are
    joining = frozenset(["JOIN", "INTO"])
    listing = frozenset(["READS"])  # where a comma is followed by another table

    def __init__(self) -> None:
        self.count = 0  # statements
        self.operation = ""  # the first one's
        self._said: list[str] = []  # of the summary
        self._kinds = 0  # of those
        self._tables: list[str] = []
        self._own: set[str] = set()  # names that WITH gives
        self._levels = [""]  # of parentheses: the statement in each; READS: behind its FROM
        self._expects = False  # a table
        self._name = ""  # of a table, as far as it goes
        self._lists = False  # a comma is followed by another
        self._last = ""
        self._is_new, self._is_with = True, False  # a statement begins; it has begun by WITH

    @property
    def collection(self) -> str:
        """The table, if one statement is about one alone."""
        return self._tables[0] if self.count == self._kinds == 1 and len(set(self._tables)) == 1 else ""

    @property
    def summary(self) -> str:
        """Whole words of it that fit."""
        text = " ".join(self._said)
        return text if len(text) <= MAX_SUMMARY else text[: MAX_SUMMARY + 1].rpartition(" ")[0]

    def take(self, piece: str) -> None:
        """One piece."""
        upper = piece.upper()
        if self._name and piece != "." and not self._name.endswith("."):
            self._named(piece)
        if self._name or (self._expects and piece not in {"(", ")", ";"}):
            if upper not in self.skipped:
                self._name += piece
                self._expects = False
        elif piece in {"(", ")", ";", ","}:
            self._mark(piece)
        else:
            self._word(piece, upper)
        self._last = upper

    def _named(self, following: str) -> None:
        name, self._name = self._name, ""
        self._lists = True
        is_name = name[0].isalpha() or name[0] in '_"`'
        if (
            not is_name
            or (following == "(" and self._levels[-1] not in _COLUMNS)
            or name.upper() in self._own | self.none
        ):
            return
        self._tables.append(name)
        self._said.append(name)

    def _mark(self, piece: str) -> None:
        if piece == "(":
            self._levels.append("")
            self._expects = False
        elif piece == ")":
            if len(self._levels) > 1:
                self._levels.pop()
            self._lists = self._levels[-1] == "READS"
        elif piece == ";":
            self._levels, self._is_new, self._is_with, self._expects, self._lists = [""], True, False, False, False
        elif self._lists and self._levels[-1] in self.listing:
            self._expects = True

    def _word(self, piece: str, upper: str) -> None:
        if self._is_new and piece[:1].isalpha():
            self._is_new, self._is_with = False, upper == "WITH"
            self.count += 1
            if upper in self.kinds:
                self._begin(piece, upper)
        elif upper in _INSIDE and self._may_begin(upper):
            self._begin(piece, upper)
        elif upper == "AS" and self._is_with and self._last != ")":
            self._own.add(self._last)
        else:
            self._maybe_before_table(upper)

    def _may_begin(self, upper: str) -> bool:
        is_main = self._is_with and self._last == ")" and len(self._levels) == 1
        inserts = self._levels[-1] in {"INSERT", "REPLACE"} and upper == "SELECT"
        return is_main or inserts or self._last in _BEFORE_INSIDE

    def _begin(self, piece: str, upper: str) -> None:
        if len(self._levels) == 1 and self.count == 1 and (not self.operation or self._is_with):
            self.operation, self._is_with = piece, False
        self._levels[-1] = upper
        self._said.append(upper)
        self._kinds += 1
        self._expects, self._lists = upper in self.follows, False

    def _maybe_before_table(self, upper: str) -> None:
        level = self._levels[-1]
        if upper == "FROM":
            self._expects = level in {"SELECT", "DELETE", "UPDATE"} and self._last != "DISTINCT"
            if self._expects and level == "SELECT":
                self._levels[-1] = "READS"
        elif upper in self.joining:
            self._expects = level in (self.joins if upper != "INTO" else self.into)
        elif upper == "TABLE":
            self._expects = self._last in _MAKES
        elif upper == "USING":
            self._expects = level == "MERGE"
        elif upper in {"WHERE", "ON", "GROUP", "ORDER", "SET", "HAVING", "LIMIT", "RETURNING", "WINDOW", "VALUES"}:
            self._lists = False


class _MysqlSubjects(_Subjects):
    """MySQL's and MariaDB's: SELECT makes no table, several may be changed at once."""

    kinds = MYSQL_KINDS
    follows = frozenset(["UPDATE", "TRUNCATE"])
    none = frozenset(["DUAL"])
    skipped = _MYSQL_SKIPPED
    into = frozenset(["INSERT", "REPLACE"])
    joining = frozenset(["JOIN", "STRAIGHT_JOIN", "INTO"])
    listing = frozenset(["READS", "UPDATE", "DELETE", "DROP"])
