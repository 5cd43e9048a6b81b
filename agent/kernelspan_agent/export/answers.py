# SPDX-License-Identifier: Apache-2.0
"""What servers answer, read with suspicion: ExportTraceServiceResponse, google.rpc.Status, RetryInfo.

Layouts: opentelemetry-proto collector/trace/v1/trace_service.proto; googleapis google/rpc/status.proto,
google/rpc/error_details.proto, google/protobuf/duration.proto.
"""

from __future__ import annotations

from kernelspan_agent.export.sender import Answer, Outcome
from kernelspan_agent.export.wire import fields, signed

MAX_ANSWER_BYTES = 1 << 16
_MAX_MESSAGE = 300
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def printable(raw: bytes | str) -> str:
    """A server's words on one line, bounded, fit for a terminal."""
    words = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    clean = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in words[: _MAX_MESSAGE + 1])
    return clean if len(words) <= _MAX_MESSAGE else clean[:_MAX_MESSAGE] + "…"


def taken(answer: bytes) -> Outcome:
    """The outcome of a call that succeeded, by its ExportTraceServiceResponse. An answer that is none is a refusal."""
    rejected, message = 0, b""
    try:
        for number, value in fields(answer):
            if number == 1 and isinstance(value, bytes):
                for inner, item in fields(value):
                    if inner == 1 and isinstance(item, int):
                        rejected = signed(item)
                    elif inner == 2 and isinstance(item, bytes):
                        message = item
    except ValueError as error:
        return Outcome(Answer.REFUSED, f"the answer is no OTLP response: {error}")
    return Outcome(Answer.TAKEN, printable(message), max(0, rejected))


def status_message(status: bytes) -> str:
    """`message` of a google.rpc.Status; "" where the bytes are none."""
    try:
        found = [value for number, value in fields(status) if number == 2 and isinstance(value, bytes)]
    except ValueError:
        return ""
    return printable(found[-1]) if found else ""


def retry_info_s(status: bytes) -> float | None:
    """Seconds of the RetryInfo among the details of a google.rpc.Status; None: there is none."""
    try:
        for number, detail in fields(status):
            if number == 3 and isinstance(detail, bytes):
                parts = dict(fields(detail))
                if parts.get(1) == _RETRY_INFO.encode():
                    return _retry_delay_s(parts.get(2, b""))
    except ValueError:
        pass
    return None


def _retry_delay_s(info: int | bytes) -> float:
    delay = dict(fields(info)).get(1, b"") if isinstance(info, bytes) else b""
    parts = dict(fields(delay)) if isinstance(delay, bytes) else {}
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if isinstance(seconds, bytes) or isinstance(nanos, bytes):
        return 0.0
    return max(0.0, signed(seconds) + signed(nanos) / 1e9)
