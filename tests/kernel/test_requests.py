# SPDX-License-Identifier: Apache-2.0
"""Requests of unmodified servers: spans that say what their bytes said, and which operations belong to which.

Each request has a number of its own in its path and in the names of the files that its handler touches, so an operation
below a request that bears another number is wrong. Clients ask side by side and one after another, on connections that
they keep and on new ones.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import runs, venvs, web_servers
from tests.support.generators import compiled_go
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation

SPEC = {
    "requests": [{"protocol": "HTTP", "roles": ["Server"]}],
    "files": {"operations": ["Stat"]},
    "code": {"functions": True},
}
TOUCHES = 6
FAILS = 7  # numbers that end so
APP = "requests_app:wsgi"
_NUMBER = re.compile(r"/kernelspan-request/(\d+)/\d+")
_PATH = re.compile(r"/job/(\d+)/\d+")
SERVERS = {
    "sync": ["gunicorn", "-w", "2", "-k", "sync"],
    "threads": ["gunicorn", "-w", "1", "-k", "gthread", "--threads", "8", "--keep-alive", "5"],
    "gevent": ["gunicorn", "-w", "1", "-k", "gevent", "--keep-alive", "5"],
}


@dataclass
class Asked:
    """What the clients asked and were answered: status by number."""

    answers: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, int] = field(default_factory=dict)


def ask(port: int, numbers: list[int], asked: Asked, *, keep: bool, bodies: bool = True) -> None:
    """One client after another request; most with a body if there are to be `bodies`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in numbers:
        body = b"x" * (number % 5 * 700 if bodies else 0)
        headers = {} if keep else {"Connection": "close"}
        connection.request("POST" if body else "GET", f"/job/{number}/{TOUCHES}?token=s3cret", body or None, headers)
        response = connection.getresponse()
        said = response.read().decode()
        assert said.split()[0] == str(number)
        asked.answers[number], asked.bodies[number] = response.status, len(body)
        if not keep:
            connection.close()
    connection.close()


