# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 and gRPC between unmodified programs: spans that say what the clients' own logs say, whatever goes on side by side.

Each request has a number of its own, in a header (gRPC) or in its path, so a span with another's method or status is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases, runs, venvs
from tests.support.generators import compiled_go
from tests.support.otlp_json import ReceivedSpan

GRPC_APP = runs.PROGRAMS / "grpc_app.py"
HTTP2_VENV = venvs.REQUIREMENTS.with_name("http2_venv.txt")
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

Asked = list[tuple[int, str, Any]]  # number, method or path, status


def profile(folder: Path, protocol: str, *roles: str) -> Path:
    """Its requests alone."""
    wanted = {"protocol": protocol, "roles": list(roles), "captureHeaders": ["x-number", "authorization", "x-grpc"]}
    return runs.profile(folder, requests=[wanted], code={"functions": True})


def numbered(found: list[ReceivedSpan], kind: str) -> dict[int, list[ReceivedSpan]]:
    """Spans of requests of this kind, by the number in them; 0: without one."""
    by_number: dict[int, list[ReceivedSpan]] = defaultdict(list)
    for span in found:
        if span.kind == kind:
            said = span.attributes
            (number,) = said.get("rpc.request.metadata.x-number", ("0",))
            url = str(said.get("url.path", said.get("url.full", "")))
            by_number[int(url.partition("/job/")[2].partition("/")[0] or number)].append(span)
    return by_number


def check_grpc(spans: list[ReceivedSpan], asked: Asked, kind: str) -> None:
    """Of every call one span, which says what its client knows."""
    found = numbered(spans, kind)
    assert found.keys() == {number for number, _, _ in asked}
    for number, path, code in asked:
        (span,) = found[number]
        said = span.attributes
        method = "_OTHER" if code == "UNIMPLEMENTED" else path[1:]
        assert (said["rpc.system.name"], said["rpc.method"], said["rpc.response.status_code"]) == ("grpc", method, code)
        is_error = code in SERVER_ERRORS if kind == "SERVER" else code != "OK"
        assert (span.status == "ERROR") == is_error
        assert said.get("error.type") == (code if is_error else None)
        assert (said["server.address"], said["network.protocol.version"]) == ("127.0.0.1", "2")
        assert span.start_ns < span.end_ns
        assert said.get("kernelspan.correlation") == ("None" if kind == "SERVER" else None)
    assert "s3cret" not in str([(span.name, span.attributes) for span in spans])


def check_http(spans: list[ReceivedSpan], asked: Asked, kind: str) -> None:
    """Of every request one span, which says what its client knows."""
    found = numbered(spans, kind)
    assert found.keys() == {number for number, _, _ in asked}
    for number, method, status in asked:
        (span,) = found[number]
        said = span.attributes
        assert (said["http.request.method"], said["http.response.status_code"]) == (method, status)
        assert said["network.protocol.version"] == "2"
        if kind == "SERVER":
            assert (span.name, said["url.path"]) == (f"{method} /job/{{id}}/x", f"/job/{number}/x")
        assert (span.status == "ERROR") == (status >= 500) == ("error.type" in said)
        assert span.start_ns < span.end_ns
    assert "s3cret" not in str([(span.name, span.attributes) for span in spans])


def check_joined(spans: list[ReceivedSpan]) -> None:
    """Each that was received is below the span that sent it."""
    sent, received = numbered(spans, "CLIENT"), numbered(spans, "SERVER")
    for number, (span,) in received.items():
        (asked,) = sent[number]
        assert (span.parent_span_id, span.trace_id) == (asked.span_id, asked.trace_id)


@pytest.mark.parametrize(("threads", "each", "size"), [(8, 40, 40000), (1, 60, 3000)])
def test_grpc(threads: int, each: int, size: int, tmp_path: Path) -> None:
    """Unary calls and streams, refused, unknown, with bodies of many frames: both ends, joined."""
    with databases.reserved_port() as port:
        command = [sys.executable, GRPC_APP, "both", str(port), str(threads), str(each), str(size)]
        ran = runs.run(tmp_path, profile(tmp_path, "GRPC", "Client", "Server"), *command)
    assert ran.status == 0, ran.stderr
    asked = json.loads(ran.stdout)
    for kind in ("CLIENT", "SERVER"):
        check_grpc(ran.spans, asked, kind)
    check_joined(ran.spans)
    assert ran.report["requests"]["untold"] == 0
    by_id = {span.span_id: span for span in ran.spans}
    above = Counter(
        "call" in {name.rpartition(".")[2] for name in databases.names_above(span, by_id)}
        for span in ran.spans
        if span.kind == "CLIENT"
    )
    if threads == 1:  # who asks is who sends, until gRPC's own thread does it once
        assert above[True] > 0
    else:  # any of them may send what another asked
        assert above[True] <= threads


