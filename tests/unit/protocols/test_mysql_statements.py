# SPDX-License-Identifier: Apache-2.0
"""MySQL's statements without values: no form of a literal comes through, whole or cut, whatever settings the server has."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernelspan_agent.protocols.sql import MAX_STATEMENT, mysql_facts_of

SECRET = "s3cret"
LITERALS = [
    "'s3cret'", "'it''s s3cret'", r"'it\'s s3cret'", r"'a\\' 's3cret'", '"s3cret"', '"a""s3cret"', r'"a\"s3cret"', "N's3cret'", "_utf8mb4's3cret'",
    "x's3cret'", "b's3cret'", "'a'\n's3cret'", "'a' -- '\n's3cret'", "'a' # '\n's3cret'", "/* s3cret ' */ 'a'", "# s3cret '\n 1", "-- s3cret '\n 1",
    "--'s3cret'", "/*!50000 's3cret' */", "/*!99999 ' */ s3cret ' */", "/*M! 's3cret' */", "/*+ x('s3cret') */ 1", "/*!50000 /* */ 's3cret' */", r"'\' s3cret'",
    "@a:='s3cret'", "@'s3cret'", "'s3cret' COLLATE utf8mb4_bin", "date 's3cret'", "{d 's3cret'}", "$$ s3cret $$",
    "$a$ ' $a$ s3cret '", "'é\\' , 's3cret'", "'\ufffd\\' , 's3cret'", "'\ufffd\\\\' , 's3cret'", "é` ' s3cret `", "\\'s3cret'", "\\' a ' s3cret '", "'a'--'\n s3cret '",
    "-- \0's3cret'", "# \0 'a\n s3cret'", "`a'b` 's3cret'", "`a``'` 's3cret'", "1e5's3cret'", "'a' 's3cret' \"s3cret\"", "CAST('s3cret' AS JSON)->'$.s3cret'",
    "/*! */ 's3cret'", "/**/'s3cret'/**/", "'\0s3cret'", "\x01's3cret'",
]  # fmt: skip
UNENDED = ["'a''s3cret", r"'a\'s3cret", '"s3cret', "'s3cret", "/* s3cret", "/*! 's3cret", "`s3cret"]
SHAPES = [
    "SELECT * FROM t WHERE a = {}", "INSERT INTO t VALUES ({}, {})", "UPDATE t SET a = {} WHERE b IN ({}, {})", "{}", "SELECT {}; SELECT {}",
    "CALL f({})", "ALTER USER a IDENTIFIED BY {}", "REPLACE t SET a={}",
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("escapes", [True, None])
def test_no_literal_comes_through(literal: str, shape: str, escapes: bool | None) -> None:
    """However long what is seen of it is."""
    statement = shape.format(*[literal] * 3)
    for end in range(len(statement) + 1):
        assert SECRET not in repr(mysql_facts_of(statement[:end], is_cut=end < len(statement), escapes=escapes))


@pytest.mark.parametrize("literal", [r"'a\', 's3cret'", r"'a\\\', 's3cret'", r"x = 'a\' AND y = 's3cret'"])
@pytest.mark.parametrize("escapes", [False, None])
def test_no_literal_comes_through_where_nothing_is_escaped(literal: str, escapes: bool | None) -> None:
    """NO_BACKSLASH_ESCAPES; whether that is known or not."""
    assert SECRET not in repr(mysql_facts_of(f"SELECT {literal}", escapes=escapes))


@pytest.mark.parametrize("literal", UNENDED)
def test_no_literal_without_an_end_comes_through(literal: str) -> None:
    """Nothing that follows its beginning does."""
    for statement in (literal, f"SELECT {literal}", f"SELECT {literal} FROM s3cret"):
        assert SECRET not in repr(mysql_facts_of(statement))


@pytest.mark.parametrize(
    "number",
    [
        "47110815",
        "-47110815",
        "4711.0815",
        ".47110815",
        "4711e0815",
        "0x47110815",
        "0b110815",
        "1e-47110815",
        "5.47110815e+7",
        "4711_0815",
    ],
)
def test_no_number_comes_through(number: str) -> None:
    """Of any form; but numbers that are part of a name do."""
    shown = mysql_facts_of(f"SELECT a4711 FROM t2 WHERE b = {number} AND c={number} LIMIT 10 OFFSET ?")
    assert "0815" not in repr(shown)
    assert "a4711" in shown.text
    assert shown.text.endswith("LIMIT ? OFFSET ?")


parts = st.sampled_from(
    [
        "'", '"', "`", "\\", "\\\\", "$", "$$", "N", "x'", "-- ", "--", "#", "/*", "*/", "/*!", "/*!50000", "/*M!", "/*+", "\n", "\r", " ", "a", "é", "\ufffd",
        "1", ".", "0x", ";", "(", ")", "''", "\0", "@", "*", "/", "!",
    ]
)  # fmt: skip


@given(st.lists(parts, max_size=12), st.lists(parts, max_size=12))
@settings(max_examples=3000, deadline=None)
@example(["'", "é", "\\", "'"], ["'"])
@example(['"', "\\", '"', "'", '"'], ["'"])
@example(["/*!", "/*", "/"], ["*/", "*/"])
@example(["/*!50000", " ", "'", "*/"], ["'"])
def test_what_is_shown_is_as_the_server_reads_it(before: list[str], after: list[str]) -> None:
    """Against a plain reading of the manual, one character after another, with every setting: nothing inside a literal is shown."""
    statement = "".join(before) + "QQQ" + "".join(after)
    place = statement.index("QQQ")
    for escapes in (True, False):
        for ansi in (True, False):
            for executes in (True, False):
                for wide in (True, False):
                    if _is_in_literal(statement, place, escapes=escapes, ansi=ansi, executes=executes, wide=wide):
                        assert "QQQ" not in mysql_facts_of(statement).text
                        assert "QQQ" not in mysql_facts_of(statement, escapes=escapes).text


def _is_in_literal(  # noqa: C901, PLR0912
    text: str, place: int, *, escapes: bool, ansi: bool, executes: bool, wide: bool
) -> bool:
    """Whether the character at `place` is in a string or a comment.

    `ansi`: text in double quotes is a name. `executes`: comments for certain versions are no comments. `wide`: what is not
    ASCII takes a backslash or a backtick behind it along.
    """
    at, is_inside = 0, False
    while at < len(text):
        rest, begun, is_literal = text[at:], at, True
        if re.match(r"#|--([\x01-\x20\x7f]|\Z)", rest):
            ends = [each for each in (text.find("\n", at), text.find("\0", at)) if each >= 0]
            at = min(ends, default=len(text))
        elif rest.startswith("/*") and executes and (marked := re.match(r"/\*M?!\d*", rest)):
            at, is_inside, is_literal = at + marked.end(), True, False
        elif rest.startswith("/*"):
            end = text.find("*/", at + 2)
            at = end + 2 if end >= 0 else len(text)
            is_literal = end < 0 or not re.match(r"/\*M?!", rest)  # their inside is shown
        elif rest.startswith("*/") and is_inside:
            at, is_inside, is_literal = at + 2, False, False
        elif rest[0] in "'\"`":
            quote, at = rest[0], at + 1
            is_literal = quote == "'" or (quote == '"' and not ansi)
            while at < len(text):
                if (wide and ord(text[at]) > 0x7F and text[at + 1 : at + 2] == "\\") or (
                    text[at] == "\\" and escapes and is_literal
                ):
                    at += 2
                elif text[at] != quote:
                    at += 1
                elif text[at + 1 : at + 2] == quote:
                    at += 2
                else:
                    break
            at += 1
        else:
            at += 2 if wide and ord(rest[0]) > 0x7F and rest[1:2] in {"`", "\\"} else 1
            is_literal = False
        if begun <= place < at:
            return is_literal
    return False


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT `a b`, @x, @@session.sql_mode FROM `shop`.`t-1` # why", "SELECT `a b`, @x, @@session.sql_mode FROM `shop`.`t-1`"),
        ("/*!40101 SET NAMES utf8 */", "SET NAMES utf8"),
        ("INSERT INTO t VALUES (1, 'a'), (2, \"b\")", "INSERT INTO t VALUES (?)"),
        ("SELECT 1--1", "SELECT ? -- ?"),
        ("SELECT a FROM t WHERE b = 'it''s' AND c = 5", "SELECT a FROM t WHERE b = ? AND c = ?"),
        (r"SELECT a FROM t WHERE b = 'x\n' AND c = 5", "SELECT a FROM t WHERE b = ? AND c = ?"),
        (r"SELECT a FROM t WHERE b = 'it\'s' AND c = 5", "SELECT a FROM t WHERE b = ?..."),
        ("SELECT \\N", r"SELECT \N"),
    ],
)  # fmt: skip
def test_what_is_shown(statement: str, shown: str) -> None:
    """Names, variables, operators, the inside of comments that are executed."""
    assert mysql_facts_of(statement).text == shown


@pytest.mark.parametrize(
    ("statement", "operation", "collection", "summary"),
    [
        ("select * from t", "select", "t", "SELECT t"),
        ("SELECT 1 FROM `a`.`b` AS x", "SELECT", "`a`.`b`", "SELECT `a`.`b`"),
        ("SELECT * FROM a, b", "SELECT", "", "SELECT a b"),
        ("SELECT * FROM a STRAIGHT_JOIN b", "SELECT", "", "SELECT a b"),
        ("SELECT STRAIGHT_JOIN x FROM a", "SELECT", "a", "SELECT a"),
        ("SELECT x FROM a INTO OUTFILE '/x'", "SELECT", "a", "SELECT a"),
        ("SELECT x INTO @v FROM a", "SELECT", "a", "SELECT a"),
        ("SELECT x FROM a FOR UPDATE", "SELECT", "a", "SELECT a"),
        ("SELECT 1 FROM DUAL", "SELECT", "", "SELECT"),
        ("INSERT IGNORE INTO t SET a = 1 ON DUPLICATE KEY UPDATE a = 2", "INSERT", "t", "INSERT t"),
        ("INSERT INTO t SELECT * FROM s", "INSERT", "", "INSERT t SELECT s"),
        ("REPLACE INTO t VALUES (1)", "REPLACE", "t", "REPLACE t"),
        ("REPLACE INTO t SELECT * FROM s", "REPLACE", "", "REPLACE t SELECT s"),
        ("UPDATE LOW_PRIORITY IGNORE t SET a = 1", "UPDATE", "t", "UPDATE t"),
        ("UPDATE a, b SET a.x = b.x", "UPDATE", "", "UPDATE a b"),
        ("UPDATE a JOIN b ON a.x = b.x SET a.y = 1, b.y = 2", "UPDATE", "", "UPDATE a b"),
        ("DELETE FROM t WHERE a = 1", "DELETE", "t", "DELETE t"),
        ("DELETE a FROM a JOIN b", "DELETE", "", "DELETE a b"),
        ("DROP TABLE a, b", "DROP", "", "DROP a b"),
        ("CREATE TABLE IF NOT EXISTS t (a int, b int)", "CREATE", "t", "CREATE t"),
        ("SHOW TABLES FROM x", "SHOW", "", "SHOW"),
        ("LOCK TABLES a READ, b WRITE", "LOCK", "", "LOCK"),
        ("DESC t", "DESC", "", "DESC"),
        ("CALL f(1)", "CALL", "", "CALL"),
        ("SELECT 1; SELECT 2", "", "", "SELECT SELECT"),
    ],
)
def test_what_it_is_about(statement: str, operation: str, collection: str, summary: str) -> None:
    """Its kind, and its tables where they are known."""
    facts = mysql_facts_of(statement)
    assert (facts.operation, facts.collection, facts.summary) == (operation, collection, summary)


def test_what_is_cut_ends_in_dots() -> None:
    """And names no table."""
    facts = mysql_facts_of("SELECT * FROM t WHERE a = b", is_cut=True)
    assert (facts.text, facts.collection) == ("SELECT * FROM t WHERE a = b...", "")
    assert mysql_facts_of("SELECT " + "a, " * MAX_STATEMENT).text.endswith("...")


@given(st.text(max_size=200))
def test_garbage(text: str) -> None:
    """Whatever it is: no error."""
    for escapes in (True, False, None):
        mysql_facts_of(text, escapes=escapes)
