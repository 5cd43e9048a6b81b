# SPDX-License-Identifier: Apache-2.0
"""The tree that a user reads: what stands in it, how wide it is, and that nothing hostile gets through."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.export import labels
from kernelspan_agent.export.console import ConsoleExporter, cells, terminal_width, wants_color
from kernelspan_agent.export.tree import Forest
from kernelspan_agent.model import SPAN, VALUE_KEYS, Attributes, Resource, Segment, SpanBatch
from tests.unit.export.servers import outcome
from tests.unit.export.spans import START_NS, batch_of, batches

SHOP = Resource({"service.name": "shop", "process.pid": 4242})
LOAD = {"code.function.name": "shop.Orders.load", "code.file.path": "/app/orders.py"}
READ = Segment({"file.path": "/data/orders.db"}, name="file.read")
LINE_47 = Segment({**LOAD, "code.line.number": 47})

Row = tuple[int, int, int, int, dict[str, int], Sequence[Segment]]  # id, parent, start and end in ns, values, segments


def batch(rows: Sequence[Row], operations: int) -> SpanBatch:
    """A batch of one trace of these rows."""
    made, segments = np.zeros(len(rows), SPAN), np.empty((len(rows), 3), object)
    for at, (span_id, parent, start, end, values, said) in enumerate(rows):
        made[at]["trace_id"] = (7, 9)
        made[at]["span_id"], made[at]["parent_id"] = span_id, parent
        made[at]["start_ns"], made[at]["end_ns"] = START_NS + start, START_NS + end
        for place, (key, value) in enumerate(values.items()):
            made[at]["value_keys"][place], made[at]["values"][place] = VALUE_KEYS.index(key), value
        segments[at, : len(said)] = said
    return SpanBatch(made, segments, [SHOP], operations)


def shown(some: SpanBatch, width: int = 100, *, color: bool = False, close: bool = True) -> str:
    """What the console prints of a batch, without the head line's local time."""
    stream = io.StringIO()
    exporter = ConsoleExporter(stream, color, width)
    exporter.export(some)
    if close:
        exporter.close()
    return re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "TIME", stream.getvalue())


def operation(attributes: Attributes, name: str = "file.open", error: str = "") -> SpanBatch:
    """A trace that is one operation below an activity."""
    said = [Segment(attributes, name=name, error=error)]
    return batch([(2, 1, 0, 950, {}, said), (1, 0, 0, 5_000, {}, [Segment(name="activity w")])], 1)


STORY: list[Row] = [
    *(
        (100 + at, 2, 1000 * at, 1000 * at + 700, {"kernelspan.io.transferred": 4096}, [READ, LINE_47])
        for at in range(12)
    ),
    (
        200,
        2,
        15_000,
        90_000,
        {},
        [
            Segment({"network.peer.address": "::1", "network.peer.port": 5432}, name="tcp.connect"),
            Segment(
                {
                    **LOAD,
                    "code.line.number": 51,
                    "kernelspan.library.name": "psycopg",
                    "kernelspan.library.version": "3.1",
                }
            ),
            Segment({"error.type": "ECONNREFUSED"}, error="ECONNREFUSED"),
        ],
    ),
    (300, 1, 5_095_000, 6_090_000, {"process.exit.code": 3}, [Segment(name="process.exit")]),
    (2, 1, 0, 5_100_000, {"kernelspan.operations": 13}, [Segment(LOAD, name="shop.Orders.load")]),
    (1, 0, 0, 62_090_000_000, {}, [Segment(name="activity worker-3")]),
]


def test_story() -> None:
    """Activity, function, operations: folded, with sizes, peers, errors, libraries, lines and aligned durations."""
    assert shown(batch(STORY, 14), 90).splitlines() == [
        "shop [4242]  TIME  trace 00000000000000070000000000000009",
        "activity worker-3                                                              1 min 02 s",
        "├─ shop.Orders.load  orders.py                                                     5.10 ms",
        "│  ├─ file.read ×12  /data/orders.db  48.0 KiB  orders.py:47                       8.40 µs",  # noqa: RUF001
        "│  └─ tcp.connect  [::1]:5432  ECONNREFUSED  psycopg 3.1  orders.py:51             75.0 µs",
        "└─ process.exit  exit code 3                                                      995.0 µs",
        "",
    ]


@pytest.mark.parametrize("width", [40, 55, 80, 200])
def test_width(width: int) -> None:
    """No line is wider than asked for; durations stay."""
    lines = shown(batch(STORY, 14), width).splitlines()
    assert max(map(cells, lines)) <= width
    assert lines[2].endswith(" 5.10 ms")


def test_color_changes_nothing_else() -> None:
    """With colours the text is the same, and every colour ends on its line."""
    colored, plain = (shown(batch(STORY, 14), color=color) for color in (True, False))
    assert "\x1b[31m  ECONNREFUSED\x1b[0m" in colored
    bare = re.sub(r"\x1b\[\d*m", "", colored)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()
    for line in colored.splitlines():
        assert len(re.findall(r"\x1b\[[1-9]\d*m", line)) == line.count("\x1b[0m")


