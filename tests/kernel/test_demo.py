# SPDX-License-Identifier: Apache-2.0
"""What a newcomer sees first: the demo ends well, and what it shows is what the application did."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import Collector
from tests.support.fixtures import StartCollector
from tests.support.jaeger import Jaeger
from tests.support.otlp_json import ReceivedSpan, spans_of
from tools import postgresql

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "examples/demo/run"
SHOP = ROOT / "examples/demo/app/shop.py"
PRICES = ROOT / "examples/demo/prices/Prices.java"
STOCK = ROOT / "examples/demo/stock/main.go"
SERVICES = {"shop": "gunicorn", "prices": "shop.Prices", "stock": "stock"}  # as spans name them
STATEMENT = "SELECT amount FROM stock WHERE name = $1"
TIMEOUT_SECONDS = 300  # the first time packages are installed
VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({each.metadata["Name"].lower(): each.version for each in distributions()}))
"""


@pytest.fixture(scope="module")
def venv_python() -> str:
    """The interpreter of the application's environment."""
    return subprocess.run(
        [RUN, "--where"], check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    ).stdout.strip()


@pytest.fixture(scope="module")
def ran(venv_python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed, and the folder of what it kept."""
    assert venv_python
    keep = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [RUN, "--keep", keep],
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, keep


@pytest.fixture(scope="module")
def demo(ran: tuple[str, Path]) -> tuple[str, list[ReceivedSpan], dict[str, object]]:
    """What the demo printed, its spans, its accounting."""
    printed, keep = ran
    spans = [span for line in (keep / "spans.jsonl").read_text().splitlines() for span in spans_of(json.loads(line))]
    return printed, spans, json.loads((keep / "report.json").read_text())


def of_service(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    """What a service did."""
    return [span for span in spans if span.resource["service.name"] == SERVICES[name]]


def line_of(text: str, source: Path = SHOP) -> int:
    """The only line of the application that has the text."""
    lines = [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]
    assert len(lines) == 1, text
    return lines[0]


def test_functions_files_and_lines(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """Each file was touched by the function, and at the line, that the application's source says."""
    _, spans, _ = demo
    seen = {
        (
            span.name,
            Path(str(path)).name,
            span.attributes.get("code.function.name"),
            span.attributes.get("code.line.number"),
        )
        for span in spans
        if (path := span.attributes.get("file.path"))
    }
    write = line_of(".csv")
    assert ("file.open", "sales.csv", "shop.write_report", write) in seen
    assert ("file.open", "invoice-7.pdf", "shop.invoice", line_of(".pdf")) in seen
    assert ("file.open", "shop.db", "shop.Orders.load", line_of("SELECT name") - 1) in seen
    assert {function for name, path, function, _ in seen if path == "shop.db-journal"} == {"shop.Orders.add"}
    missing = [span for span in spans if str(span.attributes.get("file.path", "")).endswith("invoice-7.pdf")]
    assert {(span.status, span.attributes.get("error.type")) for span in missing} == {("ERROR", "ENOENT")}


def test_libraries(demo: tuple[str, list[ReceivedSpan], dict[str, object]], venv_python: str) -> None:
    """Names and versions are importlib.metadata's, and each library is named where it did the work."""
    spans = of_service(demo[1], "shop")
    asked = subprocess.run([venv_python, "-c", VERSIONS], check=True, capture_output=True, text=True, timeout=60)
    versions = json.loads(asked.stdout)
    by_library: dict[str, set[object]] = defaultdict(set)
    for span in spans:
        if name := span.attributes.get("kernelspan.library.name"):
            assert span.attributes["kernelspan.library.version"] == versions[str(name).lower()]
            by_library[str(name).lower()].add((span.name, span.attributes.get("code.function.name")))
    assert ("tcp.connect", "shop.price_of") in by_library["urllib3"]
    assert ("file.open", "shop.price_of") in by_library["cachelib"]
    assert ("requests.api.get", "requests.api.get") in by_library["requests"]
    assert ("tcp.receive", None) in by_library["gunicorn"]


def test_requests(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """Each is a span, with all that its thread did for it below: the function that answers it first of all."""
    spans = of_service(demo[1], "shop")
    served = sorted((span for span in spans if span.kind == "SERVER"), key=lambda span: span.start_ns)
    assert [(span.name, span.attributes["http.response.status_code"]) for span in served] == [
        ("POST /orders/{number}", 200),
        ("GET /orders/{number}", 200),
        ("GET /orders/{number}", 200),
        ("POST /report", 200),
        ("GET /compare", 200),
        ("GET /invoices/{number}", 404),
    ]
    below = {(span.parent_span_id, span.name) for span in spans}
    functions = (
        "place_order",
        "show_order",
        "show_order",
        None,
        "compare",
        "invoice",
    )  # a report's files are the pool's
    for span, function in zip(served, functions, strict=True):
        assert function is None or (span.span_id, f"shop.{function}") in below
    asked = [span for span in spans if span.kind == "CLIENT"]
    assert len(asked) == 4
    assert all("/price/" in str(span.attributes["url.full"]) for span in asked)


def test_one_trace_through_all_services(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """Each price that the shop asks for is one chain down to the database, each hop below the one that has asked."""
    _, spans, _ = demo
    by_id = {span.span_id: span for span in spans}
    statements = [span for span in spans if "db.system.name" in span.attributes]
    roots = defaultdict(list)
    for statement in statements:
        above = list(above_of(statement, by_id))
        assert statement.attributes["db.query.text"] == STATEMENT
        assert statement.kind == "CLIENT"
        assert {span.trace_id for span in above} == {statement.trace_id}
        hops = [(span.kind, span.resource["service.name"]) for span in above if span.kind != "INTERNAL"]
        stock, asks_stock, prices, asks_prices = [span for span in above if span.kind != "INTERNAL"][:4]
        assert hops[:4] == [
            ("SERVER", SERVICES["stock"]),
            ("CLIENT", SERVICES["prices"]),
            ("SERVER", SERVICES["prices"]),
            ("CLIENT", SERVICES["shop"]),
        ]
        assert [span.attributes["http.route"] for span in (stock, prices)] == ["/stock/{name}", "/price/{name}"]
        assert stock.parent_span_id == asks_stock.span_id
        assert prices.parent_span_id == asks_prices.span_id
        names = [str(span.attributes.get("url.path", span.attributes.get("url.full"))) for span in above[:-1]]
        (thing,) = {name.rpartition("/")[2] for name in names if "/stock/" in name or "/price/" in name}
        functions = [span.name for span in above if span.kind == "INTERNAL" and "code.function.name" in span.attributes]
        own = [name for name in functions if name.startswith(("main.", "shop."))]
        assert own[:5] == [
            "main.Stock.Amount", "main.Stock.Answer",
            "shop.Prices.inStock", "shop.Prices.priceOf", "shop.Prices.answer",
        ]  # fmt: skip
        roots[own[5]].append(thing)
        assert (hops[4:], own[5]) in (
            ([("SERVER", SERVICES["shop"])], "shop.price_of"),
            ([], "shop.ask"),  # a coroutine that is none of a server's own: whose it is, is not claimed
        )
    assert {function: sorted(things) for function, things in roots.items()} == {
        "shop.price_of": ["biscuits", "tea"],
        "shop.ask": ["coffee", "tea"],
    }
    shown = {span.trace_id for span in statements if "shop.price_of" in {a.name for a in above_of(span, by_id)}}
    assert len(shown) == 1
    served = [span for name in ("prices", "stock") for span in of_service(spans, name) if span.kind == "SERVER"]
    assert len(served) == 8


def test_what_others_draw_and_count_of_it(
    ran: tuple[str, Path], start_collector: StartCollector, jaeger: Jaeger
) -> None:
    """The collector's connectors and Jaeger, of the same spans: who asks whom, and each route's requests, with its own status."""
    shop, prices, stock = SERVICES.values()
    collector = start_collector(counts=True, forward_to=jaeger.grpc_endpoint)
    for message in (ran[1] / "spans.jsonl").read_text().splitlines():
        collector.send(message)
    edges = {
        ("user", shop): 6, (shop, prices): 4, (prices, stock): 4, (stock, "postgresql"): 4,
    }  # fmt: skip
    end = time.monotonic() + TIMEOUT_SECONDS
    while (drawn := _counted(collector, "traces_service_graph_request_total", "client", "server")) != edges:
        assert time.monotonic() < end, drawn
        time.sleep(0.2)
    kinds = _counted(collector, "traces_service_graph_request_total", "server", "connection_type", "failed")
    assert kinds == {
        (shop, "virtual_node", False): 6, (prices, "", False): 4, (stock, "", False): 4, ("postgresql", "database", False): 4,
    }  # fmt: skip
    counted = _counted(
        collector, "traces.span.metrics.calls", "span.kind", "service.name", "span.name", "http.response.status_code"
    )
    assert {key[1:]: count for key, count in counted.items() if key[0] == "SPAN_KIND_SERVER"} == {
        (shop, "POST /orders/{number}", 200): 1,
        (shop, "GET /orders/{number}", 200): 2,
        (shop, "POST /report", 200): 1,
        (shop, "GET /compare", 200): 1,
        (shop, "GET /invoices/{number}", 404): 1,
        (prices, "GET /price/{name}", 200): 4,
        (stock, "GET /stock/{name}", 200): 4,
    }
    assert jaeger.dependencies() == {(shop, prices): 4, (prices, stock): 4}


def _counted(collector: Collector, metric: str, *labels: str) -> dict[tuple[object, ...], float]:
    """A metric by some of its labels."""
    found: dict[tuple[object, ...], float] = defaultdict(float)
    for each, value in collector.metrics().get(metric, {}).items():
        found[tuple(dict(each).get(label) for label in labels)] += value
    return dict(found)


def above_of(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> Iterator[ReceivedSpan]:
    """What a span is below, from it to the root of its trace."""
    while span.parent_span_id:
        span = by_id[span.parent_span_id]
        yield span


def test_the_lines_of_the_other_services(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """What Java and Go did on sockets says the function and the line that the sources have, and the driver that they went through."""
    seen: dict[str, set[object]] = defaultdict(set)
    for name in ("prices", "stock"):
        for span in of_service(demo[1], name):
            has = span.attributes
            if span.name.startswith("tcp.") and (function := has.get("code.function.name")):
                where = (Path(str(has["code.file.path"])).name, has["code.line.number"])
                seen[name].add((span.name, function, *where, has.get("kernelspan.library.name")))
    amount = ("main.Stock.Amount", "main.go", line_of("QueryRow(", STOCK), "github.com/lib/pq")
    assert seen["stock"] == {(f"tcp.{each}", *amount) for each in ("connect", "send", "receive")}
    asks = ("shop.Prices.inStock", "Prices.java", line_of("getInputStream()", PRICES), None)
    assert seen["prices"] == {(f"tcp.{each}", *asks) for each in ("connect", "send", "receive")} | {
        ("tcp.send", "shop.Prices.answer", "Prices.java", line_of(text, PRICES), None)
        for text in ("sendResponseHeaders(", "getResponseBody()")
    }


def test_peers(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """The price service is the one peer that the shop connected to, on loopback; requests came from one client."""
    spans = of_service(demo[1], "shop")
    peers = defaultdict(set)
    for span in spans:
        if span.name.startswith("tcp."):
            peers[span.name].add((span.attributes["network.peer.address"], span.attributes["network.peer.port"]))
    assert len(peers["tcp.connect"]) == 1
    assert len(peers["tcp.receive"]) == 2
    assert {address for found in peers.values() for address, _ in found} == {"127.0.0.1"}


def test_contexts_are_apart(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """A trace is one thread's or one coroutine's: the pool's threads and the two coroutines are not mixed into others'."""
    _, spans, _ = demo
    functions: dict[str, set[object]] = defaultdict(set)
    for span in spans:
        if function := span.attributes.get("code.function.name"):
            functions[span.trace_id].add(function)
    assert [found for found in functions.values() if "shop.write_report" in found and len(found) > 1] == []
    assert len([found for found in functions.values() if "shop.ask" in found]) == 2


def test_print(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """The trees and the table stand on standard output; every operation is accounted for, none was lost."""
    printed, spans, report = demo
    operations = report["operations"]
    assert isinstance(operations, dict)
    assert (operations["unaccounted"], operations["dropped"]) == (0, {})
    assert (
        operations["seen"] == operations["exported"] + operations["filtered"]
    )  # closes, which the profile does not show
    assert operations["exported"] == sum(
        "thread.name" in each.attributes and each.parent_span_id != "" for each in spans
    )
    assert re.search(r"^│.*└─ tcp\.receive .*urllib3 \S+  shop\.py:\d+ ", printed, re.MULTILINE)
    assert re.search(r"^  exported +\d+$", printed, re.MULTILINE)
    whole = [block for block in printed.split("\n\n") if "  trace " in block.split("\n", 1)[0]]
    assert len(whole) == 1
    wanted = r"GET /orders/.* GET /price/\{name\}  shop\.Prices \[\d+\].* GET /stock/\{name\}  stock \[\d+\].* SELECT stock  "
    assert re.search(f"^{wanted}", whole[0], re.MULTILINE | re.DOTALL)
    assert re.search(r"^demo: \d+ operations of shop\.price_of went through cachelib ", printed, re.MULTILINE)


def test_ctrl_c(venv_python: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends it as a shell expects, and nothing that it started lives on."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "POST" in line:
                break
        began = _running(f"TMPDIR={tmp_path}")
        (database,) = {line[line.index("-D") + 1] for line in began.values() if line[0].endswith("/postgres")}
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130, said + errors
    assert "Traceback" not in said + errors
    commands = {" ".join(line) for line in began.values()}
    for part in (venv_python, "/java ", "/stock", "/postgres "):
        assert any(part in f"{command} " for command in commands), part
    assert list(tmp_path.iterdir()) == []
    assert _running(f"TMPDIR={tmp_path}") == {}
    assert [pid for pid, line in began.items() if _command(Path("/proc", str(pid))) == line] == []
    assert not Path(f"{postgresql.root()}{database}").exists()


def _running(variable: str) -> dict[int, list[str]]:
    """Command lines of the processes that have begun with this in their environment, by their ids."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = _command(entry)
    return found


def _command(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []
