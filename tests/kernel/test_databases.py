# SPDX-License-Identifier: Apache-2.0
"""Databases' own servers and clients, unmodified: spans that say what was asked, in what order, and what came of it.

What is right is what the client says it asked: each of its commands bears a mark of its own, which a profile that wants
values shows.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases, mariadbs, mongodbs, runs
from tests.support.otlp_json import ReceivedSpan

REDIS_CLIENT = runs.PROGRAMS / "redis_client.py"
SETTING_UP = {"HELLO", "AUTH", "CLIENT", "SELECT", "SUBSCRIBE"}  # what redis-py does by itself
THREADS, ROUNDS = 4, 12


def redis_profile(folder: Path, role: str, statement: str = "Raw") -> Path:
    """Its requests alone."""
    wanted = {"protocol": "Redis", "roles": [role], "statement": statement}
    return runs.profile(folder, requests=[wanted], code={"functions": True})


Asked = list[list[tuple[list[str], str, str]]]  # of each thread: command, error, and the function that asked


def check_redis(found: list[ReceivedSpan], asked: Asked, where: str, *, joined: bool = False) -> None:
    """Of each command one span, none of another; in a thread's order; with its error.

    `joined`: connections were open already; then some may be missing, and the database is not known.
    """
    said: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for span in found:
        assert "s3cret" not in str(span)
        name, text = str(span.attributes["db.operation.name"]), str(span.attributes.get("db.query.text", ""))
        thread = next((word.split(":")[1] for word in text.split() if word.startswith("mark:")), "")
        if name in SETTING_UP or not thread:
            continue
        said[int(thread)].append((name, text, str(span.attributes.get("error.type", ""))))
        assert span.name == f"{name} {where}"
        assert span.attributes.get("db.namespace") in {str(int(thread) % 3), *([None] if joined else [])}
        assert (span.status == "ERROR") == ("error.type" in span.attributes)
        assert where.startswith(str(span.attributes["server.address"]))
        assert span.start_ns <= span.end_ns
    for thread, commands in enumerate(asked):
        expected = [(command[0], _shown(command), error) for command, error, _ in commands if "mark:" in str(command)]
        if not joined:
            assert said[thread] == expected
            continue
        rest = iter(expected)
        assert all(each in rest for each in said[thread])  # in this order, with others between
        assert len(said[thread]) >= len(expected) - 40


def _shown(command: list[str]) -> str:
    """As a profile that wants values shows them: long ones are cut."""
    return " ".join(each if len(each.encode()) < 128 else each[:128] + "..." for each in command)


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_client(protocol: int, tmp_path: Path) -> None:
    """Threads, pipelines, transactions, large values, errors, connections made anew, pub/sub: each command as it was."""
    with databases.redis() as port:
        command = [databases.python(), REDIS_CLIENT, str(port), str(protocol), str(THREADS), str(ROUNDS)]
        ran = runs.run(tmp_path, redis_profile(tmp_path, "Client"), *command)
    assert ran.status == 0, ran.stderr
    asked = json.loads(ran.stdout)
    found = databases.requests_of(ran)
    assert {span.kind for span in found} == {"CLIENT"}
    check_redis(found, asked, f"127.0.0.1:{port}")
    by_id = {span.span_id: span for span in ran.spans}
    functions = {tuple(command): function for each in asked for command, _, function in each}
    wanted, seen = Counter[str](), Counter[str]()
    for span in found:
        for command, function in functions.items():
            if span.attributes["db.query.text"] == _shown(list(command)):
                wanted[function] += 1
                seen[function] += function in databases.names_above(span, by_id)
                break
    assert wanted == seen


def test_redis_server(tmp_path: Path) -> None:
    """Redis itself, traced: the same commands from the other end, each a trace of its own."""
    profile = redis_profile(tmp_path, "Server")
    with databases.reserved_port() as port, runs.agent(tmp_path, profile, *databases.redis_command(port)) as started:
        started.wait_until(lambda: databases.is_listening(port), "Redis answers")
        asked = client(port)
        ran = started.stop(15)
    found = databases.requests_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    check_redis(found, asked, f"127.0.0.1:{port}")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_redis_client_that_was_there_before(kind: str, tmp_path: Path) -> None:
    """Its connections are joined in their middle: what is told is right, and after some commands all is told."""
    with databases.redis() as port:
        where = str(port) if kind == "tcp" else databases.redis_socket(port)
        command = [databases.python(), REDIS_CLIENT, where, "3", str(THREADS), str(ROUNDS), "wait"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == b"waiting\n"
            with runs.attached(tmp_path, redis_profile(tmp_path, "Client"), "--pid", str(program.pid)) as agent:
                said, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                ran = agent.finish()
        place = f"127.0.0.1:{port}" if kind == "tcp" else databases.redis_socket(port, inside=True)
    assert program.returncode == 0
    check_redis(databases.requests_of(ran), json.loads(said), place, joined=True)


def test_redis_without_values(tmp_path: Path) -> None:
    """As a profile has it that does not ask for them, and none at all: no argument is in any span."""
    script = "import redis, sys; [redis.Redis(port=int(sys.argv[1]), password='s3cret').set(f's3cret{n}', 's3cret') for n in range(3)]"
    with databases.redis() as port:
        for statement, text in (("Sanitized", "SET ? ?"), ("None", None)):
            profile = redis_profile(tmp_path, "Client", statement)
            ran = runs.run(tmp_path, profile, databases.python(), "-c", script, str(port))
            found = [span for span in databases.requests_of(ran) if span.attributes["db.operation.name"] == "SET"]
            assert [span.attributes.get("db.query.text") for span in found] == [text] * 3
            assert "s3cret" not in str([(span.name, span.attributes) for span in ran.spans])


def client(port: int) -> Any:
    """What a client that nobody traces asked."""
    command = [databases.python(), REDIS_CLIENT, str(port), "3", str(THREADS), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=runs.TIMEOUT_SECONDS)
    return json.loads(done.stdout)


def test_the_example(tmp_path: Path) -> None:
    """examples/20-databases.yaml, on a program that asks all of them: a span of each, below the function that asked."""
    script = tmp_path / "asks.py"  # what has no file has no frame of its own
    script.write_text(
        "import psycopg, pymongo, pymysql, redis, sys\n"
        "def ask():\n"
        "    redis.Redis(port=int(sys.argv[1]), password='s3cret').set('s3cret', 's3cret')\n"
        "    client = psycopg.connect(host='127.0.0.1', port=sys.argv[2], user='postgres', password='s3cret', autocommit=True)\n"
        "    client.execute('SELECT %s', ['s3cret'])\n"
        "    client.execute(\"SELECT 's3cret' FROM pg_class\")\n"
        "    client = pymysql.connect(host='127.0.0.1', port=int(sys.argv[3]), user='shop', password='s3cret')\n"
        "    client.cursor().execute('SELECT %s FROM mysql.db', ['s3cret'])\n"
        "    pymongo.MongoClient('127.0.0.1', int(sys.argv[4]))['shop']['orders'].insert_one({'s3cret': 's3cret'})\n"
        "ask()\n"
    )
    example = Path(__file__).resolve().parents[2] / "examples" / "20-databases.yaml"
    with (
        databases.redis() as redis,
        databases.postgres() as postgres,
        mariadbs.mariadb() as (mariadb, _),
        mongodbs.mongodb(tmp_path) as mongodb,
    ):
        ports = map(str, (redis, postgres, mariadb, mongodb))
        ran = runs.run(tmp_path, example, databases.python(), script, *ports)
    assert ran.status == 0, ran.stderr
    by_id = {span.span_id: span for span in ran.spans}
    found = [
        span
        for span in databases.requests_of(ran)
        if span.attributes["db.operation.name"] in {"SET", "SELECT", "insert"}
    ]
    assert [span.name for span in found] == [
        f"SET 127.0.0.1:{redis}",
        "SELECT",
        "SELECT pg_class",
        "SET",
        "SET",
        "SELECT mysql.db",
        "insert orders",
    ]
    assert all("ask" in databases.names_above(span, by_id) for span in found)
    assert "s3cret" not in str([(span.name, span.attributes) for span in ran.spans])