def test_printed_with_its_root() -> None:
    """A trace waits for its root over several batches; one whose root never comes is printed at the end, and says so."""
    stream = io.StringIO()
    exporter = ConsoleExporter(stream, False, 100)
    exporter.export(batch(STORY[:13], 13))
    assert stream.getvalue() == ""
    exporter.export(batch(STORY[13:], 1))
    assert "tcp.connect" in stream.getvalue()
    assert "in part" not in stream.getvalue()
    exporter.export(batch(STORY[12:13], 1))
    before = stream.getvalue()
    exporter.close()
    assert "(in part)" in stream.getvalue()[len(before) :]
    assert outcome(exporter.counters.snapshot()) == (15, 0, 0, 0)


def test_not_folded() -> None:
    """Operations that differ in file, error or parent stay apart; functions always do."""
    other = Segment({"file.path": "/data/other"}, name="file.read")
    rows: list[Row] = [
        (10, 2, 0, 1, {}, [READ]),
        (11, 2, 1, 2, {}, [other]),
        (12, 3, 2, 3, {}, [READ]),
        (2, 1, 0, 2, {}, [Segment(name="f")]),
        (3, 1, 2, 3, {}, [Segment(name="f")]),
        (1, 0, 0, 3, {}, [Segment(name="activity")]),
    ]
    text = shown(batch(rows, 3))
    assert "×" not in text  # noqa: RUF001
    assert text.count("file.read") == 3


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/\x1b[2J",
        "/tmp/a\nb",
        "/tmp/\r",
        "/tmp/\x9b31m",
        "/tmp/\u202egpj.exe",
        b"/\xff".decode("utf-8", "surrogateescape"),
    ],
)
def test_hostile_names(name: str) -> None:
    """Neither controls nor formatting characters nor undecodable bytes reach the terminal, from any attribute."""
    attributes: Attributes = {
        "file.path": name,
        "kernelspan.library.name": name,
        "code.function.name": name,
        "code.file.path": name,
    }
    text = shown(operation(attributes, name=name, error=name), 400)
    assert text.count("\n") == 4
    assert text.replace("\n", "").isprintable()
    text.encode()


@given(batches(), st.integers(0, 120), st.booleans())
def test_any_batch(some: SpanBatch, width: int, color: bool) -> None:
    """Any batch prints, within the width, with nothing but our own escapes, and every operation counted."""
    stream = io.StringIO()
    exporter = ConsoleExporter(stream, color, width)
    exporter.export(some)
    exporter.close()
    bare = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
    assert all(line.isprintable() and cells(line) <= max(40, width) for line in bare.split("\n"))
    assert outcome(exporter.counters.snapshot())[0] == some.operations


def test_bound_of_a_trace() -> None:
    """Beyond its bound a trace only counts, and says how many spans are not shown."""
    rows: list[Row] = [(at, 1, at, at + 1, {}, [Segment(name=f"f{at}")]) for at in range(2, 30)]
    rows.append((1, 0, 0, 100, {}, [Segment(name="activity")]))
    stream = io.StringIO()
    ConsoleExporter(stream, False, 80, Forest(max_nodes_a_trace=10)).export(batch(rows, 28))
    assert "activity" in stream.getvalue()
    assert "… 18 more" in stream.getvalue()


def test_bound_of_all_traces() -> None:
    """Traces that wait are bounded together: the oldest is printed before its root has come."""
    stream = io.StringIO()
    exporter = ConsoleExporter(stream, False, 80, Forest(max_nodes=10))
    for number in range(100):
        some = batch([(2, 1, 0, 1, {}, [READ])], 1)
        some.rows["trace_id"] = (number, 1)
        exporter.export(some)
    assert stream.getvalue().count("file.read") == 90
    assert f"trace {0:016x}{1:016x}" in stream.getvalue()


def test_ids_that_make_a_circle() -> None:
    """Ids that stand twice or point at each other end somewhere."""
    rows: list[Row] = [
        (5, 0, 0, 1, {}, [Segment(name="a")]),
        (5, 5, 0, 1, {}, [Segment(name="b")]),
        (6, 7, 0, 1, {}, [Segment(name="c")]),
        (7, 6, 0, 1, {}, [Segment(name="d")]),
    ]
    assert "b" in shown(batch(rows, 0))


def test_deep() -> None:
    """A thousand levels print, and no line is wider for it."""
    rows: list[Row] = [(at, at - 1, 0, 1, {}, [Segment(name="f")]) for at in range(1, 400)]
    lines = shown(batch(rows, 0), 80).splitlines()
    assert len(lines) == 401
    assert max(map(cells, lines)) <= 80


