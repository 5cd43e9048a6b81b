# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's own server and two of its clients, unmodified: spans that say what was asked, in what order, what came of it.

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

from tests.support import databases, runs
from tests.support.otlp_json import ReceivedSpan
from tools import postgresql

CLIENT = runs.PROGRAMS / "postgres_client.py"
DATABASES = ["postgres", "template1"]  # of the client's threads in turn
_MARK = re.compile(r"mark:(\d+):\d+")
Asked = list[list[tuple[str, str, str]]]  # of each thread: statement, SQLSTATE, and the function that asked


def profile(folder: Path, role: str, statement: str = "Raw") -> Path:
    """Its requests alone."""
    wanted = {"protocol": "PostgreSQL", "roles": [role], "statement": statement}
    return runs.profile(folder, requests=[wanted], code={"functions": True})


def command(where: str, client: str, threads: int, rounds: int, *more: str) -> list[str | Path]:
    return [databases.python(), CLIENT, where, client, str(threads), str(rounds), *more]


def check(found: list[ReceivedSpan], asked: Asked, *, joined: bool = False) -> dict[int, list[ReceivedSpan]]:
    """Of each statement one span, none of another; in a thread's order; with its error. Gives them by thread.

    `joined`: connections were open already; then some may be missing, or their text, and the database is not known.
    """
    of_thread: dict[int, list[ReceivedSpan]] = defaultdict(list)
    for span in found:
        assert "s3cret" not in str(span)
        assert span.attributes["db.system.name"] == "postgresql"
        assert (span.status == "ERROR") == ("error.type" in span.attributes)
        assert span.start_ns <= span.end_ns
        if marked := _MARK.search(str(span.attributes.get("db.query.text", ""))):
            of_thread[int(marked[1])].append(span)
    for thread, statements in enumerate(asked):
        said = [
            (_shown(str(span.attributes["db.query.text"])), span.attributes.get("db.response.status_code", ""))
            for span in of_thread[thread]
        ]
        expected = [(_shown(text), error) for text, error, _ in statements if "mark:" in text]
        namespaces = {span.attributes.get("db.namespace") for span in of_thread[thread]}
        if not joined:
            assert said == expected
            assert namespaces == {DATABASES[thread % 2]}
            continue
        rest = iter(expected)
        assert all(each in rest for each in said)  # in this order, with others between
        assert len(said) > len(expected) / 2
        assert namespaces <= {DATABASES[thread % 2], None}
    return of_thread


def _shown(text: str) -> str:
    """As a profile that wants values shows them: of a long one, as much as is copied at a call's beginning."""
    return text if len(text) < 1900 else text[:1900] + "..."


@pytest.mark.parametrize(("client", "threads", "rounds"), [("psycopg", 4, 6), ("pg8000", 3, 6)])
def test_client(client: str, threads: int, rounds: int, tmp_path: Path) -> None:
    """Simple and prepared, pipelines, COPY, transactions, long answers, errors of every kind: each statement as it was."""
    with databases.postgres() as port:
        ran = runs.run(tmp_path, profile(tmp_path, "Client"), *command(str(port), client, threads, rounds))
    assert ran.status == 0, ran.stderr
    asked = json.loads(ran.stdout)
    found = databases.requests_of(ran)
    assert {span.kind for span in found} == {"CLIENT"}
    assert {span.attributes["server.port"] for span in found} == {port}
    of_thread = check(found, asked)
    by_id = {span.span_id: span for span in ran.spans}
    for thread, statements in enumerate(asked):
        marked = [function for text, _, function in statements if "mark:" in text]
        for span, function in zip(of_thread[thread], marked, strict=True):
            names = databases.names_above(span, by_id)
            assert function in names, (span.name, names)


