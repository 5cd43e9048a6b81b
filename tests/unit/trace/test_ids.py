# SPDX-License-Identifier: Apache-2.0
"""Ids and sampling; opentelemetry-sdk's sampler says what is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from kernelspan_agent.trace import Orphans
from kernelspan_agent.trace.ids import IdSource, ratio_bound, sampled_mask
from tests.unit.trace.builders import Op, at, batch, process, spans, stack, tracer

PLACE = stack("main@1 load@3")
HIGHEST = (1 << 64) - 1


@given(st.integers(0, 100), st.integers(1, HIGHEST), st.integers(0, HIGHEST), st.integers(-1, 1))
@example(100, 1, HIGHEST, 0)
@example(0, 1, 0, 0)
def test_sampling_is_the_sdks(percent: int, high: int, low: int, near: int) -> None:
    """For any trace id, and for those next to the bound, the decision is TraceIdRatioBased's."""
    sampler, bound = TraceIdRatioBased(percent / 100), ratio_bound(percent)
    for half in (low, min(max(bound + near, 0), HIGHEST)):
        expected = sampler.should_sample(None, high << 64 | half, "x").decision is Decision.RECORD_AND_SAMPLE
        assert sampled_mask(np.array([half], np.uint64), bound).tolist() == [expected] == [half < bound]


@pytest.mark.parametrize("orphans", [Orphans.ACTIVITY, Orphans.ROOT])
def test_a_trace_is_sampled_as_a_whole(orphans: Orphans) -> None:
    """What goes out are the traces whose id says so, with all their spans; the rest is counted."""
    subject, app = tracer(percent=30, orphans=orphans), process()
    ops = [Op(i, i + 1, PLACE, app, tid=i % 100) for i in range(400)]
    out = subject.process(batch(*ops))
    found = spans(out, subject.close(at(401)))
    sampler = TraceIdRatioBased(0.3)
    assert all(sampler.should_sample(None, span.trace, "x").decision is Decision.RECORD_AND_SAMPLE for span in found)
    assert 0 < out.operations < 400
    assert out.operations + subject.counters.operations_sampled_out == 400
    if orphans is Orphans.ACTIVITY:
        assert {span.operations for span in found if span.is_activity} == {4}
        assert sum(span.operations for span in found if span.is_activity) == out.operations


def test_nothing_is_sampled_at_zero() -> None:
    """0 percent: no span of any kind, every operation counted."""
    subject, job = tracer(percent=0), process("job", started_ms=0, new=True)
    subject.process_started(job)
    subject.process_ended(job, at(9))
    out = subject.process(batch(*(Op(i, i + 1, PLACE, job) for i in range(5))))
    assert (len(out), len(subject.close(at(9))), subject.counters.operations_sampled_out) == (0, 0, 5)
    assert out.resources == []


def test_a_child_process_shares_the_decision_of_its_trace() -> None:
    """No child of a trace that is not sampled goes out, and all of one that is."""
    subject, found, jobs = tracer(percent=50), [], []
    for _ in range(40):
        shell = process("sh", started_ms=0, new=True)
        job = process("job", started_ms=1, parent=shell, new=True)
        subject.process_started(shell)
        subject.process_started(job)
        jobs += [Op(2, 3, PLACE, shell), Op(2, 3, PLACE, job)]
    found = spans(subject.process(batch(*jobs)), subject.close(at(9)))
    by_trace: dict[int, set[str]] = {}
    for span in found:
        if span.is_activity:
            by_trace.setdefault(span.trace, set()).add(span.name)
    assert 0 < len(by_trace) < 40
    assert all(names == {"activity sh", "activity job"} for names in by_trace.values())


def test_ids_are_distinct_and_not_zero() -> None:
    """Thousands of them, from both ways of drawing."""
    source = IdSource()
    drawn = source.many(5000).tolist() + [source.one() for _ in range(9000)]
    assert 0 not in drawn
    assert len(set(drawn)) == 14_000


def test_two_sources_have_nothing_in_common() -> None:
    """The seed is the kernel's entropy, not a constant."""
    assert not set(IdSource().many(100).tolist()) & set(IdSource().many(100).tolist())


def test_ids_are_spread_over_all_bits() -> None:
    """Each of the 64 bits is set about half of the time."""
    bits = np.unpackbits(IdSource(b"bits").many(20_000).view(np.uint8)).reshape(20_000, 64)
    assert (abs(bits.mean(axis=0) - 0.5) < 0.02).all()
