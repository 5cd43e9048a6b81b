# SPDX-License-Identifier: Apache-2.0
"""Our exporters against the real OpenTelemetry collector: same spans, TLS, deaths, load; and its own file format."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kernelspan_agent.export.jsonfile import JsonFileExporter
from kernelspan_agent.export.otlp import open_output
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.settings import settings_from
from kernelspan_agent.model import SPAN, VALUE_KEYS, Kind, Resource, Segment, SpanBatch
from tests.support.collector import Collector
from tests.support.fixtures import StartCollector
from tests.support.tls import TlsFiles
from tests.unit.export.servers import outcome
from tests.unit.export.spans import batch_of

CLOSE_S = 30.0
LIMITS = QueueLimits(max_queue_spans=1_000_000, schedule_delay_s=0.0)


def rich_batch() -> SpanBatch:
    """Spans with every kind of attribute, extreme numbers, errors, an undecodable name, and with nothing at all."""
    batch = batch_of(6, operations=4)
    batch.resources = [
        Resource({"service.name": "shop", "process.pid": 4242}),
        Resource({"service.name": "naïve ☃", "service.instance.id": "b"}),
    ]
    batch.rows["resource"] = [0, 1, 0, 1, 0, 0]
    batch.rows["values"][1] = (-(2**63), 2**63 - 1)
    batch.rows["value_keys"][1] = (VALUE_KEYS.index("kernelspan.result"), VALUE_KEYS.index("kernelspan.argument"))
    path = b"/tmp/\xff\n".decode("utf-8", "surrogateescape")
    batch.segments[1, 0] = Segment({"file.path": path, "ok": True, "list": ("a", "b")}, "file.open", Kind.CLIENT)
    batch.segments[1, 1] = Segment({"error.type": "ENOENT"}, error="ENOENT")
    batch.resources.append(Resource({}))
    batch.rows["resource"][5] = 2
    batch.rows["value_keys"][5] = 0
    batch.segments[5, 0] = None
    batch.segments[4, 0] = Segment({"none": (), "zero": 0, "no": False, "empty": ("",)}, error="\x7f\u2028<&>")
    return batch


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_the_collector_understood(collector: Collector, tmp_path: Path, protocol: str, compression: str) -> None:
    """The collector's own file exporter writes what we sent exactly as our file exporter writes the same spans."""
    endpoint = f"http://{collector.grpc_endpoint}" if protocol == "grpc" else collector.http_endpoint
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_COMPRESSION": compression}
    path = tmp_path / "ours.jsonl"
    pipeline = Pipeline([open_output(settings_from(environ, endpoint)), JsonFileExporter(str(path))], LIMITS)
    pipeline.export(rich_batch())
    pipeline.close(CLOSE_S)
    assert outcome(pipeline.counters.snapshot()) == (4, 0, 0, 0)
    (theirs,) = collector.requests()
    ours = json.loads(path.read_text("utf-8"))
    for request in (theirs, ours):
        for resource_spans in request["resourceSpans"]:
            for span in resource_spans["scopeSpans"][0]["spans"]:
                span.get("attributes", []).sort(key=lambda pair: pair["key"])
    assert ours == theirs


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_mutual_tls(start_collector: StartCollector, tls_files: TlsFiles, protocol: str) -> None:
    """A collector that wants a client certificate gets spans with it and none without."""
    collector = start_collector(tls=tls_files, client_ca=tls_files.ca)
    endpoint = f"https://{collector.grpc_endpoint}" if protocol == "grpc" else collector.http_endpoint
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tls_files.ca)}
    bare = Pipeline([open_output(settings_from(environ, endpoint))], LIMITS)
    bare.export(batch_of(2))
    bare.close(0.5)
    assert outcome(bare.counters.snapshot()) == (0, 0, 2, 0)
    environ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(tls_files.client_certificate)
    environ["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(tls_files.client_key)
    pipeline = Pipeline([open_output(settings_from(environ, endpoint))], LIMITS)
    pipeline.export(batch_of(3, first_id=10))
    pipeline.close(CLOSE_S)
    assert outcome(pipeline.counters.snapshot()) == (3, 0, 0, 0)
    assert [int(span.span_id, 16) for span in collector.spans()] == [10, 11, 12]


def _wait_for_retry(pipeline: Pipeline) -> None:
    deadline = time.monotonic() + CLOSE_S
    while not pipeline.counters.snapshot().retries and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pipeline.counters.snapshot().retries


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_killed_and_restarted(collector: Collector, protocol: str) -> None:
    """Nothing is lost when the collector is killed between batches and comes back while we retry."""
    endpoint = f"http://{collector.grpc_endpoint}" if protocol == "grpc" else collector.http_endpoint
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    pipeline = Pipeline([open_output(settings_from(environ, endpoint))], LIMITS)
    pipeline.export(batch_of(5))
    collector.wait_for_spans(5)
    collector.kill()
    pipeline.export(batch_of(7, first_id=100))
    _wait_for_retry(pipeline)
    collector.restart()
    pipeline.export(batch_of(2, first_id=200))
    pipeline.close(CLOSE_S)
    assert outcome(pipeline.counters.snapshot()) == (14, 0, 0, 0)
    received = [int(span.span_id, 16) for span in collector.spans()]
    assert sorted(received) == [*range(1, 6), *range(100, 107), 200, 201]


def test_killed_under_load(collector: Collector) -> None:
    """Killed in the midst of requests: what counts as exported is there, what counts as dropped is all that may lack."""
    pipeline = Pipeline([open_output(settings_from({}, collector.grpc_endpoint), LIMITS)], LIMITS)
    for number in range(100):
        pipeline.export(batch_of(500, first_id=1 + number * 500))
        if number == 50:
            collector.wait_for_spans(500)
            collector.kill()
    _wait_for_retry(pipeline)
    collector.restart()
    pipeline.close(CLOSE_S)
    exported, full, failed, in_flight = outcome(pipeline.counters.snapshot())
    assert (exported + full + failed, in_flight) == (50_000, 0)
    assert len({span.span_id for span in collector.spans()}) >= exported
    assert exported == 50_000


def test_load(start_collector: StartCollector) -> None:
    """Half a million spans of many shapes, by the collector's own count: none lost, none twice, none refused."""
    collector = start_collector(keep_percent=0)
    pipeline = Pipeline([open_output(settings_from({}, collector.grpc_endpoint), LIMITS)], LIMITS)
    count, each = 50, 10_000
    for number in range(count):
        batch = batch_of(each, first_id=1 + number * each)
        batch.rows["values"][:, 1] = number - 25
        batch.rows["value_keys"][:: number + 1, 1] = VALUE_KEYS.index("kernelspan.result")
        assert batch.rows.dtype == SPAN
        pipeline.export(batch)
    pipeline.close(CLOSE_S)
    assert outcome(pipeline.counters.snapshot()) == (count * each, 0, 0, 0)
    assert collector.accepted_spans() == count * each
    assert collector.refused_spans() == 0
