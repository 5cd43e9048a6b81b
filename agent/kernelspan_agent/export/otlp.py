# SPDX-License-Identifier: Apache-2.0
"""The output that sends OTLP, by gRPC or by HTTP."""

from __future__ import annotations

from kernelspan_agent.export.encode import Bounds
from kernelspan_agent.export.queue import QueueLimits
from kernelspan_agent.export.sender import OtlpOutput, Transport
from kernelspan_agent.export.settings import GRPC, OtlpSettings


def open_output(settings: OtlpSettings, limits: QueueLimits | None = None) -> OtlpOutput:
    """The output that sends so. Imports grpc, or http.client, here. Raises UsageError for certificates of no use."""
    limits = limits or QueueLimits()
    transport: Transport
    if settings.protocol == GRPC:
        from kernelspan_agent.export.otlp_grpc import GrpcTransport  # noqa: PLC0415 - 4 MB resident

        transport = GrpcTransport(settings)
    else:
        from kernelspan_agent.export.otlp_http import HttpTransport  # noqa: PLC0415 - 2 MB resident, 2 more with TLS

        transport = HttpTransport(settings)
    return OtlpOutput(
        f"otlp {settings.url}",
        transport,
        timeout_s=settings.timeout_s,
        export_timeout_s=limits.export_timeout_s,
        bounds=Bounds(max_spans=limits.max_batch_spans),
    )
