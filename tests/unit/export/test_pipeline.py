# SPDX-License-Identifier: Apache-2.0
"""Every operation is accounted for once, whatever the outputs do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.errors import UsageError
from kernelspan_agent.export.counters import ExportCounters, Fate
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.export.queue import SETTLE_S, QueueLimits, SpanQueue, limits_from
from kernelspan_agent.model import SpanBatch
from tests.unit.export.servers import outcome
from tests.unit.export.spans import batch_of

WAIT_S = 10.0


class Recorder:
    """An Output that does what the test says."""

    def __init__(self, act: Callable[[SpanBatch], np.ndarray | None] = lambda _: None, name: str = "recorder") -> None:
        self.name = name
        self.counters = ExportCounters()
        self.ids: list[int] = []
        self.started, self.released, self.aborted = threading.Event(), threading.Event(), threading.Event()
        self.closed = False
        self._act = act

    def deliver(self, batch: SpanBatch) -> np.ndarray | None:
        self.started.set()
        self.ids += batch.rows["span_id"].tolist()
        return self._act(batch)

    def abort(self) -> None:
        self.aborted.set()
        self.released.set()

    def close(self) -> None:
        self.closed = True


def held() -> Recorder:
    """An output whose first delivery ends when `released` is set."""
    recorder = Recorder()
    recorder._act = lambda _: recorder.released.wait(WAIT_S) and None
    return recorder


QUICK_LIMITS = QueueLimits(max_queue_spans=100, max_batch_spans=50, schedule_delay_s=0.0)


def test_everything_arrives() -> None:
    """All rows in order, all operations counted, nothing in flight after the close."""
    output = Recorder()
    pipeline = Pipeline([output], QueueLimits(schedule_delay_s=0.01))
    for first in range(1, 100, 10):
        pipeline.export(batch_of(10, operations=7, first_id=first))
    pipeline.close(WAIT_S)
    assert output.ids == list(range(1, 101))
    assert output.closed
    for counters in (pipeline.counters, output.counters):
        snapshot = counters.snapshot()
        assert outcome(snapshot) == (70, 0, 0, 0)
        assert (snapshot.spans_exported, snapshot.spans_in_flight) == (100, 0)


def test_no_outputs() -> None:
    """With nowhere to go to, spans count as exported: nothing was lost against anyone's will."""
    pipeline = Pipeline([])
    pipeline.export(batch_of(4, operations=3))
    pipeline.close(0)
    assert outcome(pipeline.counters.snapshot()) == (3, 0, 0, 0)


def test_full_queue() -> None:
    """A deaf output's queue takes what fits, to the span; the rest is QueueFull; what was queued still goes out."""
    output = held()
    pipeline = Pipeline([output], QUICK_LIMITS)
    pipeline.export(batch_of(1))
    assert output.started.wait(WAIT_S)
    pipeline.export(batch_of(90, operations=80, first_id=10))
    pipeline.export(batch_of(30, operations=20, first_id=200))
    pipeline.export(batch_of(5, first_id=300))
    assert outcome(pipeline.counters.snapshot()) == (0, 5, 0, 1 + 80 + 20), "undecided rows keep their batch in flight"
    output.released.set()
    pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (1 + 80 + 10, 10 + 5, 0, 0)
    assert pipeline.counters.snapshot().spans_dropped["QueueFull"] == 25
    assert output.ids == [1, *range(10, 100), *range(200, 210)]


def test_slow_output_holds_up_no_other() -> None:
    """The other output gets its spans while one is stuck; the operations wait for the last word."""
    slow, fast = held(), Recorder()
    pipeline = Pipeline([slow, fast], QUICK_LIMITS)
    pipeline.export(batch_of(3))
    assert slow.started.wait(WAIT_S)
    assert fast.started.wait(WAIT_S)
    pipeline.export(batch_of(3, first_id=10))
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 0, 6)
    slow.released.set()
    pipeline.close(WAIT_S)
    assert fast.ids == slow.ids == [1, 2, 3, 10, 11, 12]
    assert outcome(pipeline.counters.snapshot()) == (6, 0, 0, 0)


_fates = st.lists(st.sampled_from(Fate), min_size=1, max_size=20)


@given(_fates, st.data())
def test_dropped_by_any_is_dropped(first: list[Fate], data: st.DataObject) -> None:
    """An operation is exported if all outputs took it; spans that are no operations do not count as such."""
    second = data.draw(st.lists(st.sampled_from(Fate), min_size=len(first), max_size=len(first)))
    operations = data.draw(st.integers(0, len(first)))
    outputs = [Recorder(lambda _, fates=fates: np.array(fates, np.uint8)) for fates in (first, second)]
    pipeline = Pipeline(outputs, QUICK_LIMITS)
    pipeline.export(batch_of(len(first), operations))
    pipeline.close(WAIT_S)
    exported = sum(not one and not other for one, other in zip(first, second, strict=True))
    of_operations = list(zip(first, second, strict=True))[:operations]
    snapshot = pipeline.counters.snapshot()
    assert snapshot.spans_exported == exported
    assert snapshot.operations_exported == sum(not one and not other for one, other in of_operations)
    assert snapshot.operations_exported + sum(snapshot.operations_dropped.values()) == operations
    both_say = {reason for pair in of_operations if all(pair) and len(set(pair)) == 1 for reason in pair}
    for reason, name in ((Fate.QUEUE_FULL, "QueueFull"), (Fate.EXPORT_FAILED, "ExportFailed")):
        assert snapshot.operations_dropped[name] >= (reason in both_say)
    for output, fates in zip(outputs, (first, second), strict=True):
        assert output.counters.snapshot().spans_exported == fates.count(Fate.EXPORTED)


