# SPDX-License-Identifier: Apache-2.0
"""Threads of Ruby and Java that answer requests, and those that leave them to others, as test_requests has it for Python."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.kernel import test_requests
from tests.support import databases, runs, web_servers
from tests.support.otlp_json import ReceivedSpan, spans_of
from tests.support.ports import PortReservation

pytestmark = pytest.mark.root
NUMBERS = {"clients": 8, "each": 15}
JAVA = "bookworm-17"
PUMA = ("ruby", "/usr/bin/puma", "-t", "5:5", "-b", "tcp://BIND", "./requests.ru")
OWN = ("ruby", "./requests_servers.rb")
# Each with how many of a hundred requests are to be their thread's. All of what is claimed must be right.
SERVERS = {
    "webrick": ((*OWN, "webrick", "PORT"), 100),
    "ruby threads": ((*OWN, "threads", "PORT"), 100),
    "ruby accepting": ((*OWN, "accepting", "PORT"), 100),
    "puma": (PUMA, 10),  # not what its reactor reads, nor what goes on meanwhile
    "puma hijack": ((*PUMA[:-1], "./requests_hijack.ru"), 0),
    "jdk pool": (("java", "Jdk", "PORT", "pool"), 100),
    "java threads": (("java", "Sockets", "PORT", "threads"), 100),
    "tomcat": (("java", "Tomcats", "PORT", "blocking"), 100),
    "jetty": (("java", "Jettys", "PORT", "blocking"), 20),  # a POST whose body comes later is left to another thread
}
# Those that work by turns or leave requests to others. Their threads are walked by the time they are asked.
LOOPS = {
    "ruby pool": (*OWN, "pool", "PORT"),
    "ruby turns": (*OWN, "turns", "PORT"),
    "ruby fibers": (*OWN, "fibers", "PORT"),
    "java loop": ("java", "Loop", "PORT"),
    "jdk same pool": ("java", "Jdk", "PORT", "same"),
    "jdk stealing": ("java", "Jdk", "PORT", "stealing"),
    "tomcat async": ("java", "Tomcats", "PORT", "async"),
    "jetty async": ("java", "Jettys", "PORT", "async"),
    "netty": ("java", "Nettys", "PORT"),
}


@dataclass(frozen=True)
class Outcome:
    """What clients were answered by each server, and what the spans say of all."""

    asked: dict[str, test_requests.Asked]
    found: test_requests.Found

    def of(self, kind: str) -> test_requests.Asked:
        """What one was asked, whose spans say so."""
        asked = self.asked[kind]
        spans = {number: spans for number, spans in self.found.requests.items() if number in asked.answers}
        test_requests.check_facts(test_requests.Found(spans), asked)
        return asked

    def correlation(self, number: int) -> object:
        """Of the request of this number."""
        return self.found.requests[number][0].attributes["kernelspan.correlation"]

    def wrong(self, kind: str) -> dict[int, Counter[int | None]]:
        """Operations of a server's requests that are below another request."""
        return {n: owners for n, owners in test_requests.wrong(self.found).items() if n in self.asked[kind].answers}


def run_all(folder: Path, runtime: str) -> Outcome:
    """All servers of a runtime under one agent, each asked by all clients as soon as its threads are walked."""
    servers = {kind: words for kind, (words, _) in SERVERS.items()} | LOOPS
    servers = {kind: words for kind, words in servers.items() if words[0] == runtime}
    asked = {}
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(PortReservation(len(servers))).ports
        commands = []
        for (_, *words), port in zip(servers.values(), ports, strict=True):
            made = web_servers.ruby(*words) if runtime == "ruby" else web_servers.java(JAVA, *words)
            command = [str(each) for each in stack.enter_context(made)]
            commands.append(
                json.dumps([each.replace("BIND", f"127.0.0.1:{port}").replace("PORT", str(port)) for each in command])
            )
        profile = runs.profile(folder, **test_requests.SPEC)
        launcher = (sys.executable, runs.PROGRAMS / "joins_app.py", "all", *commands)
        with runs.agent(folder, profile, *launcher, cwd=runs.PROGRAMS) as started:
            started.wait_until(started.output.exists, "there")
            told = Told(started.output)
            for at, (kind, port) in enumerate(zip(servers, ports, strict=True)):
                correlations = {"Thread"} if kind in SERVERS else {"Thread", "None"}
                started.wait_until(
                    partial(_is_warm, told, port, correlations), f"{kind} answers, correlation {correlations}"
                )
                asked[kind] = test_requests.ask_all(port, **NUMBERS, first=1 + at * 1000)
            ran = started.stop(signal.SIGTERM)
    return Outcome(asked, test_requests.read(ran))


