# SPDX-License-Identifier: Apache-2.0
"""MariaDB's own server and five clients of its protocol, unmodified: spans that say what was asked, in what order, what came of it.

What is right is what the client says it asked: each statement bears a mark of its own in a literal, which a profile that
wants values shows.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import databases, mariadbs, runs
from tests.support.otlp_json import ReceivedSpan

CLIENT = runs.PROGRAMS / "mysql_client.py"
_MARK = re.compile(r"mark:(\d+):\d+")
Asked = list[list[tuple[str, str, str, str]]]  # of each thread: statement, error, the function that asked, database


def profile(folder: Path, role: str, statement: str = "Raw") -> Path:
    """Its requests alone."""
    wanted = {"protocol": "MySQL", "roles": [role], "statement": statement}
    return runs.profile(folder, requests=[wanted], code={"functions": True})


def command(where: str, client: str, threads: int, rounds: int, *more: str) -> list[str | Path]:
    return [databases.python(), CLIENT, where, client, str(threads), str(rounds), *more]


def check(found: list[ReceivedSpan], asked: Asked, *, joined: bool = False) -> dict[int, list[ReceivedSpan]]:
    """Of each statement one span, none of another; in a thread's order; with its error and database. Gives them by thread.

    `joined`: connections were open already; then some may be missing, or their text, and the database may not be known.
    """
    of_thread: dict[int, list[ReceivedSpan]] = defaultdict(list)
    for span in found:
        assert "s3cret" not in str(span)
        assert span.attributes["db.system.name"] in {"mariadb", *(["mysql"] if joined else [])}
        assert (span.status == "ERROR") == ("error.type" in span.attributes)
        assert span.start_ns <= span.end_ns
        if marked := _MARK.search(str(span.attributes.get("db.query.text", ""))):
            of_thread[int(marked[1])].append(span)
    for thread, statements in enumerate(asked):
        said = [
            (
                _shown(str(span.attributes["db.query.text"])),
                span.attributes.get("db.response.status_code", ""),
                span.attributes.get("db.namespace", ""),
            )
            for span in of_thread[thread]
        ]
        expected = [(_shown(text), error, database) for text, error, _, database in statements if "mark:" in text]
        if not joined:
            assert said == expected
            continue
        rest = iter(expected)
        for text, error, database in said:  # in this order, with others between
            assert any((text, error, database or each[2]) == each for each in rest), (text, error, database)
        assert len(said) > len(expected) / 2
    return of_thread


def _shown(text: str) -> str:
    """As a profile that wants values shows them: of a long one, as much as is copied at a call's beginning."""
    return text if len(text) < 1900 else text[:1900] + "..."


@pytest.mark.parametrize("client", ["pymysql,connector,mariadb", "connector-c,mariadb-c"])
def test_client(client: str, tmp_path: Path) -> None:
    """Text and binary, several results, files, long values and such as look like packets, errors: each statement as it was."""
    with mariadbs.mariadb() as (port, _):
        ran = runs.run(tmp_path, profile(tmp_path, "Client"), *command(str(port), client, 2, 3))
    assert ran.status == 0, ran.stderr
    asked = json.loads(ran.stdout)
    found = databases.requests_of(ran)
    assert {span.kind for span in found} == {"CLIENT"}
    assert {span.attributes["server.port"] for span in found} == {port}
    of_thread = check(found, asked)
    by_id = {span.span_id: span for span in ran.spans}
    for thread, statements in enumerate(asked):
        marked = [function for text, _, function, _ in statements if "mark:" in text]
        for span, function in zip(of_thread[thread], marked, strict=True):
            names = databases.names_above(span, by_id)
            assert function in names, (span.name, names)


@pytest.mark.parametrize("client", ["pymysql", "mariadb-c"])
def test_server(client: str, tmp_path: Path) -> None:
    """MariaDB itself, traced: the same statements from the other end, each a trace of its own."""
    with mariadbs.data() as data, databases.reserved_port() as port:
        server = mariadbs.command(port, data)
        with runs.agent(tmp_path, profile(tmp_path, "Server"), *server) as started:
            started.wait_until(lambda: databases.is_listening(port), "MariaDB answers")
            done = subprocess.run(command(str(port), client, 3, 3), capture_output=True, check=True)
            ran = started.stop(signal.SIGTERM)
    found = databases.requests_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    check(found, json.loads(done.stdout))


