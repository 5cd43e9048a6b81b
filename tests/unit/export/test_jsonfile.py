# SPDX-License-Identifier: Apache-2.0
"""OTLP/JSON lines say what our protobuf says, and survive a full disk."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.encode import encode
from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.export.jsontext import lines
from kernelspan_agent.model import Resource, Segment, SpanBatch
from tests.unit.export.servers import outcome
from tests.unit.export.spans import batch_of, batches, by_sdk, normalised, parsed


def read_back(line: bytes) -> ExportTraceServiceRequest:
    """The request in a line, by protobuf's own JSON reader; OTLP's ids are hex where protobuf's JSON has base64."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    content: dict[str, Any] = json.loads(line)
    for resource_spans in content["resourceSpans"]:
        for span in resource_spans["scopeSpans"][0]["spans"]:
            for key, size in (("traceId", 32), ("spanId", 16), ("parentSpanId", 16)):
                if key == "parentSpanId" and key not in span:
                    continue
                assert len(span[key]) == size
                span[key] = b64encode(bytes.fromhex(span[key])).decode()
            assert isinstance(span["startTimeUnixNano"], str)
            assert isinstance(span["kind"], int)
    return json_format.ParseDict(content, ExportTraceServiceRequest())


@given(batches())
def test_same_as_sdk(batch: SpanBatch) -> None:
    """A line, read by protobuf's JSON reader, is the SDK's message."""
    (line,) = lines(batch)
    assert normalised(read_back(line.text)) == normalised(by_sdk(batch))


@given(batches(), st.integers(1, 4))
def test_rows(batch: SpanBatch, most: int) -> None:
    """Every row stands in exactly one line, and lines keep their bound."""
    some = list(lines(batch, most))
    assert sorted(row for line in some for row in line.rows.tolist()) == list(range(len(batch)))
    for line in some:
        spans = [span for one in read_back(line.text).resource_spans for span in one.scope_spans[0].spans]
        assert [int.from_bytes(span.span_id, "big") for span in spans] == batch.rows["span_id"][line.rows].tolist()
        assert len(spans) <= most


def test_hostile_text() -> None:
    """File names that are no text give valid JSON, with the same words as in protobuf."""
    batch = batch_of(1)
    bad = b'\xff\n"\\\x00\x1b'.decode("utf-8", "surrogateescape") + "\ud800\u2028é"
    batch.segments[0, 0] = Segment({bad: bad, "n": 1 << 70}, name=bad, error=bad)
    batch.resources = [Resource({bad: (bad,)})]
    ((line,), (request,)) = lines(batch), encode(batch)
    assert normalised(read_back(line.text)) == normalised(parsed(request.payload))


def test_file(tmp_path: Path) -> None:
    """A file of earlier is emptied; each batch is a line; counters say so."""
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    exporter = JsonFileExporter(str(path))
    exporter.export(batch_of(3, operations=2))
    exporter.export(batch_of(2, first_id=10))
    exporter.close()
    written = path.read_bytes().splitlines(keepends=True)
    assert [len(read_back(line).resource_spans[0].scope_spans[0].spans) for line in written] == [3, 2]
    snapshot = exporter.counters.snapshot()
    assert outcome(snapshot) == (4, 0, 0, 0)
    assert (snapshot.requests, snapshot.bytes) == (2, path.stat().st_size)


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """`-` is standard output, which stays open."""
    exporter = JsonFileExporter("-")
    exporter.export(batch_of(1))
    exporter.close()
    os.write(1, b"still open\n")
    first, second = capfd.readouterr().out.splitlines(keepends=True)
    assert len(read_back(first.encode()).resource_spans) == 1
    assert second == "still open\n"


def test_no_space(caplog: pytest.LogCaptureFixture) -> None:
    """A device that is full costs the spans, is told of once, and stops nothing."""
    exporter = JsonFileExporter("/dev/full")
    for _ in range(3):
        exporter.export(batch_of(4, operations=3))
    exporter.close()
    assert outcome(exporter.counters.snapshot()) == (0, 0, 9, 0)
    assert exporter.counters.snapshot().last_error == "/dev/full: cannot be written: No space left on device"
    assert caplog.text.count("No space left") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        # A test that fails leaves its file open in the traceback: the mount must go all the same.
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a disk that fills up every line that stands is whole; when there is room again, writing goes on."""
    path, ballast = small_disk / "out.jsonl", small_disk / "ballast"
    ballast.write_bytes(b"x" * 40_000)
    exporter = JsonFileExporter(str(path))
    for first in range(1, 400, 10):
        exporter.export(batch_of(10, first_id=first))
    kept = path.read_bytes().splitlines(keepends=True)
    exported, _, failed, _ = outcome(exporter.counters.snapshot())
    assert [len(read_back(line).resource_spans[0].scope_spans[0].spans) for line in kept] == [10] * (exported // 10)
    assert 0 < exported < 400
    assert exported + failed == 400
    assert caplog.text.count("No space left on device") == 1
    ballast.unlink()
    exporter.export(batch_of(10, first_id=1000))
    exporter.close()
    last = read_back(path.read_bytes().splitlines(keepends=True)[-1]).resource_spans[0].scope_spans[0].spans
    assert int.from_bytes(last[0].span_id, "big") == 1000


def test_pipe_that_nobody_reads(tmp_path: Path) -> None:
    """A pipe whose reader has gone costs the spans, and no signal."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    exporter = JsonFileExporter(str(path))
    os.close(reader)
    exporter.export(batch_of(2))
    exporter.close()
    assert outcome(exporter.counters.snapshot()) == (0, 0, 2, 0)


@pytest.mark.parametrize("path", ["", "/nonexistent/x", "/", "a\0b"])
def test_bad_path(path: str) -> None:
    """A file that cannot be made is refused at the start."""
    with pytest.raises(UsageError, match="--output") as caught:
        JsonFileExporter(path)
    assert caught.value.hint
