# SPDX-License-Identifier: Apache-2.0
"""The agent's own traces (open, compile, load, attach, export, detach), by opentelemetry-sdk, only when asked for.

They go where the traced programs' spans go, by a connection of their own with the same settings, as the service
`kernelspan-agent`. What the SDK would take from the environment about sampling and resources is not taken: those
variables speak of the traced programs. The sending of these spans makes none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import StatusCode

from kernelspan_agent import selftrace
from kernelspan_agent.export.otlp import open_output
from kernelspan_agent.export.settings import OtlpSettings
from kernelspan_agent.model import SPAN, AttributeValue, Kind, Resource, Segment, SpanBatch

if TYPE_CHECKING:
    from kernelspan_agent.export.base import Output

SERVICE = "kernelspan-agent"
_WORD = (1 << 64) - 1


def resource_attributes() -> Mapping[str, AttributeValue]:
    """Who the agent is."""
    return {
        "service.name": SERVICE,
        "service.version": metadata.version("kernelspan"),
        "process.pid": os.getpid(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": metadata.version("opentelemetry-sdk"),
    }


def start(settings: OtlpSettings) -> Callable[[float], None]:
    """Makes the agent's own spans from now on; gives what ends it and sends the rest, in at most so many seconds.

    Raises UsageError for certificates of no use.
    """
    output = open_output(settings)
    exporter = OutputExporter(output)
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=SdkResource(dict(resource_attributes())), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("kernelspan", metadata.version("kernelspan"))

    @contextlib.contextmanager
    def span(name: str, attributes: dict[str, str | int]) -> Iterator[object]:
        with tracer.start_as_current_span(name, attributes=attributes) as started:
            yield started

    uninstall = selftrace.install(span)

    def stop(timeout_seconds: float) -> None:
        uninstall()
        watch = threading.Timer(timeout_seconds, output.abort)  # the SDK waits for the exporter as long as that takes
        watch.start()
        try:
            provider.shutdown()
        finally:
            watch.cancel()

    return stop


class OutputExporter(SpanExporter):
    """The SDK's spans through one of our outputs: the same bytes, settings and retries as every other span."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._resource = Resource(resource_attributes())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        with selftrace.quiet():
            fates = self._output.deliver(batch_of(spans, self._resource))
        return SpanExportResult.SUCCESS if fates is None or not fates.any() else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._output.close()


def batch_of(spans: Sequence[ReadableSpan], resource: Resource) -> SpanBatch:
    """SDK spans as a batch. No row of it is an operation. Events and links are left out: ours have none."""
    rows = np.zeros(len(spans), SPAN)
    segments = np.full((len(spans), 1), None, object)
    for index, span in enumerate(spans):
        row, context = rows[index], span.get_span_context()
        assert context is not None
        row["trace_id"] = (context.trace_id >> 64, context.trace_id & _WORD)
        row["span_id"] = context.span_id
        row["parent_id"] = span.parent.span_id if span.parent else 0
        row["start_ns"], row["end_ns"] = span.start_time or 0, span.end_time or 0
        failed = span.status.status_code is StatusCode.ERROR
        error = (span.status.description or "error") if failed else ""
        attributes = {
            key: value for key, value in (span.attributes or {}).items() if isinstance(value, (str, bool, int))
        }
        segments[index, 0] = Segment(attributes, name=span.name, kind=Kind.INTERNAL, error=error)
    return SpanBatch(rows, segments, [resource], 0)