@pytest.mark.parametrize(("client", "kind"), [("pymysql,connector", "tcp"), ("connector-c,mariadb-c", "unix")])
def test_client_that_was_there_before(client: str, kind: str, tmp_path: Path) -> None:
    """Its connections are joined in their middle: what is told is right, and after some statements all is told."""
    with mariadbs.mariadb() as (port, socket):
        where = str(port) if kind == "tcp" else socket
        with subprocess.Popen(
            command(where, client, 2, 3, "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == b"waiting\n"
            with runs.attached(tmp_path, profile(tmp_path, "Client"), "--pid", str(program.pid)) as agent:
                said, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                ran = agent.finish()
    assert program.returncode == 0
    check(databases.requests_of(ran), json.loads(said), joined=True)


def test_server_that_was_there_before(tmp_path: Path) -> None:
    """Its connections are joined in their middle, where headers and what they tell of are read by calls of their own."""
    with mariadbs.data() as data, databases.reserved_port() as port:
        server = mariadbs.command(port, data)
        with databases.running(server, signal.SIGTERM) as pid:
            databases.until(lambda: databases.is_listening(port), "MariaDB answers")
            with subprocess.Popen(
                command(str(port), "connector,mariadb-c", 2, 3, "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as program:
                assert program.stdout is not None
                assert program.stdout.readline() == b"waiting\n"
                with runs.attached(tmp_path, profile(tmp_path, "Server"), "--pid", str(pid)) as agent:
                    said, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                    ran = agent.stop()
    assert program.returncode == 0
    check(databases.requests_of(ran), json.loads(said), joined=True)


def test_what_a_statement_is(tmp_path: Path) -> None:
    """As a profile has it that does not ask for values: name, kind, table; no literal in any span."""
    script = (
        "import pymysql, sys\n"
        "client = pymysql.connect(port=int(sys.argv[1]), host='127.0.0.1', user='shop', password='s3cret', database='first')\n"
        "cursor = client.cursor()\n"
        "cursor.execute('CREATE TABLE orders (id int, note text)')\n"
        "cursor.execute('INSERT INTO orders VALUES (1, %s), (2, \"s3cret\"), (3, %s)', ('s3cret', 'it\\'s3cret'))\n"
        "cursor.execute('SELECT * FROM `first`.orders WHERE note = %s OR id IN (47110815, 2) # s3cret', ['s3cret'])\n"
        "cursor.execute(\"ALTER USER shop@localhost IDENTIFIED BY 's3cret'\")\n"
    )
    with mariadbs.mariadb() as (port, _):
        ran = runs.run(tmp_path, profile(tmp_path, "Client", "Sanitized"), databases.python(), "-c", script, str(port))
    assert ran.status == 0, ran.stderr
    assert not re.search("s3cret|47110815", str([(span.name, span.attributes) for span in ran.spans]))
    said = [(span.name, span.attributes["db.query.text"]) for span in databases.requests_of(ran)]
    assert said == [
        ("SET", "SET NAMES utf8mb4"),
        ("SET", "SET AUTOCOMMIT = ?"),
        ("CREATE orders", "CREATE TABLE orders(id int, note text)"),
        ("INSERT orders", "INSERT INTO orders VALUES (?)"),
        ("SELECT `first`.orders", "SELECT * FROM `first`.orders WHERE note = ? OR id IN (?)"),
        ("ALTER", "ALTER USER shop @localhost IDENTIFIED BY ?"),
    ]


@pytest.mark.parametrize("role", ["Client", "Server"])
def test_what_is_encrypted_or_compressed_says_nothing(role: str, tmp_path: Path) -> None:
    """A connection that goes on so carries nothing that is claimed; another of the same program does."""
    script = (
        "import mysql.connector, sys\n"
        "for way in ({}, {'ssl_disabled': True, 'compress': True}, {'ssl_disabled': True}):\n"
        "    client = mysql.connector.connect(host='127.0.0.1', port=sys.argv[1], user='shop', password='s3cret', **way)\n"
        "    cursor = client.cursor()\n"
        "    cursor.execute(\"SHOW STATUS WHERE Variable_name IN ('Ssl_cipher', 'Compression')\")\n"
        "    print(*[value or '-' for _, value in cursor.fetchall()])\n"
        "    cursor.execute(f\"SELECT '{len(way)}', repeat('x', 100000)\")\n"
        "    cursor.fetchall()\n"
    )
    with mariadbs.data(tls=True) as data, databases.reserved_port() as port:
        server, asking = mariadbs.command(port, data), [databases.python(), "-c", script, str(port)]
        if role == "Client":
            with databases.running(server, signal.SIGTERM):
                databases.until(lambda: databases.is_listening(port), "MariaDB answers")
                ran = runs.run(tmp_path, profile(tmp_path, role), *asking)
                said = ran.stdout
        else:
            with runs.agent(tmp_path, profile(tmp_path, role), *server) as started:
                started.wait_until(lambda: databases.is_listening(port), "MariaDB answers")
                said = subprocess.run(asking, capture_output=True, check=True).stdout
                ran = started.stop(signal.SIGTERM)
    assert re.fullmatch(r"OFF \S{5,}\nON -\nOFF -\n", said.decode()), said
    texts = [str(span.attributes["db.query.text"]) for span in databases.requests_of(ran)]
    assert [text[:10] for text in texts if "repeat" in text] == ["SELECT '1'"]
    assert sum("SHOW STATUS" in text for text in texts) == 1
