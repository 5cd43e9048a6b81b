# SPDX-License-Identifier: Apache-2.0
"""MongoDB's protocol between its own client and a server, unmodified: spans that say what was asked of what, and what came of it.

What is right is what the driver says of each of its commands. Every round of every thread has a collection of its own, and
documents whose fields are called as commands' are.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support import databases, mongodbs, runs
from tests.support.otlp_json import ReceivedSpan

pytestmark = pytest.mark.root
CLIENT = runs.PROGRAMS / "mongo_client.py"
THREADS, ROUNDS = 4, 8
OF_THE_DRIVER = {"endSessions", "ping"}  # that it does not tell of, or a test does not count

Asked = list[tuple[str, str, str, str]]  # command, collection, database, code


def profile(folder: Path, role: str) -> Path:
    """Its requests alone."""
    requests = [{"protocol": "MongoDB", "roles": [role]}]
    return runs.profile(folder, requests=requests, code={"functions": True})


def client(port: int) -> Asked:
    """What a client that nobody traces has asked."""
    command: list[str | Path] = [databases.python(), CLIENT, str(port), str(THREADS), str(ROUNDS)]
    ran = subprocess.run(command, check=True, capture_output=True, timeout=runs.TIMEOUT_SECONDS)
    found: Asked = [(name, table, database, code) for name, table, database, code in json.loads(ran.stdout)]
    return found


def said(found: list[ReceivedSpan], port: int) -> Counter[tuple[str, str, str, str]]:
    """What the spans say."""
    counted = Counter[tuple[str, str, str, str]]()
    for span in found:
        attributes = span.attributes
        assert "s3cret" not in str(span)
        assert (attributes["db.system.name"], attributes["server.port"]) == ("mongodb", port)
        assert not {"db.query.text", "db.query.summary"} & attributes.keys()
        assert (span.status == "ERROR") == ("error.type" in attributes)
        assert attributes.get("error.type") == attributes.get("db.response.status_code")
        assert 0 < span.start_ns <= span.end_ns
        name, table = str(attributes["db.operation.name"]), str(attributes.get("db.collection.name", ""))
        database = str(attributes.get("db.namespace", ""))
        assert span.name == f"{name} {table or database}"
        if name not in OF_THE_DRIVER:
            counted[name, table, database, str(attributes.get("error.type", ""))] += 1
    return counted


def test_client(tmp_path: Path) -> None:
    """pymongo from threads: cursors, errors of commands and of writes, long documents: each command, below who asked."""
    with mongodbs.mongodb(tmp_path) as port:
        command: list[str | Path] = [databases.python(), CLIENT, str(port), str(THREADS), str(ROUNDS)]
        ran = runs.run(tmp_path, profile(tmp_path, "Client"), *command)
    assert ran.status == 0, ran.stderr
    asked = Counter(map(tuple, json.loads(ran.stdout)))
    found = databases.requests_of(ran)
    assert sum(asked.values()) > 400
    assert {code for *_, code in asked} == {"", "11000", "59"}
    assert said(found, port) == asked
    by_id = {span.span_id: span for span in ran.spans}
    mine = [span for span in found if str(span.attributes.get("db.collection.name", "")).startswith("c")]
    assert mine
    assert all("ask" in databases.names_above(span, by_id) for span in mine)


def test_server(tmp_path: Path) -> None:
    """The server itself, traced: the same from the other end, each a trace of its own."""
    with (
        databases.reserved_port() as port,
        runs.agent(tmp_path, profile(tmp_path, "Server"), *mongodbs.command(port, tmp_path), cwd=tmp_path) as started,
    ):
        started.wait_until(lambda: databases.is_listening(port), "FerretDB answers")
        asked = Counter(client(port))
        ran = started.stop(15)
    found = databases.requests_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    assert said(found, port) == asked


def test_client_that_was_there_before(tmp_path: Path) -> None:
    """Its connections are joined in their middle: an answer names what it answers, so all is told."""
    with mongodbs.mongodb(tmp_path) as port:
        command: list[str | Path] = [databases.python(), CLIENT, str(port), str(THREADS), str(ROUNDS), "wait"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == b"waiting\n"
            with runs.attached(tmp_path, profile(tmp_path, "Client"), "--pid", str(program.pid)) as agent:
                printed, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                ran = agent.finish()
    assert program.returncode == 0
    assert said(databases.requests_of(ran), port) == Counter(map(tuple, json.loads(printed)))
