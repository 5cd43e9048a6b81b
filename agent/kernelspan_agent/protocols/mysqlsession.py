# SPDX-License-Identifier: Apache-2.0
"""What is known of a session of MySQL's protocol: the server's kind, the database that is selected, how strings are read."""

from __future__ import annotations

import re

from kernelspan_agent.protocols.mysqlanswers import NO_BACKSLASHES, Answer
from kernelspan_agent.protocols.mysqlcommands import RUNS, SELECTS_NONE, Code
from kernelspan_agent.protocols.mysqlhello import MAX_NAME
from kernelspan_agent.protocols.sql import Facts, mysql_facts_of
from kernelspan_agent.protocols.statements import Text

_USE = re.compile(r"\s*use\s+(?:`(?P<quoted>(?:[^`\0]|``)+)`|(?P<name>[\w$]+))\s*;?\s*\Z", re.IGNORECASE)
_MAY_SELECT = re.compile(r"(?:\A|; )(?:\?|\.\.\.|(?:use|execute|drop (?:database|schema))\b)", re.IGNORECASE)


class Session:
    """Of one connection. Empty: not known, or none."""

    def __init__(self) -> None:
        self.system = ""  # as the server greeted
        self.database = ""
        self.tracks = False  # the server says when another is selected
        self.is_single = False  # a query is never several statements
        self._status = -1  # the server's, of the last command that was answered

    def facts_of(self, text: Text, *, is_alone: bool) -> Facts:
        """Of a statement; `is_alone`: all before it were answered."""
        escapes = None
        if is_alone and self._status >= 0:
            escapes = not self._status & NO_BACKSLASHES
        return mysql_facts_of(text.sql, is_cut=text.is_cut, escapes=escapes)

    def answered(self, answer: Answer, code: Code | None, text: Text | None, database: bytes) -> None:
        """A command was; `code` None: the login, after which the server may still change its status by itself."""
        if answer.error:
            self._status = -1
        elif code is not None and answer.status >= 0:
            self._status = answer.status
        self.tracks = self.tracks or answer.tracks
        name = database.decode("utf-8", "replace")
        if answer.error:
            if answer.results and not self.tracks and (text is None or _may_select(text, is_one=False)):
                self.database = ""
        elif code in {None, Code.INIT_DB, Code.CHANGE_USER}:
            self._select(name)
        elif code in RUNS:
            self._ran(answer, text)
        elif code is Code.DROP_DB:
            self._select("")
        if answer.schema is not None:
            self._select(answer.schema)

    def unanswered(self, code: Code | None, text: Text | None) -> None:
        """What a command was answered was not all seen."""
        self._status = -1
        if code in SELECTS_NONE:
            return
        is_one = self.is_single or code is not Code.QUERY
        if text is None or _may_select(text, is_one=is_one):
            self.database = ""

    def forget(self) -> None:
        """A command was not seen."""
        self.database = ""
        self._status = -1

    def _select(self, name: str) -> None:
        self.database = name[:MAX_NAME]

    def _ran(self, answer: Answer, text: Text | None) -> None:
        """Statements, which may have selected another database."""
        if text is None:
            self.database = self.database if self.tracks else ""
            return
        used = _USE.match(text.sql)
        if used is not None and not text.is_cut:
            name = used["name"] or used["quoted"].replace("``", "`")
            self._select(name)
            return
        if not self.tracks and _may_select(text, is_one=answer.results <= 1):
            self.database = ""


def _may_select(text: Text, *, is_one: bool) -> bool:
    """Whether a statement may select another database. `is_one`: it is one alone."""
    shown = mysql_facts_of(text.sql, is_cut=text.is_cut).text
    if is_one:
        return _MAY_SELECT.match(shown) is not None
    return shown.endswith("...") or _MAY_SELECT.search(shown) is not None
