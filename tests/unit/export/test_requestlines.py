# SPDX-License-Identifier: Apache-2.0
"""Requests on a terminal: each once, as it ends, with the right culprit; the table; the slowest whole."""

from __future__ import annotations

import io
import re

import pytest

from kernelspan_agent.export import requestlines
from kernelspan_agent.export.requestlines import OTHERS, RequestLines, Route
from kernelspan_agent.model import Kind, Resource, Segment, SpanBatch
from tests.unit.export.test_console import batch

MS = 1_000_000
INNER = {"kernelspan.span.bound": "Inner"}
ORM = {"kernelspan.library.name": "sqlalchemy", "kernelspan.library.version": "2.0.1"}
LIBRARY = {"kernelspan.library.name": "psycopg", "kernelspan.library.version": "3.2"}


def request(path: str = "/orders/7", status: int = 200, name: str = "GET /orders/{id}") -> Segment:
    said = {"url.path": path, "http.response.status_code": status}
    return Segment(said, name, Kind.SERVER, str(status) if status >= 500 else "")


def function(name: str, **more: str) -> Segment:
    return Segment({"code.function.name": name, **INNER, **more}, name, Kind.INTERNAL)


def lines(*batches: SpanBatch, slowest: int = 0, width: int = 120) -> list[str]:
    """What is printed, without the times of the day."""
    stream = io.StringIO()
    made = RequestLines(stream, color=False, width=width, slowest=slowest)
    for each in batches:
        made.export(each)
    made.close()
    made.close()  # as an agent that ends in the midst of it does
    return re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", stream.getvalue()).splitlines()


def of_trace(made: SpanBatch, trace: int, resource: str = "") -> SpanBatch:
    made.rows["trace_id"][:, 1] = trace
    if resource:
        made.resources[0] = Resource({"service.name": resource})
    return made


