# SPDX-License-Identifier: Apache-2.0
"""Answers of servers, whatever their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from kernelspan_agent.export.answers import printable, retry_info_s, status_message, taken
from kernelspan_agent.export.sender import Answer
from kernelspan_agent.export.wire import fields, signed, varint
from tests.unit.export.servers import retry_info


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
def test_partial_success(rejected: int, message: str) -> None:
    """What protobuf's own encoder wrote is read; a negative count is none."""
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    outcome = taken(ExportTraceServiceResponse(partial_success=partial).SerializeToString())
    assert outcome.answer is Answer.TAKEN
    assert outcome.rejected == max(0, rejected)
    assert outcome.message == printable(message)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """No bytes raise, and what is read of them is safe to print and no negative number."""
    outcome = taken(data)
    assert outcome.rejected >= 0
    assert outcome.message.isprintable()
    assert status_message(data).isprintable()
    assert (retry_info_s(data) or 0) >= 0


@given(st.binary(max_size=60))
def test_cut_off_anywhere(noise: bytes) -> None:
    """A RetryInfo that is cut off or followed by noise is read or ignored, never an error."""
    whole = retry_info(3, 500_000_000)
    assert retry_info_s(whole) == pytest.approx(3.5)
    for end in range(len(whole)):
        seconds = retry_info_s(whole[:end] + noise)
        assert seconds is None or seconds >= 0
        assert noise or seconds in (None, 0.0, 3.0) or end == len(whole)


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint(value: int) -> None:
    """A varint is read back as the int64 it was."""
    ((number, raw),) = fields(b"\x08" + varint(value))
    assert isinstance(raw, int)
    assert (number, signed(raw)) == (1, value)


@pytest.mark.parametrize("data", [b"\x08", b"\x08" + b"\xff" * 11, b"\x0a\x05ab", b"\x0b", b"\x09abc", b"\xff" * 20])
def test_malformed(data: bytes) -> None:
    """Bytes that are no message are an error, not another message."""
    with pytest.raises(ValueError, match=r"malformed|truncated|unknown"):
        list(fields(data))


def test_long_words() -> None:
    """A server's words are bounded."""
    assert len(printable("x" * 10_000)) == 301
    assert printable(b"\xff\x1b[2J\xe2\x80\xae") == "\\xff\\x1b[2J\\x202e"
