# SPDX-License-Identifier: Apache-2.0
"""The operator's own traces, by opentelemetry-sdk, only when asked for: a change, the plans sent for it, their acknowledgement.

Where they go and as what is said by the environment: OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
They are sent from a thread of the SDK's; a collector that is away costs spans and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from kernelspan_operator.models.spans import Spans

SERVICE = "kernelspan-operator"


def start(environ: Mapping[str, str]) -> tuple[Spans, Callable[[], None]]:
    """What takes spans from now on, and what ends that after the rest was sent."""
    version = metadata.version("kernelspan")
    named = {"service.name": environ.get("OTEL_SERVICE_NAME") or SERVICE, "service.version": version}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("kernelspan", version)

    def spans(
        name: str, start_ns: int, end_ns: int, attributes: Mapping[str, str | int], parent: object = None
    ) -> object:
        context = trace.set_span_in_context(parent) if isinstance(parent, trace.Span) else None
        span = tracer.start_span(name, context, attributes=attributes, start_time=start_ns)
        span.end(end_ns)
        return span

    return spans, provider.shutdown