@dataclass
class Told:
    """Which ports' requests the agent has told so far, and how correlated."""

    output: Path
    position: int = 0
    seen: set[tuple[object, object]] = field(default_factory=set)

    def has(self, port: int, correlations: set[str]) -> bool:
        """Whether one of these. The output is read once."""
        time.sleep(0.02)
        with self.output.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                for span in spans_of(json.loads(line)):
                    if span.kind == "SERVER":
                        self.seen.add((span.attributes["server.port"], span.attributes["kernelspan.correlation"]))
        return any((port, each) in self.seen for each in correlations)


def _is_warm(told: Told, port: int, correlations: set[str]) -> bool:
    return test_requests.answers(port) and told.has(port, correlations)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """By runtime."""
    return {each: run_all(tmp_path_factory.mktemp(each), each) for each in ("ruby", "java")}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_thread_works_on_what_it_has_received(kind: str, outcomes: dict[str, Outcome]) -> None:
    """All operations of a request that is its thread's are below it, and none below another."""
    words, percent = SERVERS[kind]
    outcome = outcomes[words[0]]
    asked, owners = outcome.of(kind), outcome.found.owners
    assert not outcome.wrong(kind)
    by_thread = {number for number in asked.answers if outcome.correlation(number) == "Thread"}
    attached = sum(owners[number][number] for number in by_thread)
    others = sum(sum(owners[number].values()) - owners[number][None] for number in asked.answers.keys() - by_thread)
    told = f"{kind}: {len(by_thread)} of {len(asked.answers)} requests, {attached} operations; {others} of the others'"
    print(told)
    assert len(by_thread) * 100 >= percent * 0.99 * len(asked.answers), told
    assert attached >= 0.99 * test_requests.TOUCHES * len(by_thread), told


@pytest.mark.parametrize("kind", LOOPS)
def test_one_that_has_several_at_hand_claims_nothing_wrong(kind: str, outcomes: dict[str, Outcome]) -> None:
    """Whoever reads requests and has others work on them, or works on them by turns: none below another's."""
    outcome = outcomes[LOOPS[kind][0]]
    asked = outcome.of(kind)
    assert not outcome.wrong(kind)
    print(kind, Counter(outcome.correlation(number) for number in asked.answers))
    assert len([number for number in asked.answers if number in outcome.found.owners]) == len(asked.answers)


class _Answer(http.server.BaseHTTPRequestHandler):
    """Says that all is well, once it is."""

    protocol_version = "HTTP/1.1"
    ready = False

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if type(self).ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Not to the tests' output."""


@contextlib.contextmanager
def answering() -> Iterator[tuple[int, type[_Answer]]]:
    """A server that nobody traces: its port and what it answers."""
    answer = type("Answer", (_Answer,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], answer
        server.shutdown()


def _is_walked(spans: list[ReceivedSpan]) -> bool:
    return any(
        span.attributes.get("file.path") == "/kernelspan-ready" and "code.function.name" in span.attributes
        for span in spans
    )


def _names_above(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> set[str]:
    return {name.rpartition("#")[2] for name in databases.names_above(span, by_id)}


# By functions; the last of Java's sends most from threads of its own, where no function of the program's stands.
CLIENTS = {
    "ruby": ({"by_get", "by_start", "by_kept", "by_open"}, set()),
    "java": ({"byConnection", "byPost"}, {"byClient"}),
}
ASKED = 40


@pytest.mark.parametrize("runtime", CLIENTS)
def test_a_request_is_below_the_function_that_made_it(runtime: str, tmp_path: Path) -> None:
    """Each once, by Net::HTTP, open-uri, HttpURLConnection; java.net.http's are told, and below no function that is not theirs."""
    below, told = CLIENTS[runtime]
    spec = {
        "requests": [{"protocol": "HTTP", "roles": ["Client"]}],
        "files": {"operations": ["Stat"]},
        "code": {"functions": True},
    }
    profile = runs.profile(tmp_path, **spec)
    with answering() as (port, answer):
        words = (str(port), str(ASKED))
        made = (
            web_servers.ruby("./requests_clients.rb", *words)
            if runtime == "ruby"
            else web_servers.java(JAVA, "Clients", *words)
        )
        with made as command, runs.agent(tmp_path, profile, *command) as started:
            started.wait_until(lambda: _is_walked(runs.read_spans(started.output)), "walked")
            answer.ready = True
            ran = started.finish()
    by_id = {span.span_id: span for span in ran.spans}
    assert ran.status == 0, ran.stderr
    seen: Counter[tuple[str, int]] = Counter()
    for span in ran.spans:
        if span.kind != "CLIENT" or "/ready/" in str(span.attributes["url.full"]):
            continue
        *_, way, number = str(span.attributes["url.full"]).split("/")
        seen[way, int(number)] += 1
        above = _names_above(span, by_id) & (below | told)
        assert above == {way} or (way in told and not above), (way, above)
    assert seen == Counter({(way, number): 1 for way in below | told for number in range(ASKED)})