def test_fault_of_an_output(caplog: pytest.LogCaptureFixture) -> None:
    """An output that raises loses its batch, is told of in the log, and goes on with the next one."""
    faults = iter([True, False])

    def act(_: SpanBatch) -> None:
        if next(faults):
            raise RuntimeError("broken")

    output = Recorder(act)
    pipeline = Pipeline([output], QUICK_LIMITS)
    pipeline.export(batch_of(50, operations=2))
    pipeline.export(batch_of(50, operations=3, first_id=100))
    pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot()) == (3, 0, 2, 0)
    assert pipeline.counters.snapshot().last_error == "RuntimeError: broken"
    assert "export.fault" in caplog.text


def test_close_gives_up() -> None:
    """After its time a close aborts the output; what was not taken is ExportFailed, and nothing is in flight."""
    output = held()
    pipeline = Pipeline([output], QUICK_LIMITS)
    pipeline.export(batch_of(2))
    assert output.started.wait(WAIT_S)
    pipeline.export(batch_of(3, first_id=10))
    pipeline.close(0)
    assert output.aborted.is_set()
    exported, full, failed, in_flight = outcome(pipeline.counters.snapshot())
    assert (exported + failed, full, in_flight) == (5, 0, 0)


def test_stuck_output_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that does not even heed the abort costs its spans, and its late word does not count them again."""
    monkeypatch.setattr("kernelspan_agent.export.pipeline.ABORT_GRACE_S", 0.0)
    output = held()
    output.abort = output.aborted.set  # type: ignore[method-assign]
    pipeline = Pipeline([output], QUICK_LIMITS)
    pipeline.export(batch_of(2))
    assert output.started.wait(WAIT_S)
    pipeline.export(batch_of(3, first_id=10))
    pipeline.close(0)
    assert outcome(pipeline.counters.snapshot()) == (0, 0, 5, 0)
    assert not output.closed, "it is still in use"
    output.released.set()
    for worker in pipeline._workers:
        worker.thread.join(WAIT_S)
    for counters in (pipeline.counters, output.counters):
        assert outcome(counters.snapshot()) == (0, 0, 5, 0)


def test_interrupted_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a close ends it at once with everything accounted for, and is not swallowed."""
    output = held()
    pipeline = Pipeline([output], QUICK_LIMITS)
    pipeline.export(batch_of(2))
    assert output.started.wait(WAIT_S)
    join, calls = pipeline._join, []

    def interrupted(timeout_s: float) -> None:
        calls.append(timeout_s)
        if len(calls) == 1:
            raise KeyboardInterrupt
        join(timeout_s)

    monkeypatch.setattr(pipeline, "_join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.close(WAIT_S)
    assert outcome(pipeline.counters.snapshot())[3] == 0
    assert output.aborted.is_set()


def test_export_after_close() -> None:
    """Spans that come too late are counted as dropped."""
    pipeline = Pipeline([Recorder()], QUICK_LIMITS)
    pipeline.close(WAIT_S)
    pipeline.export(batch_of(2))
    assert outcome(pipeline.counters.snapshot()) == (0, 2, 0, 0)


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 40))
def test_queue_keeps_order_and_bound(sizes: list[int], most: int) -> None:
    """What a queue took comes out in order, in groups of at most the asked size unless one item alone is larger."""
    queue: SpanQueue[int] = SpanQueue(100)
    taken = [number for number, size in enumerate(sizes) if queue.put(number, size)]
    assert sum(sizes[number] for number in taken) == 100 - queue.room() <= 100
    queue.close()
    groups = list(iter(lambda: queue.take(most, 0), []))
    assert [number for group in groups for number in group] == taken
    assert all(len(group) == 1 or sum(sizes[number] for number in group) <= most for group in groups)
    assert not queue.put(0, 1)


def test_the_first_after_a_pause_is_not_waited_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes long after the last request goes out in a moment; what comes soon after it waits for the rest of the delay."""
    waited: list[float] = []
    now = [1000.0]
    queue: SpanQueue[str] = SpanQueue(100)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(queue, "_changed", _Waiting(wait))
    for item in ("first", "soon after"):
        assert queue.put(item, 1)
        assert queue.take(10, 5.0) == [item]
    assert waited == pytest.approx([SETTLE_S, 5.0])
    now[0] = 2000.0
    assert queue.put("long after", 1)
    assert queue.take(10, 5.0) == ["long after"]
    assert waited[2:] == pytest.approx([SETTLE_S])


class _Waiting:
    """A condition whose clock goes on while somebody waits."""

    def __init__(self, wait: Callable[[float], None]) -> None:
        self.wait = wait

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def notify(self) -> None:
        pass


def test_limits_from_environment() -> None:
    """OTEL_BSP_* are in spans and milliseconds; absent or empty ones keep the defaults."""
    environ = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "10000",
        "OTEL_BSP_SCHEDULE_DELAY": "1500",
        "OTEL_BSP_EXPORT_TIMEOUT": "2000",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": " ",
    }
    assert limits_from(environ) == QueueLimits(10000, 8192, 1.5, 2.0)
    assert limits_from({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}).max_batch_spans == 100
    assert limits_from({}) == QueueLimits()


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "99999999999", "\u0661"])
def test_bad_limits(value: str) -> None:
    """A limit that is none is refused with the variable's name and what is allowed."""
    with pytest.raises(UsageError, match=r"OTEL_BSP_MAX_QUEUE_SIZE=.*whole number of spans"):
        limits_from({"OTEL_BSP_MAX_QUEUE_SIZE": value})


def test_batch_larger_than_queue() -> None:
    """Two limits that contradict each other are refused."""
    with pytest.raises(UsageError, match="at most OTEL_BSP_MAX_QUEUE_SIZE"):
        limits_from({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "11"})