def test_grpc_client_that_was_there_before(tmp_path: Path) -> None:
    """Its connection is joined in its middle: what its headers refer to was not seen. What is told is right, the rest counted."""
    with databases.reserved_port() as port, subprocess.Popen([sys.executable, GRPC_APP, "server", str(port)]) as server:
        command = [sys.executable, GRPC_APP, "client", str(port), "4", "30", "3000", "wait"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stdout.readline() == b"waiting\n"
            with runs.attached(tmp_path, profile(tmp_path, "GRPC", "Client"), "--pid", str(program.pid)) as agent:
                said, _ = program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
                ran = agent.finish()
        server.terminate()
    asked = {number: (path[1:], code) for number, path, code in json.loads(said)}
    for number, spans in numbered(ran.spans, "CLIENT").items():
        (span,) = spans
        path, code = asked[number]
        assert span.attributes["rpc.method"] in (path, "_OTHER")
        assert span.attributes.get("rpc.response.status_code") in (code, None)
    told = sum(span.kind == "CLIENT" for span in ran.spans)
    assert ran.report["requests"]["untold"] + told >= 0.9 * len(asked)
    assert ran.report["requests"]["untold"] > 0


def test_the_example(tmp_path: Path) -> None:
    """examples/21-grpc.yaml: each call at both ends."""
    example = Path(__file__).resolve().parents[2] / "examples" / "21-grpc.yaml"
    with databases.reserved_port() as port:
        ran = runs.run(tmp_path, example, sys.executable, GRPC_APP, "both", str(port), "2", "5", "0")
    found = [
        (span.kind, span.attributes["rpc.response.status_code"])
        for span in ran.spans
        if "rpc.method" in span.attributes
    ]
    assert Counter(found) == {(kind, "OK"): 10 for kind in ("CLIENT", "SERVER")}


def test_what_is_not_asked_for_is_not_told(tmp_path: Path) -> None:
    """A call of gRPC is no plain request of HTTP."""
    with databases.reserved_port() as port:
        command = [sys.executable, GRPC_APP, "both", str(port), "2", "5", "0"]
        ran = runs.run(tmp_path, profile(tmp_path, "HTTP", "Client", "Server"), *command)
    assert ran.status == 0
    assert not [span for span in ran.spans if span.kind in ("CLIENT", "SERVER")]


def test_more_at_once_than_are_followed(tmp_path: Path) -> None:
    """300 answers may come by one call, more frames than the kernel's program follows: some may lack their status, none has
    another's, and each is told once at most.
    """
    with databases.reserved_port() as port:
        command = [compiled_go("http2_go"), f"127.0.0.1:{port}", "300", "60000", "300"]
        ran = runs.run(tmp_path, profile(tmp_path, "HTTP", "Client", "Server"), *command)
    assert ran.status == 0, ran.stderr
    asked = {int(each["Number"]): each for each in json.loads(ran.stdout)}
    for kind in ("CLIENT", "SERVER"):
        found = numbered([span for span in ran.spans if "http.request.method" in span.attributes], kind)
        assert found.keys() <= asked.keys()
        for number, spans in found.items():
            (span,) = spans
            method, status = asked[number]["Method"], asked[number]["Status"]
            assert span.attributes["http.request.method"] == method
            assert span.attributes.get("http.response.status_code", status) == status


@pytest.mark.parametrize("kind", ["go", "python"])
def test_http(kind: str, tmp_path: Path) -> None:
    """Go's net/http with itself; hypercorn asked by httpx: both ends, joined, a hundred streams side by side."""
    with databases.reserved_port() as port:
        if kind == "go":
            command: list[str | Path] = [compiled_go("http2_go"), f"127.0.0.1:{port}", "300", "60000", "100"]
        else:
            python = venvs.library_venv(HTTP2_VENV) / "bin" / "python"
            command = [python, runs.PROGRAMS / "http2_app.py", str(port), "6", "30", "30000"]
        ran = runs.run(tmp_path, profile(tmp_path, "HTTP", "Client", "Server"), *command)
    assert ran.status == 0, ran.stderr
    asked = [tuple(each.values()) if isinstance(each, dict) else tuple(each) for each in json.loads(ran.stdout)]
    for end in ("CLIENT", "SERVER"):
        check_http(
            [span for span in ran.spans if "http.request.method" in span.attributes or span.kind == "INTERNAL"],
            asked,
            end,
        )
    check_joined(ran.spans)
    assert ran.report["requests"]["untold"] == 0
