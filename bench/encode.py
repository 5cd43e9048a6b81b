# SPDX-License-Identifier: Apache-2.0
"""How many spans a CPU-second export/ encodes, and encodes and sends to a real collector; 6 attributes a span.

    python bench/encode.py [--spans N] [--batch N] [--files N] [--codes N] [--rounds N] [--json]

Own CPU time only (all threads of this process, gRPC's too), the median and the best of several rounds; the collector
runs as another process and keeps nothing. Each span has one integer of its own, a file (one of --files), and a function,
file, line and thread name (one of --codes): together so many different combinations, which is what the cost depends on.
`--profile` prints where the time of encoding goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kernelspan_agent.export.encode import encode
from kernelspan_agent.export.jsontext import lines
from kernelspan_agent.export.otlp import open_output
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.settings import settings_from
from kernelspan_agent.model import SPAN, VALUE_KEYS, Kind, Resource, Segment, SpanBatch
from tests.support.collector import Collector, CollectorOptions
from tools.build import build

BASE_NS = 1_790_000_000_000_000_000
CLOSE_S = 120.0


def make_batches(spans: int, size: int, files: int, codes: int) -> list[SpanBatch]:
    """Batches of operations under random parents, as the tracer gives them."""
    random = np.random.default_rng(1)
    resource = Resource({"service.name": "bench", "process.pid": 4242})
    pools = (
        [Segment({"file.path": f"/var/lib/app/data/{at}.db"}, "file.read", Kind.INTERNAL) for at in range(files)],
        [
            Segment(
                {
                    "code.function.name": f"shop.orders.Orders.step{at}",
                    "code.file.path": "/app/shop/orders.py",
                    "code.line.number": at,
                    "thread.name": f"worker-{at % 8}",
                }
            )
            for at in range(codes)
        ],
    )
    made = []
    for first in range(0, spans, size):
        count = min(size, spans - first)
        rows = np.zeros(count, SPAN)
        rows["trace_id"] = random.integers(1, 1 << 62, (count, 2))
        rows["span_id"], rows["parent_id"] = random.integers(1, 1 << 62, (2, count))
        rows["start_ns"] = BASE_NS + random.integers(0, 1 << 40, count)
        rows["end_ns"] = rows["start_ns"] + random.integers(0, 1 << 20, count).astype(np.uint64)
        rows["values"][:, 0] = random.integers(0, 1 << 16, count)
        rows["value_keys"][:, 0] = VALUE_KEYS.index("kernelspan.io.transferred")
        segments = np.full((count, 3), None, object)
        for column, pool in enumerate(pools):
            segments[:, column] = np.array(pool, object)[random.integers(0, len(pool), count)]
        made.append(SpanBatch(rows, segments, [resource], count))
    return made


def cpu_ns(work: Callable[[], object]) -> int:
    """CPU time of this process that the work takes."""
    began = time.process_time_ns()
    work()
    return time.process_time_ns() - began


def encode_all(batches: list[SpanBatch]) -> int:
    """Bytes of all requests."""
    return sum(len(request.payload) for batch in batches for request in encode(batch))


def json_all(batches: list[SpanBatch]) -> int:
    """Bytes of all lines."""
    return sum(len(line.text) for batch in batches for line in lines(batch))


def send_all(batches: list[SpanBatch], endpoint: str, environ: dict[str, str]) -> None:
    """Through a pipeline of its own to its end. Raises SystemExit if a span was lost: then the figure says nothing."""
    limits = QueueLimits(max_queue_spans=sum(map(len, batches)))
    pipeline = Pipeline([open_output(settings_from(environ, endpoint), limits)], limits)
    for batch in batches:
        pipeline.export(batch)
    pipeline.close(CLOSE_S)
    snapshot = pipeline.counters.snapshot()
    if snapshot.spans_exported != sum(map(len, batches)):
        raise SystemExit(f"not all spans were taken: {snapshot}")


def measure(batches: list[SpanBatch], rounds: int, collector: Collector) -> dict[str, list[int]]:
    """CPU nanoseconds a round by what was done; one round before them all is thrown away."""
    http = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    gzip = {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    variants: dict[str, Callable[[], object]] = {
        "encode": lambda: encode_all(batches),
        "encode_json": lambda: json_all(batches),
        "send_grpc": lambda: send_all(batches, collector.grpc_endpoint, {}),
        "send_grpc_gzip": lambda: send_all(batches, collector.grpc_endpoint, gzip),
        "send_http": lambda: send_all(batches, collector.http_endpoint, http),
    }
    costs: dict[str, list[int]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, work in variants.items():
            cost = cpu_ns(work)
            if turn:
                costs[name].append(cost)
    return costs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=4096, help="spans of one batch of the tracer's")
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--codes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    batches = make_batches(options.spans, options.batch, options.files, options.codes)
    size = encode_all(batches)
    if options.profile:
        cProfile.runctx("encode_all(batches)", globals(), {"batches": batches}, sort="tottime")
        return
    binary = build(("otelcol",), lambda text: print(text, file=sys.stderr))["otelcol"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Collector(binary, Path(folder), CollectorOptions(keep_percent=0)) as collector,
    ):
        costs = measure(batches, options.rounds, collector)
    result: dict[str, float] = {"spans": options.spans, "bytes_per_span": round(size / options.spans, 1)}
    for name, rounds in costs.items():
        result[f"{name}_spans_per_cpu_second"] = round(options.spans / statistics.median(rounds) * 1e9)
        result[f"{name}_spans_per_cpu_second_best"] = round(options.spans / min(rounds) * 1e9)
    print(json.dumps(result) if options.json else "\n".join(f"{key:44} {value:>12,}" for key, value in result.items()))


if __name__ == "__main__":
    main()
