# SPDX-License-Identifier: Apache-2.0
"""Where the time of requests went, on the CPU or off it: against what their handlers measured, and every wait of their thread."""

from __future__ import annotations

import http.client
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_requests import SERVERS, answers
from tests.support import runs, venvs
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation

ON, OFF = "kernelspan.time.on_cpu", "kernelspan.time.off_cpu"
ONE = ["gunicorn", "-w", "1", "-k", "sync"]
CLIENTS, EACH = 6, 30


def _ask(port: int, numbers: list[int], said: dict[int, tuple[int, int]]) -> None:
    for number in numbers:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"/job/{number}")
        answered, computed, slept = map(int, connection.getresponse().read().split())
        assert answered == number
        said[number] = computed, slept
        connection.close()


def _serve(folder: Path, server: list[str], **spec: Any) -> tuple[dict[int, tuple[int, int]], runs.Run]:
    """What the handlers said of each request, and what was seen."""
    profile = runs.profile(
        folder, requests=[{"protocol": "HTTP", "roles": ["Server"]}], code={"functions": True}, **spec
    )
    said: dict[int, tuple[int, int]] = {}
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
        command = [venvs.library_venv() / "bin" / "python", "-m", *server, "-b", f"127.0.0.1:{port}", "times_app:wsgi"]
        with runs.agent(folder, profile, *command, cwd=runs.PROGRAMS) as started:
            started.wait_until(
                lambda: answers(port) and any(_is_known(span) for span in runs.read_spans(started.output)), "answering"
            )
            threads = [
                threading.Thread(target=_ask, args=(port, [1 + client * EACH + each for each in range(EACH)], said))
                for client in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ran = started.stop(signal.SIGTERM)
    return said, ran


def _is_known(span: ReceivedSpan) -> bool:
    return span.kind == "SERVER" and span.attributes["kernelspan.correlation"] != "None"


def _requests(ran: runs.Run) -> dict[int, ReceivedSpan]:
    found = {str(span.attributes["url.path"]): span for span in ran.spans if span.kind == "SERVER"}
    return {int(path.rpartition("/")[2]): span for path, span in found.items() if path.count("/") == 2}


def _known(ran: runs.Run, said: dict[int, tuple[int, int]]) -> dict[int, ReceivedSpan]:
    """The requests whose times are told: all but those of switches that the kernel kept to itself.

    Checked against what their handlers measured; the time that they computed in all of them, since a hypervisor may take the
    CPU between the kernel's look at its clock and ours.
    """
    found = _requests(ran)
    assert found.keys() == said.keys()
    known = {number: span for number, span in found.items() if OFF in span.attributes}
    assert len(known) >= len(said) - ran.balance["dropped"].get("Skipped", 0)
    for number, span in known.items():
        assert int(str(span.attributes[ON])) + int(str(span.attributes[OFF])) == span.end_ns - span.start_ns
        assert span.attributes[OFF] or not said[number][1]
    assert sum(int(str(span.attributes[ON])) for span in known.values()) >= sum(said[number][0] for number in known)
    return known


def test_every_wait_of_its_thread(tmp_path: Path) -> None:
    """A worker that does nothing but one request after another: its times off the CPU, each a span, are their sum."""
    said, ran = _serve(tmp_path, ONE, waits={"operations": ["OffCPU"]})
    waits = [span for span in ran.operations if span.name == "wait.off_cpu"]
    for number, span in _known(ran, said).items():
        mine = [
            wait.end_ns - wait.start_ns
            for wait in waits
            if wait.resource["process.pid"] == span.resource["process.pid"]
            and span.start_ns <= wait.start_ns <= wait.end_ns <= span.end_ns
        ]
        assert sum(mine) == span.attributes[OFF], number


@pytest.mark.parametrize("kind", ["sync", "threads"])
def test_short_waits_too(kind: str, tmp_path: Path) -> None:
    """What the profile does not want to see as spans is part of the sum; threads side by side have their own."""
    waits = {"operations": ["OffCPU"], "minDurationMicroseconds": 60_000_000}
    said, ran = _serve(tmp_path, SERVERS[kind], waits=waits)
    assert _known(ran, said)
    assert not [span for span in ran.operations if span.name == "wait.off_cpu"]


@pytest.mark.parametrize(("kind", "operations"), [("gevent", ["OffCPU"]), ("sync", ["Sleep"])])
def test_not_where_it_is_not_known(kind: str, operations: list[str], tmp_path: Path) -> None:
    """A greenlet's thread does others' work meanwhile; without times off the CPU nobody has summed them up."""
    said, ran = _serve(tmp_path, SERVERS[kind], waits={"operations": operations})
    found = _requests(ran)
    assert found.keys() == said.keys()
    assert not [span for span in found.values() if ON in span.attributes or OFF in span.attributes]
