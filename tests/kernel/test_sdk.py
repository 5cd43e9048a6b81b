# SPDX-License-Identifier: Apache-2.0
"""Services that carry an OpenTelemetry SDK: our spans are in its traces, where it has said which they are."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from tests.kernel.test_joins import APP, SYNC, THREADS, answers, ask, hop_of, python
from tests.support import runs
from tests.support.otlp_json import ReceivedSpan
from tests.support.ports import PortReservation

SPEC: dict[str, Any] = {
    "requests": [{"protocol": "HTTP", "captureHeaders": ["x-hop"]}],
    "files": {"operations": ["Stat"]},
    "code": {"functions": False},
}
SDK, BARE = "sdk_app:app", "joins_app:app"
EACH = 40


def gunicorn(port: int, app: str, *options: str) -> list[str]:
    return [str(python()), "-m", "gunicorn", *options, "-b", f"127.0.0.1:{port}", app]


def spans_of_the_sdk(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and hop."""
    found = {}
    for line in path.read_text().splitlines():
        span = json.loads(line)
        key = span["kind"].removeprefix("SpanKind."), span["attributes"]["hop"]
        assert key not in found or key[1] == "0.0"
        found[key] = span
    return found


def number(span: dict[str, Any], name: str) -> str:
    """A trace's or a span's, as OTLP has it."""
    return str(span["context"][name]).removeprefix("0x")


def test_our_spans_are_in_the_traces_of_the_sdk(tmp_path: Path) -> None:
    """From one service with an SDK to another and to a third without one: what is asked of the first comes without a header."""
    log, spec = tmp_path / "sdk", runs.profile(tmp_path, **SPEC)
    with PortReservation(3) as reserved:
        front, middle, back = reserved.ports
        services = [gunicorn(front, SDK, *THREADS), gunicorn(middle, SDK, *SYNC), gunicorn(back, BARE, *SYNC)]
        command: list[str | Path] = [python(), APP, "all", *map(json.dumps, services)]
        with runs.agent(
            tmp_path, spec, *command, cwd=runs.PROGRAMS, env={**os.environ, "SDK_SPANS": str(log)}
        ) as started:
            started.wait_until(lambda: all(answers(port) for port in reserved.ports), "answering")
            started.wait_for_spans(3, lambda span: span.kind == "SERVER")
            clients = [
                threading.Thread(
                    target=ask, args=(front, f"{middle},{back}", range(first, first + EACH)), kwargs={"keep": keep}
                )
                for first, keep in ((1, True), (1 + EACH, False))
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            ran = started.stop(signal.SIGTERM)
    theirs, ours = spans_of_the_sdk(log), {}
    for span in ran.spans:
        if span.kind in {"SERVER", "CLIENT"} and not hop_of(span).startswith("0."):
            assert (span.kind, hop_of(span)) not in ours
            ours[span.kind, hop_of(span)] = span
    for hop in range(1, 2 * EACH + 1):
        trace = number(theirs["SERVER", f"{hop}.0"], "trace_id")
        received: list[ReceivedSpan] = [ours["SERVER", f"{hop}.{depth}"] for depth in range(3)]
        sent = [ours["CLIENT", f"{hop}.{depth}"] for depth in (1, 2)]
        names = ["", *(number(theirs["CLIENT", f"{hop}.{depth}"], "span_id") for depth in (1, 2))]
        assert {span.trace_id for span in received + sent} == {trace}
        assert [span.parent_span_id for span in received] == names
        assert [span.parent_span_id for span in sent] == names[1:]
    looked = [span for span in ran.operations if "/kernelspan-truth/" in str(span.attributes.get("file.path"))]
    traces = {str(span.attributes["file.path"]).rpartition("/")[2]: span.trace_id for span in looked}
    assert {hop: traces[hop] for _, hop in ours if hop in traces} == {
        hop: span.trace_id for (kind, hop), span in ours.items() if kind == "SERVER" and not hop.endswith(".2")
    }
