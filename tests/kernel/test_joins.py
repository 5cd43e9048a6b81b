# SPDX-License-Identifier: Apache-2.0
"""Services of one node that ask one another without a traceparent: whose request each of them has received.

All requests have the same method and target. Which is which says a header of its own at each hop (`X-Hop`), which only the
test reads: of each request that was received the parent must be the span that sent the same hop. What asks first is the
test, which is not traced.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.resolve.resource import ResourceSettings
from tests.support import runs, venvs
from tests.support.engines import engines, profile
from tests.support.generators import compiled_go
from tests.support.networks import translated
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation

SPEC: dict[str, Any] = {
    "requests": [{"protocol": "HTTP", "captureHeaders": ["x-hop"]}],
    "correlation": {"acrossServices": True},
    "code": {"functions": False},
}
APP = runs.PROGRAMS / "joins_app.py"
HOWS = ("kept", "new", "told", "piped", "hasty", "split")
HOP = "http.request.header.x-hop"


def python() -> Path:
    return venvs.library_venv() / "bin" / "python"


def gunicorn(port: int, *options: str) -> list[str]:
    return [str(python()), "-m", "gunicorn", *options, "-b", f"127.0.0.1:{port}", "joins_app:app"]


def proxy(port: int) -> list[str]:
    return [str(python()), str(APP), "proxy", str(port)]


def go(port: int) -> list[str]:
    return [str(compiled_go("joins_go")), str(port)]


SYNC = ("-w", "2", "-k", "sync")
THREADS = ("-w", "1", "-k", "gthread", "--threads", "8", "--keep-alive", "75")


def ask(port: int, route: str, numbers: Iterable[int], *, keep: bool) -> None:
    """One client, not traced, one request after another."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in numbers:
        headers = {"X-Hop": f"{number}.0", "X-Route": route, **({} if keep else {"Connection": "close"})}
        connection.request("GET", "/call", headers=headers)
        answer = connection.getresponse()
        assert (answer.read().decode(), answer.status) == (f"{number}.0", 200)
        if not keep:
            connection.close()
    connection.close()


