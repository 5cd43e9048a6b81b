# SPDX-License-Identifier: Apache-2.0
"""What a newcomer sees first: the demo ends well, and what it shows is what the application did."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.otlp_json import ReceivedSpan, spans_of

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "examples/demo/run"
SHOP = ROOT / "examples/demo/app/shop.py"
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
def demo(
    venv_python: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[ReceivedSpan], dict[str, object]]:
    """What the demo printed, its spans, its accounting."""
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
    spans = [span for line in (keep / "spans.jsonl").read_text().splitlines() for span in spans_of(json.loads(line))]
    return done.stdout, spans, json.loads((keep / "report.json").read_text())


def line_of(text: str) -> int:
    """The only line of the application that has the text."""
    lines = [number for number, line in enumerate(SHOP.read_text().splitlines(), 1) if text in line]
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
    _, spans, _ = demo
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
    _, spans, _ = demo
    served = sorted((span for span in spans if span.kind == "SERVER"), key=lambda span: span.start_ns)
    assert [(span.name, span.attributes["http.response.status_code"]) for span in served] == [
        ("POST /orders/{id}", 200),
        ("GET /orders/{id}", 200),
        ("GET /orders/{id}", 200),
        ("POST /report", 200),
        ("GET /compare", 200),
        ("GET /invoices/{id}", 404),
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


def test_peers(demo: tuple[str, list[ReceivedSpan], dict[str, object]]) -> None:
    """The price service is the one peer that was connected to, on loopback; requests came from one client."""
    _, spans, _ = demo
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
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130, said + errors
    assert "Traceback" not in said + errors
    assert list(tmp_path.iterdir()) == []
    assert _left_over(f"{Path(venv_python).parent}/", str(SHOP.parent)) == []


def _left_over(interpreter: str, application: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text(errors="replace")
            except OSError:
                continue
            if line.startswith(interpreter) and application in line:
                found.append(line)
    return found