def ask_all(port: int, *, clients: int, each: int, first: int = 1, bodies: bool = True) -> Asked:
    """Many side by side, half of them on connections they keep; then as many one after another."""
    asked = Asked()
    numbers = iter(range(first, 10**6))
    threads = [
        threading.Thread(
            target=ask,
            args=(port, [next(numbers) for _ in range(each)], asked),
            kwargs={"keep": client % 2 == 0, "bodies": bodies},
        )
        for client in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for keep in (True, False):
        ask(port, [next(numbers) for _ in range(each)], asked, keep=keep, bodies=bodies)
    return asked


def serve(
    folder: Path,
    command: list[str | Path],
    numbers: dict[str, int],
    correlation: str = "None",
    *,
    first: int = 0,
    **spec: object,
) -> tuple[Asked, runs.Run]:
    """A server, from its start under `kernelspan run`, asked by all clients: what was answered, and what was seen.

    They begin when a request (number `first`) is seen to belong to its context by `correlation`: that a process has greenlets
    is found out a second after it has begun to. `spec`: more of the profile, or None for a part of SPEC that is not wanted.
    """
    profile = runs.profile(folder, **{name: part for name, part in {**SPEC, **spec}.items() if part is not None})
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
        program = [str(each).replace("BIND", f"127.0.0.1:{port}").replace("PORT", str(port)) for each in command]
        with runs.agent(folder, profile, *program, cwd=runs.PROGRAMS) as started:
            started.wait_until(
                lambda: (
                    answers(port, first) and any(_is_by(span, correlation) for span in runs.read_spans(started.output))
                ),
                f"answering, correlation {correlation}",
            )
            asked = ask_all(port, **numbers)
            ran = started.stop(signal.SIGTERM)
    return asked, ran


def _is_by(span: ReceivedSpan, correlation: str) -> bool:
    return span.kind == "SERVER" and span.attributes["kernelspan.correlation"] == correlation


def answers(port: int, number: int = 0) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", f"/job/{number}/0")
        return connection.getresponse().status == (500 if number else 200)
    return False


@dataclass
class Found:
    """What spans say. `requests`: by their number. `owners`: of each operation's number, the numbers of its requests."""

    requests: dict[int, list[ReceivedSpan]] = field(default_factory=dict)
    owners: dict[int, Counter[int | None]] = field(default_factory=dict)


def read(ran: runs.Run) -> Found:
    """Which request each operation is below, through all spans between."""
    found = Found()
    by_id = {span.span_id: span for span in ran.spans}
    for span in ran.spans:
        if span.kind == "SERVER":
            matched = _PATH.fullmatch(str(span.attributes["url.path"]))
            assert matched is not None, span
            found.requests.setdefault(int(matched[1]), []).append(span)
        elif (touched := _NUMBER.fullmatch(str(span.attributes.get("file.path", "")))) is not None:
            above: ReceivedSpan | None = span
            while above is not None and above.kind != "SERVER":
                assert above.trace_id == span.trace_id
                above = by_id.get(above.parent_span_id)
            owner = _PATH.fullmatch(str(above.attributes["url.path"])) if above is not None else None
            owners = found.owners.setdefault(int(touched[1]), Counter())
            owners[int(owner[1]) if owner is not None else None] += 1
    return found


def check_facts(found: Found, asked: Asked) -> None:
    """Of every request one span, and it says what its client knows."""
    assert found.requests.keys() - {0} == asked.answers.keys()
    for number, status in asked.answers.items():
        (span,) = found.requests[number]
        said = span.attributes
        method = "POST" if asked.bodies[number] else "GET"
        assert (span.name, said["http.request.method"]) == (f"{method} /job/{{id}}/{{id}}", method)
        assert said["http.response.status_code"] == status
        assert (span.status == "ERROR") == (status >= 500) == ("error.type" in said)
        assert "s3cret" not in str(span)
        assert said["server.address"] == said["client.address"] == "127.0.0.1"
        assert span.start_ns < span.end_ns


def wrong(found: Found) -> dict[int, Counter[int | None]]:
    """Operations below a request that is not theirs."""
    return {number: owners for number, owners in found.owners.items() if owners.keys() - {number, None}}


@pytest.mark.parametrize("kind", SERVERS)
def test_operations_belong_to_their_requests(kind: str, tmp_path: Path) -> None:
    """A thread, or a greenlet, that works on one request at a time: all that it does is below that one's span."""
    correlation = "Fiber" if kind == "gevent" else "Thread"
    command = [venvs.library_venv() / "bin" / "python", "-m", *SERVERS[kind], "-b", "BIND", APP]
    check_owned(tmp_path, command, correlation)


def test_a_server_in_c(tmp_path: Path) -> None:
    """uwsgi's workers read a request and answer it in C, and call Python in between."""
    check_owned(tmp_path, web_servers.uwsgi("--module", APP), "Thread")


def test_a_goroutine_works_on_its_connection(tmp_path: Path) -> None:
    """net/http has one for each; another reads a byte ahead meanwhile, and threads take them in turn."""
    check_owned(tmp_path, [compiled_go("requests_go"), "BIND"], "Goroutine")


def check_owned(folder: Path, command: list[str | Path], correlation: str, **spec: object) -> None:
    """All operations are below their own request."""
    asked, ran = serve(folder, command, {"clients": 8, "each": 40}, correlation, **spec)
    found = read(ran)
    check_facts(found, asked)
    assert not wrong(found)
    said = Counter(spans[0].attributes["kernelspan.correlation"] for number, spans in found.requests.items() if number)
    assert said == {correlation: len(asked.answers)}
    assert found.owners.keys() - {0} == asked.answers.keys()
    attached = sum(owners[number] for number, owners in found.owners.items())
    assert 0.99 * TOUCHES * len(asked.answers) <= attached <= TOUCHES * len(asked.answers)  # or of none: not walked


def test_only_what_failed_is_kept(tmp_path: Path) -> None:
    """Of traces that are all left out: the requests that failed, each with all that was done for it, and nothing else."""
    first = FAILS + 10**6
    command = [venvs.library_venv() / "bin" / "python", "-m", *SERVERS["threads"], "-b", "BIND", APP]
    sampling = {"percent": 0, "keepErrors": True}
    asked, ran = serve(tmp_path, command, {"clients": 8, "each": 40}, "Thread", first=first, sampling=sampling)
    found = read(ran)
    failed = {number for number, status in asked.answers.items() if status >= 500}
    assert len(failed) == len(asked.answers) / 10
    assert found.requests.keys() - {first} == failed
    for number in failed:
        (span,) = found.requests[number]
        assert span.attributes["kernelspan.sampling"] == "Local"
    assert found.owners == {number: Counter({number: TOUCHES}) for number in failed}
    assert len(ran.operations) == ran.balance["exported"] == TOUCHES * len(failed)
    assert ran.balance["sampledOut"] >= TOUCHES * (len(asked.answers) - len(failed))
    assert ran.report["requests"]["kept"] >= len(failed)  # and the first ones


@pytest.mark.parametrize("application", ["requests_app:asgi", "requests_fastapi:app"])
def test_a_task_that_answers(application: str, tmp_path: Path) -> None:
    """uvicorn's loop receives, and begins a task for each request: what that did, up to its answer, was for it."""
    python = venvs.library_venv() / "bin" / "python"
    command = [python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "PORT", application]
    check_owned(tmp_path, command, "Connection")


def test_an_event_loop_claims_nothing(tmp_path: Path) -> None:
    """Tasks that work for whoever comes: whose, is not known. Requests are told, and nothing is below them."""
    command = [runs.SYSTEM_PYTHON, "-S", runs.PROGRAMS / "requests_app.py", "PORT"]
    asked, ran = serve(tmp_path, command, {"clients": 8, "each": 40})
    found = read(ran)
    check_facts(found, asked)
    assert not wrong(found)
    said = {spans[0].attributes["kernelspan.correlation"] for number, spans in found.requests.items() if number}
    assert said == {"None"}
    assert sum(owners[None] for owners in found.owners.values()) == TOUCHES * len(asked.answers)
