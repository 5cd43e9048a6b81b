# SPDX-License-Identifier: Apache-2.0
"""Python in programs that are not Python: linked with glibc's libpython, loading it, and uwsgi, a plugin of which needs it.

What the programs say of their own frames is what their spans say; where the interpreter leaves open whose frames they are, none are claimed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support import pythons, runs, truth, web_servers
from tests.support.generators import compiled
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation
from tests.support.pythons import Interpreter
from tests.support.require import require
from tests.support.truth import Launch, Said, Verdict, assert_true, judge

pytestmark = pytest.mark.root
STACKS = {"files": {"operations": ["Read", "Stat"]}, "code": {"stackTrace": "Attribute", "maxDepth": 127}}
LOOKS = """import os, time
def look():
    os.path.exists("/kernelspan-truth/inside")
try:
    os.write(7, b".")
except OSError:
    pass
for _ in range(400):
    look()
    time.sleep(0.002)
"""
REQUESTS, EACH = 120, 3  # operations that targets/uwsgi.py makes for each


@dataclass(frozen=True)
class Embedding(Interpreter):
    """programs/embeds.c: runs a script by this library."""

    library: str = ""

    def command(self, *arguments: str) -> list[str]:
        """What to run."""
        return [self.program, self.label, self.library, *arguments]


@cache
def embedding(how: str = "main", *, linked: bool = False) -> Embedding:
    """With the libpython of the Python that is the machine's own."""
    system = [python.minor for python in pythons.own_interpreters() if python.label.startswith("system-")]
    library = Path(f"/usr/lib/x86_64-linux-gnu/libpython3.{max(system, default=0)}.so.1.0")
    require("kernel", library.exists(), f"no {library} (tools/apt test)")
    options = ("-DLINKED", "-Wl,--no-as-needed", f"-L{library.parent}", f"-l:{library.name}") if linked else ()
    return Embedding(how, system[0], str(compiled("embeds", *options)), library=str(library))


def looks(ran: runs.Run, where: str) -> list[ReceivedSpan]:
    """Those at the file of this name."""
    return [span for span in ran.operations if span.attributes.get("file.path") == f"/kernelspan-truth/{where}"]


def missing(spans: list[ReceivedSpan]) -> Counter[str]:
    """Why they have no frames."""
    return Counter(
        str(span.attributes.get("kernelspan.code.missing", "None"))
        for span in spans
        if "code.stacktrace" not in span.attributes
    )


def test_every_frame_is_true() -> None:
    """Of a program that is linked with libpython, and of one that loads it by name: as of Python's own program."""
    for outcome in truth.traced([Launch(embedding(linked=linked), "kinds", ("2",)) for linked in (True, False)]):
        assert_true(judge(outcome.said, outcome.spans, allow_outer_missing=True), 1000, outcome)


def test_a_child_of_what_was_no_python_yet(tmp_path: Path) -> None:
    """A program is looked at, finds itself a libpython, and forks before it is looked at again: its child is walked."""
    with embedding("forked").script(LOOKS) as script:
        profile = runs.profile(tmp_path, **STACKS)
        with runs.agent(tmp_path, profile, *embedding("forked").command(script), stdin=subprocess.PIPE) as agent:
            agent.wait_for_spans(1, lambda span: span.attributes.get("file.path") == "/kernelspan-truth/before")
            assert agent.process.stdin is not None
            agent.process.stdin.write(b"\n")
            agent.process.stdin.flush()
            ran = agent.finish()
    inside = looks(ran, "inside")
    assert len(inside) == 400
    assert set(missing(inside)) <= {truth.PENDING, "StackUnknown"}  # what was sent of it as a native program
    shown = Counter(str(span.attributes.get("code.stacktrace", "")) for span in inside)
    assert sum(count for stack, count in shown.items() if "__main__.look (" in stack) > 100, shown


def test_a_state_that_another_thread_has_made(tmp_path: Path) -> None:
    """The interpreter takes it for the maker's, who is outside of Python: of neither a frame is claimed that is not its own."""
    with embedding("states").script(LOOKS) as script:
        ran = runs.run(tmp_path, runs.profile(tmp_path, **STACKS), *embedding("states").command(script))
    assert ran.status == 0, ran.stderr
    outside, inside = looks(ran, "outside"), looks(ran, "inside")
    assert len(inside) == 400
    assert len(outside) > 20
    assert sum(missing(outside).values()) == len(outside), outside[-1]
    assert missing(outside)["AmbiguousInterpreter"] > 0, missing(outside)
    assert set(missing(inside)) <= {"NoThreadState", "AmbiguousInterpreter", truth.PENDING}


def served(folder: Path, places: tuple[str, ...], *arguments: str) -> tuple[list[Said], Verdict]:
    """What targets/uwsgi.py said at these places, and what came of it, once its first frames were seen."""
    (folder / "first.py").write_text(truth.text_of("uwsgi"))
    (folder / "second.py").write_text(truth.text_of("uwsgi"))
    said, profile = folder / "said", runs.profile(folder, **STACKS)
    environ = {**os.environ, "KERNELSPAN_SAID": str(said)}
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
        command = [str(each).replace("BIND", f"127.0.0.1:{port}") for each in web_servers.uwsgi(*arguments)]
        with runs.agent(folder, profile, *command, cwd=folder, env=environ) as agent:
            agent.wait_until(partial(answers, port, places[0], agent), "walked")
            paths = [f"{places[number % len(places)]}/{number}" for number in range(REQUESTS)]
            with ThreadPoolExecutor(8) as clients:
                pids = set(clients.map(partial(get, port), paths))
            ran = agent.stop(signal.SIGTERM)
    found = truth.read_said(said)
    assert pids <= {each.pid for each in found}
    return found, judge(found, truth.by_key(ran.spans))


def get(port: int, path: str) -> int:
    """The pid of who has answered."""
    connection = HTTPConnection("127.0.0.1", port, timeout=runs.TIMEOUT_SECONDS)
    connection.request("GET", path)
    return int(connection.getresponse().read())


def answers(port: int, path: str, agent: runs.Agent) -> bool:
    """Whether it does, with frames."""
    try:
        get(port, path)
    except OSError:
        return False
    time.sleep(0.1)  # each request is one more to look through
    return any("application (" in str(span.attributes.get("code.stacktrace")) for span in runs.read_spans(agent.output))


def test_uwsgi(tmp_path: Path) -> None:
    """Two forked workers with four threads each, which uwsgi has made."""
    said, verdict = served(tmp_path, ("",), "--threads", "4", "--wsgi-file", "first.py")
    assert_true(verdict, REQUESTS * EACH)
    assert verdict.right + verdict.pending == len(said)


def test_uwsgi_with_an_interpreter_for_each_application(tmp_path: Path) -> None:
    """The second one's thread states are all made by one thread: of its frames none is claimed, and the first one's are its own."""
    mounts = ["--manage-script-name", "--mount", "/first=first.py", "--mount", "/second=second.py"]
    _, verdict = served(tmp_path, ("/first", "/second"), "--threads", "4", *mounts)
    assert verdict.said >= REQUESTS * EACH
    assert not verdict.wrong, verdict
    assert set(verdict.missing) <= {"AmbiguousInterpreter", truth.PENDING}, verdict
    assert verdict.right > REQUESTS * EACH / 4, verdict
