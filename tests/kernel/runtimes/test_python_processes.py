# SPDX-License-Identifier: Apache-2.0
"""Every operation belongs to the process that did it, however short it lives, whoever had its pid before, wherever it lives."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from kernelspan_api import semconv
from tests.support import pythons, truth, venvs
from tests.support.otlp_json import ReceivedSpan
from tests.support.pythons import Interpreter
from tests.support.require import require
from tests.support.truth import Ran, Said, assert_true, judge, needed, wanted_pythons

pytestmark = pytest.mark.root
KEEP = truth.PROFILE + "  redaction: {commandLine: Keep}\n"


def ran(python: Interpreter, *arguments: str, wrap: tuple[str, ...] = ()) -> Ran:
    """targets/processes.py under `kernelspan run`, from its first system call."""
    with python.script(truth.text_of("processes"), "processes.py") as script:
        out = f"{script}.said"
        found = truth.run_command(
            [*wrap, *python.command(script, out, *arguments)], truth.host_path(python, out), profile=KEEP
        )
    assert found.status == 0, found.errors
    assert found.report["operations"]["unaccounted"] == 0
    return found


def pairs(found: Ran) -> Iterable[tuple[Said, ReceivedSpan]]:
    """What was said with its span."""
    spans = truth.by_key(found.spans)
    return [(each, span) for each in found.said for span in spans.get(each.key, [])]


def assert_own(found: Ran, processes: int, pid: str = semconv.PROCESS_PID) -> None:
    """All is true, and every operation is its own process's, by its own pid.

    The pid in its own namespace is not known of a child that had ended before it could be looked at.
    """
    verdict = judge(found.said, truth.by_key(found.spans))
    assert_true(verdict, processes)
    tokens = {each.key.split("/")[0] for each in found.said}
    assert len(tokens) == processes
    for each, span in pairs(found):
        assert span.resource.get(pid, each.pid) == each.pid, each
    assert any(pid in span.resource for _, span in pairs(found))
    resources = Counter((each.key.split("/")[0], json.dumps(dict(span.resource))) for each, span in pairs(found))
    assert len(resources) == processes  # no process is two


OWN = [label for label in wanted_pythons() if not pythons.has_root(label)]  # the others: other namespaces


@pytest.mark.parametrize("label", OWN)
@pytest.mark.parametrize(
    ("kind", "count", "processes"),
    [("forked", 30, 41), ("at_once", 200, 201), ("chain", 6, 6), ("spawned", 6, 13), ("pools", 3, 7)],
)
def test_children(label: str, kind: str, count: int, processes: int) -> None:
    """Forks of forks, 200 at once that live for a millisecond, chains of exec, subprocesses, multiprocessing's both ways."""
    assert_own(ran(needed(label), kind, str(count)), processes)


def test_a_pid_used_again() -> None:
    """One pid for one process after another, forked or another program: each is itself, never the one before."""
    found = ran(needed(OWN[0]), "reused", "30")
    verdict = judge(found.said, truth.by_key(found.spans))
    assert_true(verdict, 30)
    again, _ = Counter(each.pid for each in found.said).most_common(1)[0]
    same = [(each, span) for each, span in pairs(found) if each.pid == again]
    require("kernel", len(same) > 10, "other processes of this machine were faster to get the pid")
    for each, span in pairs(found):
        assert span.resource[semconv.PROCESS_PID] == each.pid
        own = f"leaf 1 {each.context}" if each.context.startswith("reuse") else "reused 30"
        assert str(span.resource.get(semconv.PROCESS_COMMAND_LINE, own)).endswith(own), each
    traces = [span.trace_id + span.parent_span_id for _, span in same]
    assert len(set(traces)) == len(same)  # an activity each


@pytest.mark.parametrize("label", wanted_pythons())
def test_in_other_namespaces(label: str) -> None:
    """In PID and mount namespaces of its own, in a chroot: the same truth; pids and paths as the process has them."""
    python = needed(label)
    wrap = () if python.root else ("unshare", "-pf", "--mount-proc", "--kill-child")
    found = ran(python, "forked", "6", wrap=wrap)
    assert_own(found, 9, semconv.PROCESS_VPID)
    assert all(row[2].startswith("/tmp/") for each in found.said for row in each.frames)


def test_gunicorn() -> None:
    """Requests served by two forked workers: each by the worker that did it, in its place."""
    try:
        folder = venvs.library_venv(truth.TARGETS.with_name("loops_venv.txt"))
    except subprocess.CalledProcessError as error:
        require("kernel", False, f"the virtual environment cannot be made: {str(error.stderr)[-300:]}")
        raise
    python = Interpreter("venv", 11, str(folder / "bin" / "python"))
    with python.script(truth.text_of("wsgi"), "wsgi.py") as script:
        here = Path(script).parent
        address, out = str(here / "socket"), here / "wsgi.said"
        command = [python.program, "-m", "gunicorn", "-w", "2", "-b", f"unix:{address}", "--chdir", str(here)]
        with _running([*command, "wsgi:application"], here, out) as agent:
            paths = [f"/request/{number}" for number in range(80)]
            with ThreadPoolExecutor(8) as clients:
                workers = dict(zip(paths, clients.map(partial(_get, address), paths), strict=True))
            agent.terminate()
            assert agent.wait(truth.SECONDS) == 0
        said, spans = truth.read_said(out), truth.by_key(truth.read_spans(here / "spans.jsonl"))
    assert_true(judge(said, spans), 160)
    for each in said:
        (span,) = spans[each.key]
        assert workers[each.context] == each.pid == span.resource[semconv.PROCESS_PID]
        assert span.attributes[semconv.CODE_FUNCTION_NAME] in {"wsgi.application", "wsgi.body"}


def _running(command: list[str], here: Path, out: Path) -> subprocess.Popen[bytes]:
    (here / "profile.yaml").write_text(truth.PROFILE)
    own = [sys.executable, "-c", truth.CLI, "run", "-q", "-f", str(here / "profile.yaml")]
    own += ["--output", str(here / "spans.jsonl"), "--", *command]
    return subprocess.Popen(own, env={"PATH": "/usr/bin:/bin", "KERNELSPAN_SAID": str(out)}, stderr=subprocess.DEVNULL)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, address: str) -> None:
        super().__init__("localhost")
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._address)


def _get(address: str, path: str) -> int:
    """The pid that a request is answered with; waits for the server."""

    def once() -> int:
        with contextlib.closing(_UnixConnection(address)) as connection:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return int(response.read())

    return _patiently(once)


def _patiently(ask: Callable[[], int]) -> int:
    deadline = time.monotonic() + truth.SECONDS
    while True:
        try:
            return ask()
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
