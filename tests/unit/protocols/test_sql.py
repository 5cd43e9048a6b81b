# SPDX-License-Identifier: Apache-2.0
"""Statements without values: no form of a literal comes through, whole or cut; what a statement is about."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernelspan_agent.protocols.sql import MAX_STATEMENT, MAX_SUMMARY, facts_of

SECRET = "s3cret"
LITERALS = [
    "'s3cret'", "'it''s s3cret'", "E's3cret'", r"e'a\'s3cret'", r"E'a\\' 's3cret'", "E'''s3cret'", "$$s3cret$$", "$x$s3cret$x$",
    "$x$ $$ s3cret $y$ $x$", "N's3cret'", "U&'s3cret'", "U&'d!0061s3cret' UESCAPE '!'", "b's3cret'", "X's3cret'", "'a'\n's3cret'",
    "'a' -- '\n's3cret'", "/* s3cret ' */ 'a'", "/* /* ' */ s3cret */ 1", "-- s3cret '\n 1", r"'\' s3cret'", r"'a\', 's3cret'",
    "'s3cret'::text", "CAST('s3cret' AS text)", "date 's3cret'", "interval 's3cret' day", "'[\"s3cret\"]'::jsonb -> 0", "$$a'b s3cret$$",
    "''''||'s3cret'", "1$x$ s3cret $x$", "\"a\"'s3cret'",
    "\U0001f642E'a\\' , 's3cret'", "x'41' 's3cret'", "éE'\\' 's3cret' '", "$é$s3cret$é$", "_'s3cret'", "1e5's3cret'", ".5's3cret'",
]  # fmt: skip
UNENDED = ["'a''s3cret", "E's3cret", "$$s3cret", "$x$s3cret$y$", "'s3cret", "/* s3cret"]
SHAPES = [
    "SELECT * FROM t WHERE a = {}", "INSERT INTO t VALUES ({}, {})", "UPDATE t SET a = {} WHERE b IN ({}, {})", "{}", "SELECT {}; SELECT {}",
    "WITH x AS (SELECT {}) SELECT * FROM x", "CALL f({})", "SELECT f({}) OVER (PARTITION BY a)", "COPY t FROM {}", "ALTER ROLE a PASSWORD {}",
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("literal", LITERALS)
def test_no_literal_comes_through(literal: str, shape: str) -> None:
    """However long what is seen of it is."""
    statement = shape.format(*[literal] * 3)
    for end in range(len(statement) + 1):
        assert SECRET not in repr(facts_of(statement[:end], is_cut=end < len(statement)))


@pytest.mark.parametrize("literal", UNENDED)
def test_no_literal_without_an_end_comes_through(literal: str) -> None:
    """Nothing that follows its beginning does."""
    for statement in (literal, f"SELECT {literal}", f"SELECT {literal} FROM s3cret"):
        assert SECRET not in repr(facts_of(statement))


@pytest.mark.parametrize(
    "number",
    [
        "47110815",
        "-47110815",
        "4711.0815",
        ".47110815",
        "4711e0815",
        "4_711_0815",
        "0x47110815",
        "1e-47110815",
        "5.47110815e+7",
        "47110815::int",
    ],
)
def test_no_number_comes_through(number: str) -> None:
    """Of any form; but numbers that are part of a name do."""
    shown = facts_of(f"SELECT a4711 FROM t2 WHERE b = {number} AND c={number} LIMIT 10 OFFSET $1")
    assert "0815" not in repr(shown)
    assert "a4711" in shown.text
    assert shown.text.endswith("LIMIT ? OFFSET $1")


parts = st.sampled_from(
    [
        "'",
        '"',
        "\\",
        "$",
        "$$",
        "$a$",
        "E",
        "e'",
        "U&'",
        "--",
        "/*",
        "*/",
        "\n",
        " ",
        "a",
        "é",
        "\U0001f642",
        "1",
        ".",
        "0x",
        ";",
        "(",
        ")",
        "''",
    ]
)


@given(st.lists(parts, max_size=12), st.lists(parts, max_size=12))
@settings(max_examples=1500, deadline=None)
@example(["\U0001f642", "E", "'", "a", "\\", "'"], [])
@example(["0x", "$", "$", "'", "$$"], [])
def test_what_is_shown_is_as_the_server_reads_it(before: list[str], after: list[str]) -> None:
    """Against a plain reading of the manual, one character after another: nothing that is inside a literal is shown."""
    statement = "".join(before) + "QQQ" + "".join(after)
    for standard in (True, False):
        if _is_in_literal(statement, statement.index("QQQ"), standard=standard):
            assert "QQQ" not in facts_of(statement).text


def _is_in_literal(text: str, place: int, *, standard: bool) -> bool:  # noqa: C901, PLR0912
    """Whether the character at `place` is in a string or a comment. `standard`: standard_conforming_strings."""
    at = 0
    while at <= place:
        rest = text[at:]
        begun = at
        if rest.startswith("--"):
            at = text.find("\n", at) % (len(text) + 1)
        elif rest.startswith("/*"):
            depth, at = 1, at + 2
            while depth and at < len(text):
                step = 2 if text[at : at + 2] in {"/*", "*/"} else 1
                depth += {"/*": 1, "*/": -1}.get(text[at : at + 2], 0)
                at += step
        elif text[at] == "'" or (text[at] in "eE" and text[at + 1 : at + 2] == "'"):
            escapes = text[at] != "'" or not standard
            at = text.index("'", at) + 1
            while at < len(text):
                if (text[at] == "\\" and escapes) or text[at : at + 2] == "''":
                    at += 2
                elif text[at] == "'":
                    at += 1
                    break
                else:
                    at += 1
        elif text[at] == '"':
            end = text.find('"', at + 1)
            while end >= 0 and text[end + 1 : end + 2] == '"':
                end = text.find('"', end + 2)
            at = end + 1 if end >= 0 else len(text)
            if place < at:
                return end < 0
            continue
        elif text[at] == "$" and (tag := _tag(rest)):
            end = text.find(tag, at + len(tag))
            at = end + len(tag) if end >= 0 else len(text)
        elif text[at].isalpha() or text[at] == "_" or ord(text[at]) > 127:
            while at < len(text) and (text[at].isalnum() or text[at] in "_$" or ord(text[at]) > 127):
                at += 1
            if place < at:
                return False
            continue
        else:
            at += 1
            continue
        if begun <= place < at:
            return True
    return False


def _tag(rest: str) -> str:
    end = rest.find("$", 1)
    inside = rest[1:end]
    good = (
        end >= 0
        and not inside[:1].isdigit()
        and all(each.isalnum() or each == "_" or ord(each) > 127 for each in inside)
    )
    return rest[: end + 1] if good else ""


@pytest.mark.parametrize(
    ("statement", "operation", "collection", "summary"),
    [
        ("select * from orders where id = 5", "select", "orders", "SELECT orders"),
        ('SELECT a FROM x.orders o, "Cust" AS c JOIN y ON (o.id = c.id)', "SELECT", "", 'SELECT x.orders "Cust" y'),
        ("insert into t (a, b) values (1, 'x'), (2, 'y') returning id", "insert", "t", "INSERT t"),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", "INSERT", "t", "INSERT t"),
        ("UPDATE only t SET a = 1 FROM u WHERE c = 2", "UPDATE", "", "UPDATE t u"),
        ("delete from t where a in (select b from u)", "delete", "", "DELETE t SELECT u"),
        ("with a as (select 1 from z) select * from a, t", "select", "", "SELECT z SELECT t"),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "INSERT", "", "SELECT INSERT t SELECT"),
        ("select extract(year from ts), trim(both 'x' from b) from ev", "select", "ev", "SELECT ev"),
        ("select * from t where a is distinct from b", "select", "t", "SELECT t"),
        ("select * from t order by a, b", "select", "t", "SELECT t"),
        ("select * from generate_series(1, 10)", "select", "", "SELECT"),
        ("select 1 from (select 2 from t) q", "select", "", "SELECT SELECT t"),
        ("select 1 union all select 2 from t", "select", "", "SELECT SELECT t"),
        ("begin", "begin", "", "BEGIN"),
        ("select 1; update t set a = 2", "", "", "SELECT UPDATE t"),
        ("create table if not exists foo (id int)", "create", "foo", "CREATE foo"),
        ("create index concurrently i on t (a)", "create", "", "CREATE"),
        ("drop table foo", "drop", "foo", "DROP foo"),
        ("truncate table foo", "truncate", "foo", "TRUNCATE foo"),
        ("copy foo (a, b) from stdin", "copy", "foo", "COPY foo"),
        ("MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE", "MERGE", "", "MERGE t u"),
        ("select * from t for update", "select", "t", "SELECT t"),
        ("nonsense that is none", "", "", ""),
        ("", "", "", ""),
    ],
)
def test_what_it_is_about(statement: str, operation: str, collection: str, summary: str) -> None:
    found = facts_of(statement)
    assert (found.operation, found.collection, found.summary) == (operation, collection, summary)


def test_a_text_is_the_same_for_all_values() -> None:
    """Space, comments, values and how many there are make no difference."""
    shown = {
        facts_of(each).text
        for each in (
            "SELECT a FROM t WHERE b IN (1, 2) AND c='x'", "SELECT  a FROM t -- x\nWHERE b IN (3) AND c = E'y'", "SELECT a /* 1 */ FROM t WHERE b IN(1,2,3) AND c=$$z$$",
        )
    }  # fmt: skip
    assert shown == {"SELECT a FROM t WHERE b IN (?) AND c = ?"}
    assert facts_of("INSERT INTO t VALUES (1, 'a'), (2, 'b')").text == "INSERT INTO t VALUES (?)"


def test_bounds() -> None:
    """Of a long one the beginning, and nothing that is not certain."""
    long = facts_of("SELECT " + ", ".join(f"c{number}" for number in range(2000)) + " FROM t")
    assert len(long.text) < 2 * MAX_STATEMENT
    assert (long.text[-3:], long.summary, long.collection, long.operation) == ("...", "", "", "SELECT")
    many = facts_of("; ".join(f"SELECT * FROM a_table_{number}" for number in range(50)))
    assert len(many.summary) <= MAX_SUMMARY
    assert many.summary.rpartition(" ")[2].startswith(("a_table_", "SELECT"))


@given(st.text(max_size=300))
@settings(max_examples=300)
def test_any_text(statement: str) -> None:
    """No error, whatever it is."""
    facts_of(statement)
