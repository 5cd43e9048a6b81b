# SPDX-License-Identifier: Apache-2.0
"""Tasks of servers on event loops, in the ways that they are used: whose each operation is, as test_requests has it.

All servers run under one agent. Besides plain handlers there are some that do what may be taken for another request's: tasks
that they begin and gather, that outlive the request, threads, answers in parts, failures, clients that leave.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.kernel import test_requests
from tests.support import pythons, runs, venvs, whose
from tests.support.ports import PortReservation
from tests.support.require import require

pytestmark = pytest.mark.root
VENV = venvs.library_venv(venvs.REQUIREMENTS.with_name("servers_venv.txt"))
PYTHON = VENV / "bin" / "python"
UVICORN = (PYTHON, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--no-access-log")
SERVERS = {
    "aiohttp": (PYTHON, "requests_loops.py", "PORT"),
    # Since 3.12 the task of a request begins in the midst of its connection's.
    **{f"aiohttp {label}": (label, "PORT") for label in ("trixie-3.13", "sid-3.14")},
    "uvicorn": (*UVICORN, "--loop", "asyncio", "--http", "httptools", "requests_greenlets:app"),
    "uvloop": (*UVICORN, "--loop", "uvloop", "--http", "httptools", "requests_fast:app"),
    "uvloop h11": (*UVICORN, "--loop", "uvloop", "--http", "h11", "requests_fast:app"),
}
PLAIN, ADVERSE, THREADS, AT_ONCE = range(4)  # thousands of a number: how it is answered
WAYS = [
    (kind, way) for kind in SERVERS for way in ((PLAIN, AT_ONCE) if kind.startswith("aiohttp") else (PLAIN, THREADS))
]
_AIOHTTP = ("aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "frozenlist", "idna", "multidict", "propcache", "yarl")
PER_SERVER = 10_000  # numbers
NUMBERS = {"clients": 8, "each": 10}
WARM = 900_000


@dataclass
class Outcome:
    """What clients were answered by each server in each way, and what the spans say."""

    asked: dict[tuple[str, int], test_requests.Asked]
    found: whose.Found


def ask_adverse(port: int, numbers: Iterable[int], asked: test_requests.Asked, *, leaves: bool) -> None:
    """A client of handlers that may fail. `leaves`: it does not wait for every third answer."""
    for number in numbers:
        if leaves and number % 3 == 0:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                head = f"GET /job/{number}/{test_requests.TOUCHES} HTTP/1.1\r\nHost: here\r\n\r\n"
                connection.sendall(head.encode() * (1 + number % 2))  # some ask twice at once
                time.sleep(0.001 * (number % 4))
            continue
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/job/{number}/{test_requests.TOUCHES}")
        response = connection.getresponse()
        said = response.read().decode()
        assert response.status == 500 or said.split()[0] == str(number)
        asked.answers[number] = response.status
        connection.close()


def ask_side_by_side(port: int, first: int) -> test_requests.Asked:
    """Clients that keep their connections, and such that make new ones and leave."""
    asked = test_requests.Asked()
    each = [range(first + 20 * client, first + 20 * client + 20) for client in range(8)]
    threads = [
        threading.Thread(target=ask_adverse, args=(port, numbers, asked), kwargs={"leaves": client % 2 == 0})
        for client, numbers in enumerate(each)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked


def ask_server(port: int, at: int, asked: dict[tuple[str, int], test_requests.Asked]) -> None:
    """All that one server is asked."""
    kind, first = list(SERVERS)[at], _first(at)
    for way in (AT_ONCE, PLAIN) if kind.startswith("aiohttp") else (THREADS, PLAIN):
        asked[kind, way] = test_requests.ask_all(port, **NUMBERS, first=first + way * 1000)
    asked[kind, ADVERSE] = ask_side_by_side(port, first + ADVERSE * 1000)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of all servers, asked together as soon as whose their tasks are is known."""
    folder = tmp_path_factory.mktemp("loops")
    asked: dict[tuple[str, int], test_requests.Asked] = {}
    with PortReservation(len(SERVERS)) as reserved:
        commands = [
            json.dumps([each.replace("PORT", str(port)) for each in command_of(kind)])
            for kind, port in zip(SERVERS, reserved.ports, strict=True)
        ]
        profile = runs.profile(folder, **test_requests.SPEC)
        launcher = (sys.executable, runs.PROGRAMS / "joins_app.py", "all", *commands)
        with runs.agent(folder, profile, *launcher, cwd=runs.PROGRAMS) as started:
            started.wait_until(started.output.exists, "there")
            told = whose.Told(started.output)
            for kind, port in zip(SERVERS, reserved.ports, strict=True):
                way = PLAIN if kind.startswith("aiohttp") else THREADS
                started.wait_until(partial(_is_warm, told, port, way), f"{kind} answers, and it is known for whom")
            threads = [
                threading.Thread(target=ask_server, args=(port, at, asked)) for at, port in enumerate(reserved.ports)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ran = started.stop(signal.SIGTERM)
    return Outcome(asked, whose.read(ran.spans))


def aiohttp_in(python: pythons.Interpreter) -> list[str]:
    """How to run aiohttp's server by an interpreter in a root of its own, without extensions: they are another Python's.

    What it needs is copied there once, and compiled by whoever comes first.
    """
    assert python.root is not None
    kept = python.root / "tmp" / f"aiohttp-{VENV.name}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=python.root / "tmp") as made:
            for name in _AIOHTTP:
                shutil.copytree(venvs.site_packages(VENV) / name, Path(made, "all", name))
            shutil.copy(venvs.site_packages(VENV) / "typing_extensions.py", Path(made, "all"))
            with contextlib.suppress(FileExistsError):
                Path(made, "all").rename(kept)
    for name in ("requests_loops.py", "requests_app.py"):
        shutil.copy(runs.PROGRAMS / name, kept)
    bare = [f"{name}_NO_EXTENSIONS=1" for name in ("AIOHTTP", "FROZENLIST", "MULTIDICT", "PROPCACHE", "YARL")]
    return ["env", *bare, "chroot", str(python.root), python.program, f"/tmp/{kept.name}/requests_loops.py", "PORT"]


def command_of(kind: str) -> list[str]:
    """How to run one of SERVERS."""
    first, *rest = SERVERS[kind]
    if isinstance(first, Path):
        return [str(first), *map(str, rest)]
    try:
        return aiohttp_in(pythons.interpreter(first))
    except pythons.PythonsError as error:
        require("kernel", False, f"{first}: {error}")
        raise


def _is_warm(told: whose.Told, port: int, way: int) -> bool:
    """Asks some: how many tasks there were is found when they were many."""
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(60):
            connection.request("GET", f"/job/{WARM + way * 1000}/1")
            connection.getresponse().read()
        connection.close()
    return told.has(port)


def _first(at: int) -> int:
    return (at + 1) * PER_SERVER


def _of(outcome: Outcome, kind: str, way: int) -> whose.Owners:
    """What was done for a server's requests of one way; nothing of it is below another request."""
    first = _first(list(SERVERS).index(kind)) + way * 1000
    return outcome.found.between(first, first + 1000)


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_a_task_begun_for_a_request(kind: str, way: int, outcome: Outcome) -> None:
    """All that it does is below that request, side by side and one after another, on kept and on new connections."""
    owners, asked = _of(outcome, kind, way), outcome.asked[kind, way]
    said = Counter(outcome.found.requests[number].attributes["kernelspan.correlation"] for number in asked.answers)
    attached, total = whose.attached(owners)
    print(kind, way, dict(said), attached, total)
    assert total == test_requests.TOUCHES * len(asked.answers)
    assert attached >= 0.99 * total, said


@pytest.mark.parametrize("kind", SERVERS)
def test_what_may_be_taken_for_another_requests(kind: str, outcome: Outcome) -> None:
    """None is, whatever handlers and clients do; what the task itself does until it has answered is its request's."""
    owners, asked = _of(outcome, kind, ADVERSE), outcome.asked[kind, ADVERSE]
    names = {name for each in owners.values() for name in each}
    print(kind, {name: whose.attached(owners, name) for name in names})
    assert names >= {"", "gathered", "later", "thread", "executor"}
    plain = {number: owners[number] for number in asked.answers if number % 10 in (0, 3, 4, 5, 7, 8, 9)}
    attached, total = whose.attached(plain)
    assert attached >= 0.99 * total
    for name in names - {"", "after"}:
        assert whose.attached(owners, name)[0] == 0  # other tasks' and threads': not proved