def whole(took: int, status: int = 200) -> SpanBatch:
    """A request of so many ms, of which 9 tenths are spent in `load` itself."""
    end = took * MS
    return batch(
        [
            (5, 4, 10, 20 * MS // 100, {}, [Segment({**LIBRARY, "file.path": "/a"}, "file.read")]),
            (4, 3, 0, end * 9 // 10, {}, [function("load")]),
            (3, 1, 0, end, {}, [function("handle", **ORM)]),
            (1, 0, 0, end, {}, [request(status=status)]),
        ],
        1,
    )


def test_a_line_for_each_request() -> None:
    """Status, name, path, the function with the most time of its own, the library of the longest operation, service, time."""
    first, *_ = lines(whole(10, 500))
    assert first.split() == [
        "TIME", "500", "GET", "/orders/{id}", "/orders/7", "load", "psycopg", "3.2", "shop", "[4242]", "10.0", "ms",
    ]  # fmt: skip
    assert len(lines(whole(10))[0].replace("TIME", "00:00:00.000")) == 120


def test_a_request_below_another_has_a_line_of_its_own() -> None:
    """What was done for it is not the other's; an answer that was not seen has no status."""
    unseen = Segment({"url.path": "/b"}, "GET /b", Kind.SERVER)
    rows = batch(
        [
            (9, 8, 0, 8 * MS, {}, [function("back")]),
            (8, 2, 0, 8 * MS, {}, [unseen]),
            (2, 1, 0, 9 * MS, {}, [Segment({"url.full": "http://b/b"}, "GET", Kind.CLIENT)]),
            (1, 0, 0, 10 * MS, {}, [request("/a", name="GET /a")]),
        ],
        0,
    )
    inner, outer = lines(rows)[:2]
    assert ("---" in inner, "back" in inner) == (True, True)
    assert "back" not in outer


def test_what_comes_before_and_after() -> None:
    """Functions that closed earlier count; what comes late of a trace that is kept is in its tree, and no line comes twice."""
    made = whole(10)
    parts = [SpanBatch(made.rows[:2], made.segments[:2], made.resources, 1)]
    parts += [SpanBatch(made.rows[2:], made.segments[2:], made.resources)]
    late = batch([(7, 3, 5, 6, {}, [Segment({"file.path": "/late"}, "file.stat")])], 1)
    said = lines(*parts, late, slowest=1)
    assert sum("TIME  200" in line for line in said) == 1
    assert " load " in said[0]
    tree = "\n".join(said)
    assert "/late" in tree
    assert tree.index("└─ handle") < tree.index("load  ", tree.index("└─ handle"))


def test_the_slowest_are_shown_whole() -> None:
    """As many as were asked for, longest first; none, if none were asked for."""
    made = [of_trace(whole(took), took) for took in (5, 30, 1, 20, 10)]
    said = lines(*made, slowest=2)
    assert [line.split()[-1] for line in said if "trace 0" in line] == [f"{7:016x}{took:016x}" for took in (30, 20)]
    assert not any("trace 0" in line for line in lines(*made, slowest=0))


def test_a_trace_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says how much of it is not shown."""
    monkeypatch.setattr(requestlines, "MAX_NODES", 6)
    late = [batch([(at, 3, 5, 6, {}, [Segment({"file.path": f"/{at}"}, "file.stat")])], 1) for at in range(10, 20)]
    said = lines(whole(10), *late, slowest=1)
    assert sum("file.stat" in line for line in said) == 2
    assert "… 8 more" in said


def test_the_table() -> None:
    """By service and name, the longest first."""
    batches = [of_trace(whole(took, 500 if took == 3 else 200), took) for took in range(1, 101)]
    batches += [of_trace(batch([(1, 0, 0, MS, {}, [request(name="GET /x")])], 0), 200, "other")]
    said = lines(*batches)
    head = next(at for at, line in enumerate(said) if line.startswith("service"))
    assert said[head + 1].split() == [
        "shop",
        "GET",
        "/orders/{id}",
        "100",
        "1",
        "51.0",
        "ms",
        "96.0",
        "ms",
        "100.0",
        "ms",
    ]
    assert said[head + 2].split()[:5] == ["other", "GET", "/x", "1", "0"]
    assert lines()[1] == "no requests"


def test_the_share_on_a_cpu() -> None:
    """Of those requests of a route of which it is known."""
    timed = {"kernelspan.time.on_cpu": MS // 4, "kernelspan.time.off_cpu": MS * 3 // 4}
    both = [request(name="GET /x"), Segment({**request(name="GET /x").attributes, **timed}, "GET /x", Kind.SERVER)]
    batches = [of_trace(batch([(1, 0, 0, MS, {}, [each])], 0), at) for at, each in enumerate([*both, request()], 1)]
    said = lines(*batches)
    head = next(at for at, line in enumerate(said) if line.startswith("service"))
    assert said[head].endswith("longest  on CPU")
    assert {line.split()[2]: line.split()[-1] for line in said[head + 1 : head + 3]} == {
        "/x": "25%",
        "/orders/{id}": "ms",
    }


def test_routes_and_times_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the first has its place together; percentiles are of the newest."""
    monkeypatch.setattr(requestlines, "MAX_ROUTES", 3)
    batches = [of_trace(batch([(1, 0, 0, MS, {}, [request(name=f"GET /{at}")])], 0), at) for at in range(9)]
    said = lines(*batches)
    assert next(line for line in said if line.startswith(OTHERS)).split()[2] == "6"
    monkeypatch.setattr(requestlines, "MAX_TIMES", 8)
    route = Route()
    for took in range(100):
        route.add(took, is_failed=False)
    assert (route.count, route.longest_ns, len(route.times_ns)) == (100, 99, 8)
    assert route.percentile(0.0) == 92


def test_nothing_hostile_reaches_the_terminal() -> None:
    """A path is the other end's to choose."""
    rows = batch([(1, 0, 0, MS, {}, [request("/\x1b[2J\n", name="GET /\x1b]0;x\x07")])], 0)
    assert not any("\x1b" in line or "\x07" in line for line in lines(rows, slowest=1))


def test_a_stream_that_is_closed_loses_the_batch() -> None:
    stream = io.StringIO()
    made = RequestLines(stream, color=False, width=80, slowest=1)
    stream.close()
    made.export(whole(1))
    made.close()
    assert made.counters.snapshot().operations_dropped["ExportFailed"] == 1