def test_what_a_statement_is(tmp_path: Path) -> None:
    """As a profile has it that does not ask for values: name, kind, table; no literal in any span."""
    script = (
        "import psycopg, sys\n"
        "client = psycopg.connect(host='127.0.0.1', port=sys.argv[1], user='postgres', password='s3cret', autocommit=True)\n"
        "client.execute('CREATE TABLE orders (id int, note text)')\n"
        "client.execute(\"INSERT INTO orders VALUES (1, 's3cret'), (2, $$s3cret$$), (3, E'\\\\'s3cret')\")\n"
        "client.execute('SELECT * FROM public.orders WHERE note = %s OR id IN (47110815, 2)', ['s3cret'])\n"
        "client.execute(\"ALTER ROLE postgres PASSWORD 's3cret'\")\n"
    )
    with databases.postgres() as port:
        for statement in ("Sanitized", "None"):
            profile_path = profile(tmp_path, "Client", statement)
            ran = runs.run(
                tmp_path, profile_path, databases.python(), "-c", script.replace("orders", statement), str(port)
            )
            assert ran.status == 0, ran.stderr
            assert not re.search("s3cret|47110815", str([(span.name, span.attributes) for span in ran.spans]))
            said = [(span.name, span.attributes.get("db.query.text", "")) for span in databases.requests_of(ran)]
            table = statement
            expected = [
                (f"CREATE {table}", f"CREATE TABLE {table}(id int, note text)"),
                (f"INSERT {table}", f"INSERT INTO {table} VALUES (?)"),
                (f"SELECT public.{table}", f"SELECT * FROM public.{table} WHERE note = $1 OR id IN (?)"),
                ("ALTER", "ALTER ROLE postgres PASSWORD ?"),
            ]
            assert said == [(name, text if statement == "Sanitized" else "") for name, text in expected]


def test_server(tmp_path: Path) -> None:
    """PostgreSQL itself, traced: the same statements from the other end, each a trace of its own."""
    with databases.postgres_data() as data, databases.reserved_port() as port:
        server = postgresql.command(port, data)
        with runs.agent(tmp_path, profile(tmp_path, "Server"), *server) as started:
            started.wait_until(lambda: databases.is_listening(port), "PostgreSQL answers")
            done = subprocess.run(command(str(port), "psycopg", 4, 6), capture_output=True, check=True)
            ran = started.stop(signal.SIGINT)
    assert ran.balance["dropped"] == {}
    found = databases.requests_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    check(found, json.loads(done.stdout))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_client_that_was_there_before(kind: str, tmp_path: Path) -> None:
    """Its connections are joined in their middle: what is told is right, and after some statements all is told."""
    with databases.postgres() as port:
        where = str(port) if kind == "tcp" else f"{postgresql.root()}/tmp:{port}"
        with subprocess.Popen(
            command(where, "psycopg", 4, 6, "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == b"waiting\n"
            with runs.attached(tmp_path, profile(tmp_path, "Client"), "--pid", str(program.pid)) as agent:
                said, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                ran = agent.finish()
    assert program.returncode == 0
    check(databases.requests_of(ran), json.loads(said), joined=True)


def test_tls_says_nothing(tmp_path: Path) -> None:
    """A connection that goes on encrypted carries nothing that is claimed; another of the same program does."""
    script = (
        "import psycopg, sys\n"
        "for mode in ('require', 'disable'):\n"
        "    client = psycopg.connect(host='127.0.0.1', port=sys.argv[1], user='postgres', password='s3cret', sslmode=mode)\n"
        "    client.execute(f\"SELECT '{mode}', repeat('x', 100000)\")\n"
        "    print(client.pgconn.ssl_in_use)\n"
    )
    with databases.postgres(tls=True) as port:
        ran = runs.run(tmp_path, profile(tmp_path, "Client"), databases.python(), "-c", script, str(port))
    assert ran.stdout.decode().split() == ["True", "False"], ran.stderr
    said = [str(span.attributes["db.query.text"])[:16] for span in databases.requests_of(ran)]
    assert said == ["BEGIN", "SELECT 'disable'"]