class _Gone(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_stream_that_is_gone() -> None:
    """A terminal that is gone costs the spans; tracing goes on."""
    exporter = ConsoleExporter(_Gone(), False, 80)
    exporter.export(batch_of(2))
    exporter.close()
    assert outcome(exporter.counters.snapshot()) == (0, 0, 2, 0)


def test_terminal_of_another_encoding() -> None:
    """What a terminal cannot show is escaped instead of ending the program."""
    raw = io.BytesIO()
    exporter = ConsoleExporter(io.TextIOWrapper(raw, "ascii", write_through=True), False, 80)
    exporter.export(operation({"file.path": "/é"}))
    assert b"/\\xe9" in raw.getvalue()


def test_settings_of_the_terminal() -> None:
    """NO_COLOR, TERM=dumb and a stream that is no terminal each mean no colours; COLUMNS goes before all."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert wants_color(Terminal(), {})
    assert not wants_color(Terminal(), {"NO_COLOR": "1"})
    assert not wants_color(Terminal(), {"TERM": "dumb"})
    assert not wants_color(io.StringIO(), {})
    assert terminal_width(io.StringIO(), {"COLUMNS": "77"}) == 77
    for columns in ("", "0", "-1", "x", "9" * 99):
        assert terminal_width(io.StringIO(), {"COLUMNS": columns}) == 100


@pytest.mark.parametrize(
    ("nanoseconds", "wanted"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.00 µs"),
        (9_996, "10.0 µs"),
        (4_560_000, "4.56 ms"),
        (59_940_000_000, "59.9 s "),
        (125_000_000_000, "2 min 05 s "),
        (11_220_000_000_000, "3 h 07 min"),
        (2**64 - 1, "213503 d"),
    ],
)
def test_duration(nanoseconds: int, wanted: str) -> None:
    """Durations have a unit a reader can compare."""
    assert labels.duration(nanoseconds) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (-5, "-5 B")]
)
def test_size(count: int, wanted: str) -> None:
    """Sizes have a unit a reader can compare."""
    assert labels.size(count) == wanted


def test_long_paths_give_way() -> None:
    """A path that does not fit loses its middle; what stands behind it, and its own end, stay."""
    path = f"/srv/{'deep/' * 40}orders-of-the-day.db"
    (line,) = [
        each for each in shown(operation({"file.path": path} | LINE_47.attributes), 90).splitlines() if "…" in each
    ]
    assert cells(line) <= 90
    assert re.search(r"/srv/\S*…\S*/orders-of-the-day\.db  shop\.Orders\.load  orders\.py:47 +950 ns$", line)


def test_function_is_said_once() -> None:
    """Below a library's function the app's function that called it is not said again."""
    library = {"kernelspan.library.name": "psycopg", "kernelspan.library.version": "3.1"}
    rows: list[Row] = [
        (4, 3, 10, 20, {}, [READ, LINE_47]),
        (3, 2, 10, 20, {}, [Segment(library, name="psycopg.connect")]),
        (2, 1, 10, 20, {}, [Segment(LOAD, name="shop.Orders.load")]),
        (1, 0, 0, 30, {}, [Segment(name="activity w")]),
    ]
    assert shown(batch(rows, 1)).count("shop.Orders.load") == 1


def test_equal_words_are_one_line() -> None:
    """A file that was made anew has another segment of the same words: it is folded all the same."""
    rows: list[Row] = [
        (at, 1, 10 * at, 10 * at + 5, {}, [Segment({"file.path": "/tmp/log"}, name="file.rename"), LINE_47])
        for at in (2, 3, 4)
    ]
    printed = shown(batch([*rows, (1, 0, 0, 90, {}, [Segment(name="activity w")])], 3))
    assert printed.count("file.rename") == printed.count("file.rename ×3") == 1  # noqa: RUF001


def test_who_goes_on_is_said_where_the_service_changes() -> None:
    """A request that another service received says whose it is; what it did does not say it again. The head is the root's."""
    rows: list[Row] = [
        (3, 2, 10, 20, {}, [READ]),
        (2, 1, 10, 20, {}, [Segment({"url.path": "/price/tea"}, name="GET /price/{name}")]),
        (1, 0, 0, 30, {}, [Segment(name="GET /orders/{id}")]),
    ]
    some = batch(rows, 1)
    some.resources.append(Resource({"service.name": "prices", "process.pid": 7}))
    some.rows["resource"] = [1, 1, 0]
    printed = shown(some).splitlines()
    assert printed[0].startswith("shop [4242]  ")
    assert "└─ GET /price/{name}  prices [7]  /price/tea  " in printed[2]
    assert [line for line in printed if "prices" in line] == [printed[2]]


def test_what_moved_nothing_does_not_say_bytes() -> None:
    """A read that found nothing yet says so, and not how much it would have taken."""
    said = [Segment({"network.peer.address": "::1", "kernelspan.result.name": "EAGAIN"}, name="tcp.receive")]
    rows: list[Row] = [(2, 1, 0, 9, {"kernelspan.io.requested": 4096}, said), (1, 0, 0, 20, {}, [Segment(name="w")])]
    printed = shown(batch(rows, 1))
    assert "tcp.receive  ::1  EAGAIN  " in printed
    assert "KiB" not in printed