def ask_all(port: int, routes: Sequence[str], *, each: int) -> dict[int, str]:
    """Of every route a client that keeps its connection and one that does not, all side by side, then one after another."""
    numbers, routes_of, work = iter(range(1, 10**6)), {}, []
    for route in routes:
        for keep in (True, False):
            mine = [next(numbers) for _ in range(each)]
            routes_of.update(dict.fromkeys(mine, route))
            work.append((route, mine, keep))
    threads = [threading.Thread(target=ask, args=(port, *one[:2]), kwargs={"keep": one[2]}) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for route in routes:
        mine = [next(numbers) for _ in range(each)]
        routes_of.update(dict.fromkeys(mine, route))
        ask(port, route, mine, keep=False)
    return routes_of


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(port, "", [0], keep=False)
        return True
    return False


@dataclass
class Found:
    """What spans say, by hop. `joined`: whose parent is a span that sent it; `alone`: whose is none; `told`: by traceparent."""

    servers: dict[str, ReceivedSpan] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    wrong: list[tuple[str, str]] = field(default_factory=list)


def hop_of(span: ReceivedSpan) -> str:
    said = span.attributes[HOP]
    assert isinstance(said, tuple)
    return str(said[0])


def read(spans: list[ReceivedSpan]) -> Found:
    """Of every request received whose it is."""
    found, by_id = Found(), {span.span_id: span for span in spans}
    for span in spans:
        if span.kind != "SERVER":
            continue
        hop = hop_of(span)
        if not hop.startswith("0."):
            assert hop not in found.servers
        found.servers[hop] = span
        parent = by_id.get(span.parent_span_id)
        if not span.parent_span_id:
            found.alone.add(hop)
        elif span.parent_span_id == f"{int(hop.split('.')[0]):016x}":
            found.told.add(hop)
        elif parent is None or parent.kind != "CLIENT" or hop_of(parent) != hop or parent.trace_id != span.trace_id:
            found.wrong.append((hop, hop_of(parent) if parent is not None else "nobody"))
        else:
            assert parent.start_ns <= span.start_ns
            found.joined.add(hop)
    return found


def hops(number: int, route: str) -> set[str]:
    """All but the first, which the test itself has sent."""
    return {f"{number}.{depth + 1}" for depth in range(len(route.split(",")))}


def test_each_service_goes_on_with_the_trace_of_who_asked(tmp_path: Path) -> None:
    """Python and Go, kept and new connections, a proxy in between: one trace for each request of the test's."""
    spec = runs.profile(tmp_path, **SPEC)
    with PortReservation(4) as reserved:
        front, back, middle, between = reserved.ports
        services = [gunicorn(front, *THREADS), gunicorn(back, *SYNC), go(middle), proxy(between)]
        command = [python(), APP, "all", *map(json.dumps, services)]
        routes = [
            f"kept:{middle}", f"new:{middle}", f"requests:{back}", f"new:{back}", f"kept:{middle},kept:{back}",
            f"kept:{between},kept:{middle}", f"new:{between},new:{middle},new:{back}",
        ]  # fmt: skip
        with runs.agent(tmp_path, spec, *command, cwd=runs.PROGRAMS) as started:
            started.wait_until(lambda: all(answers(port) for port in reserved.ports), "answering")
            started.wait_for_spans(4, lambda span: span.kind == "SERVER")
            asked = ask_all(front, routes, each=25)
            ran = started.stop(signal.SIGTERM)
    found = read(ran.spans)
    wanted = set().union(*(hops(number, route) for number, route in asked.items()))
    assert not found.wrong
    assert found.servers.keys() - {"0.0"} == wanted | {f"{number}.0" for number in asked}
    assert found.alone == {f"{number}.0" for number in (*asked, 0)}
    assert found.joined == wanted


@contextlib.contextmanager
def begun(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service that nobody traces by itself."""
    process = subprocess.Popen(command, cwd=runs.PROGRAMS)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_is_not_known_is_joined_to_nothing(tmp_path: Path) -> None:
    """A proxy in between that is not traced, requests that are sent before the last is answered; and who says who it is."""
    spec = runs.profile(tmp_path, **SPEC)
    with PortReservation(3) as reserved:
        front, back, outside = reserved.ports
        command = [python(), APP, "all", *map(json.dumps, [gunicorn(front, *THREADS), go(back)])]
        routes = [f"kept:{outside},kept:{back}", f"new:{outside},new:{back}", f"told:{back}"]
        by_hand = [f"{how}:{back}" for how in ("piped", "hasty", "split")]
        with (
            begun(*proxy(outside)),
            runs.agent(tmp_path, spec, *command, cwd=runs.PROGRAMS) as started,
        ):
            started.wait_until(lambda: all(answers(port) for port in reserved.ports), "answering")
            started.wait_for_spans(2, lambda span: span.kind == "SERVER")
            asked = ask_all(front, [*routes, *by_hand], each=10)
            ran = started.stop(signal.SIGTERM)
    found = read(ran.spans)
    assert not found.wrong
    by_route = {how: {number for number, route in asked.items() if route.startswith(f"{how}:")} for how in HOWS}
    assert found.told == {f"{number}.1" for number in by_route["told"]}
    assert found.alone >= {f"{number}.2" for number in (*by_route["kept"], *by_route["new"])}
    assert not any(f"{number}.1" in found.servers for number in (*by_route["kept"], *by_route["new"]))
    assert found.joined >= {f"{number}.1" for number in by_route["split"]}
    for how in ("piped", "hasty"):
        assert found.servers.keys() >= {f"{number}.{which}" for number in by_route[how] for which in (1, 2, 3)}


def test_ends_in_several_profiles(tmp_path: Path) -> None:
    """Of two that both want a service each has its spans; one that wants nothing joined has none joined."""
    specs = dict.fromkeys("ab", SPEC) | {"c": {**SPEC, "correlation": {"acrossServices": False}}}
    with PortReservation(3) as reserved, contextlib.ExitStack() as stack:
        first, second, third = reserved.ports
        services = [proxy(first), go(second), go(third)]
        processes = [stack.enter_context(begun(*command)) for command in services]
        made = stack.enter_context(engines())(*specs.values())
        for uid, spec in specs.items():
            made.engine.add(uid, profile(uid, spec), JsonFileExporter(str(tmp_path / uid)), ResourceSettings())
        for process, uids in zip(processes, ("a", "ab", "bc"), strict=True):
            made.engine.trace(process.pid, "service", frozenset(uids))
        made.until(lambda: all(answers(port) for port in reserved.ports), "answering")
        made.settle()
        asking: dict[int, str] = {}
        routes = [f"kept:{second},kept:{third}", f"new:{second},new:{third}"]
        thread = threading.Thread(target=lambda: asking.update(ask_all(first, routes, each=20)))
        thread.start()
        made.until(lambda: not thread.is_alive(), "answered")
        made.settle()
        made.engine.finish()
        for uid in specs:
            assert made.engine.accounting_of(uid).unaccounted == 0
    a, b, c = (runs.read_spans(tmp_path / uid) for uid in specs)
    assert len(asking) == 120
    of_a, of_b = read(a), read([*b, *(span for span in a if span.kind == "CLIENT")])
    assert not of_a.wrong
    assert not of_b.wrong
    assert of_a.joined - {"0.0"} == {f"{number}.1" for number in asking}
    assert of_b.joined - {"0.0"} == {f"{number}.{depth}" for number in asking for depth in (1, 2)}
    mine = {span.span_id for span in b}
    assert {of_b.servers[f"{number}.2"].parent_span_id for number in asking} <= mine
    assert {span.parent_span_id for span in c if span.kind == "SERVER"} == {""}


def test_through_address_translation(tmp_path: Path) -> None:
    """Neither end knows an address or port of the other's: both know the bytes. The first of all is no server's."""
    spec = runs.profile(tmp_path, **SPEC)
    each = 40
    with translated() as net:
        server = net.inside(net.server, *go(net.port))
        clients = [
            net.inside(net.client, str(python()), str(APP), "ask", f"{how}:{net.address}", str(each))
            for how in ("new", "kept", "requests")
        ]
        for command in clients:
            with runs.agent(
                tmp_path, spec, python(), APP, "all", json.dumps(server), json.dumps(command), cwd=runs.PROGRAMS
            ) as started:
                started.wait_for_spans(each, lambda span: span.kind == "SERVER")
                ran = started.stop(signal.SIGTERM)
            found = read(ran.spans)
            assert not found.wrong
            assert found.joined == {f"{number}.1" for number in range(1, each + 1)}
            peers = {str(span.attributes["network.peer.address"]) for span in found.servers.values()}
            assert peers == {"10.203.2.1"}  # the router's, to which the client was never near
            roots = {span.trace_id for span in ran.spans if not span.parent_span_id}
            assert roots == {span.trace_id for span in ran.spans}
