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

from tests.support import databases, runs
from tests.support.otlp_json import ReceivedSpan

REDIS_CLIENT = runs.PROGRAMS / "redis_client.py"
SETTING_UP = {"HELLO", "AUTH", "CLIENT", "SELECT", "SUBSCRIBE"}  # what redis-py does by itself
THREADS, ROUNDS = 4, 12


def redis_profile(folder: Path, role: str, statement: str = "Raw") -> Path:
    """Its requests alone."""
    wanted = {"protocol": "Redis", "roles": [role], "statement": statement}
    return runs.profile(folder, requests=[wanted], code={"functions": True})


def requests_of(ran: runs.Run) -> list[ReceivedSpan]:
    return sorted((span for span in ran.spans if "db.system.name" in span.attributes), key=lambda span: span.start_ns)


def marks(text: str) -> str:
    """Which command it is: its first mark, which says thread and number."""
    return next((word for word in text.split() if word.startswith("mark:")), "")


def check_redis(found: list[ReceivedSpan], asked: list[list[tuple[list[str], str, str]]], port: int) -> None:
    """Of each command one span, none of another; in a thread's order; with its error."""
    said: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for span in found:
        assert "s3cret" not in str(span)
        if (name := str(span.attributes["db.operation.name"])) in SETTING_UP or "mark:" not in str(span):
            continue
        text = str(span.attributes["db.query.text"])
        thread = int(next(word for word in text.split() if word.startswith("mark:")).split(":")[1])
        said[thread].append((name, text, str(span.attributes.get("error.type", ""))))
        assert span.name == f"{name} 127.0.0.1:{port}"
        assert span.attributes["db.namespace"] == str(thread % 3)
        assert (span.status == "ERROR") == ("error.type" in span.attributes)
        assert span.attributes["server.port"] == port
        assert span.start_ns <= span.end_ns
    for thread, commands in enumerate(asked):
        expected = [(command[0], _shown(command), error) for command, error, _ in commands if "mark:" in str(command)]
        assert said[thread] == expected


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
    found = requests_of(ran)
    assert {span.kind for span in found} == {"CLIENT"}
    check_redis(found, asked, port)
    by_id = {span.span_id: span for span in ran.spans}
    functions = {tuple(command): function for each in asked for command, _, function in each}
    wanted, seen = Counter[str](), Counter[str]()
    for span in found:
        for command, function in functions.items():
            if span.attributes["db.query.text"] == _shown(list(command)):
                wanted[function] += 1
                seen[function] += function in names_above(span, by_id)
                break
    assert wanted == seen


def names_above(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> set[str]:
    """Names of the functions that a span is below, of the client's own."""
    names = set()
    above = by_id.get(span.parent_span_id)
    while above is not None:
        assert above.trace_id == span.trace_id
        names.add(above.name.rpartition(".")[2])
        above = by_id.get(above.parent_span_id)
    return names


def test_redis_server(tmp_path: Path) -> None:
    """Redis itself, traced: the same commands from the other end, each a trace of its own."""
    profile = redis_profile(tmp_path, "Server")
    with databases.reserved_port() as port, runs.agent(tmp_path, profile, *databases.redis_command(port)) as started:
        started.wait_until(lambda: databases.is_listening(port), "Redis answers")
        asked = client(port)
        ran = started.stop(15)
    found = requests_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    check_redis(found, asked, port)


def client(port: int) -> Any:
    """What a client that nobody traces asked."""
    command = [databases.python(), REDIS_CLIENT, str(port), "3", str(THREADS), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=runs.TIMEOUT_SECONDS)
    return json.loads(done.stdout)
