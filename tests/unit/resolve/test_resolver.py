# SPDX-License-Identifier: Apache-2.0
"""From records to resolved batches: hostile records, names that come late, processes that are unknown, counts that hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelspan_agent.libraries.base import Libraries
from kernelspan_agent.model import ResolvedBatch
from kernelspan_agent.resolve.clock import Clock
from kernelspan_agent.resolve.infos import Infos
from kernelspan_agent.resolve.own import OwnSpans
from kernelspan_agent.resolve.processes import ProcessTable
from kernelspan_agent.resolve.resolver import Resolver, ResolveSettings
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.resolve.tables import Tables
from kernelspan_agent.ring import records
from kernelspan_agent.ring.records import OPERATION, OperationFlag, ProcessEvent, RecordKind
from kernelspan_agent.runtimes.registry import Unsupported
from kernelspan_api import semconv
from kernelspan_api.handling import Redaction
from kernelspan_api.operations import OPERATIONS, Group
from kernelspan_api.plan import Wanted
from kernelspan_api.userprobes import UserProbe
from tests.unit.resolve.making import STAT, operations, path_record, process_record, stack_record

NUMBER = {operation.name: operation.number for operation in OPERATIONS}


class Kernel:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.rejected: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.images = {5: 50}
        self.wanted_by: dict[int, frozenset[str]] = {}

    def whose(self, tgid: int) -> frozenset[str]:
        return self.wanted_by.get(tgid, frozenset())

    def process_start(self, tgid: int) -> int | None:
        return self.images.get(tgid)

    def traced(self) -> set[int]:
        return set(self.images)

    def reject_file(self, file: int, path: int) -> None:
        self.rejected.append((file, path))

    def forget_ids(self, *, stacks: list[int] | None = None, paths: list[int] | None = None) -> None:
        self.forgotten += [*(stacks or []), *(paths or [])]

    def set_runtime(self, *_: object, **__: object) -> None:
        """Of no interest here."""

    know_image = set_runtime

    def walks(self, _number: int) -> bool:
        return True


EVERYTHING = Wanted("all", frozenset(NUMBER.values()), {}, (), (), (), 64, 10_000, 10_000, 20_000)


class NoProbes:
    """A session without own probes."""

    def get(self, _spec: UserProbe) -> None:
        return None

    def tell(self, *_: int) -> None:
        """Of no interest here."""


class Stage:
    """Tables and one profile's resolver behind them."""

    def __init__(self, root: Path, kernel: Kernel, wanted: Wanted) -> None:
        clock = Clock(lambda: 1_000, lambda: 1_000_000)
        table = ProcessTable(kernel, Libraries(), lambda ns: ns, proc_root=str(root), whose=kernel.whose)  # type: ignore[arg-type]
        self.processes = table
        self.tables = Tables(table, clock, kernel)
        infos = Infos(ResourceSettings())
        own = OwnSpans((), NoProbes(), self.tables, Redaction())
        self.resolver = Resolver(ResolveSettings(wanted), self.tables, clock, infos, kernel.reject_file, own)
        self.learn = self.tables.learn

    def resolve(self, rows: np.ndarray) -> ResolvedBatch | None:
        return self.resolver.resolve(self.tables.take(rows))

    @property
    def filtered(self) -> int:
        return self.resolver.filtered

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: sum(counts.values()) for reason, counts in self.tables.dropped.items()}


def resolver(root: Path, **wanted: object) -> tuple[Stage, Kernel]:
    """A resolver whose /proc is a folder without processes, which knows process 5 from instant 50 on."""
    kernel = Kernel()
    made = Stage(root, kernel, replace(EVERYTHING, **wanted))  # type: ignore[arg-type]
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXEC, 5))])
    return made, kernel


def attributes(made: Stage, rows: np.ndarray) -> list[dict[str, object]]:
    """Attributes of each operation of a batch."""
    batch = made.resolve(rows)
    assert batch is not None
    return [{k: v for part in parts if part for k, v in part.attributes.items()} for parts in batch.segments]


def test_late_names(tmp_path: Path) -> None:
    """A path that was lost and comes later is shown from then on: what was not known then is not kept."""
    made, _ = resolver(tmp_path)
    rows = operations(1, file=7)
    assert attributes(made, rows) == [{}]
    made.learn([(RecordKind.PATH, path_record(7, b"name\0"))])
    assert attributes(made, rows) == [{"file.path": "/name"}]


def test_late_names_and_globs(tmp_path: Path) -> None:
    """Nor is it kept that a file whose name was lost is not wanted, and the kernel is not told so."""
    made, kernel = resolver(tmp_path, paths=("/name", "/other"))
    assert made.resolve(operations(2, file=7)) is None
    assert (made.filtered, kernel.rejected) == (2, [])
    made.learn([(RecordKind.PATH, path_record(7, b"name\0")), (RecordKind.PATH, path_record(8, b"no\0"))])
    assert attributes(made, operations(1, file=7)) == [{"file.path": "/name"}]
    assert made.resolve(operations(3, file=8)) is None
    assert (made.filtered, kernel.rejected) == (5, [(8, 0)])


def test_addresses(tmp_path: Path) -> None:
    """With ranges given, what has no address is not wanted."""
    made, _ = resolver(tmp_path, cidrs=("10.0.0.0/8",))
    rows = operations(4, op=NUMBER["Send"], family=2)
    rows["peer_address"][:, 0] = [10, 11, 10, 10]
    rows["family"][2:] = [1, 0]
    batch = made.resolve(rows)
    assert batch is not None
    assert batch.ops["peer_address"][:, 0].tolist() == [10]
    assert (len(batch.ops), made.filtered) == (1, 3)


def test_what_says_nothing_is_not_shown(tmp_path: Path) -> None:
    """An argument or a result that the kernel's side does not know is no attribute, not even 0."""
    made, _ = resolver(tmp_path)
    rows = operations(4, op=NUMBER["Send"], arg=3, ret=3)
    rows["flags"] = [0, OperationFlag.NO_ARGUMENT, OperationFlag.NO_RESULT, 6]
    batch = made.resolve(rows)
    assert batch is not None
    assert (batch.rows["value_keys"] > 0).tolist() == [[True, True], [False, True], [True, False], [False, False]]


@pytest.mark.parametrize("stacks", [True, False])
def test_programs_that_cannot_be_walked(tmp_path: Path, stacks: bool) -> None:
    """Their operations say why they have no frames, unless nobody asked for any; those that may yet be walked do not."""
    made, _ = resolver(tmp_path, max_depth=64 if stacks else 0)
    (traced,) = made.processes.alive()
    for reason, said in (("RuntimeUnsupported", 3 if stacks else 0), ("RuntimePending", 0)):
        traced.unsupported = Unsupported(reason, "")
        made.resolver.frame_states.clear()
        found = attributes(made, operations(3))
        assert sum(each.get(semconv.CODE_MISSING) == reason for each in found) == said
        assert +made.resolver.frame_states == ({reason: 3} if said else {"None": 3} if stacks else {})


def test_processes(tmp_path: Path) -> None:
    """An operation belongs to the image of its instant, a successful exec to the image it starts; else to nobody."""
    made, _ = resolver(tmp_path)
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXEC, 5, start=205, time=205))])
    rows = operations(4)
    rows["tgid"][0] = 6
    rows["start"][2:], rows["time"][2:] = 200, 210
    rows["op"][3] = NUMBER["Exec"]
    batch = made.resolve(rows)
    assert batch is not None
    assert [info.started_ns for info in batch.processes] == [50, 50, 205]
    assert made.dropped == {"TargetGone": 1}


def test_lost_processes(tmp_path: Path) -> None:
    """What the kernel traces is taken in though nobody told us; what it no longer traces has ended."""
    made, kernel = resolver(tmp_path)
    table = made.processes
    kernel.images = {5: 90, 6: 80}
    rows = operations(4)
    rows["tgid"] = [5, 6, 6, 7]
    batch = made.resolve(rows)
    assert batch is not None
    assert [(info.tgid, info.started_ns) for info in batch.processes] == [(5, 50), (6, 80), (6, 80)]
    assert made.dropped == {"TargetGone": 1}
    table.catch_up(1000, lambda: 1000)
    assert [(each.tgid, each.start_ns) for each in table.alive()] == [(5, 90), (6, 80)]
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.FORK, 6, start=80, time=80))])  # it comes after all
    assert len(table.alive()) == 2
    kernel.images = {6: 80}
    table.catch_up(2000, lambda: 2000)
    assert [(each.tgid, each.ended_epoch_ns) for each in table.finished] == [(5, 90), (5, 2000)]


def test_a_number_is_used_again(tmp_path: Path) -> None:
    """By a process whose records were lost: it is not the one that had the number, nor for whom that one was traced."""
    made, kernel = resolver(tmp_path)
    (first,) = made.processes.alive()
    first.wanted_by, first.surroundings = frozenset({"mine"}), {semconv.K8S_POD_NAME: "a"}
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXIT, 5, start=50, time=90))])
    assert made.resolve(operations(1, start=70, time=95)) is not None  # killed in it
    kernel.images = {}
    assert made.resolve(operations(2)) is None
    assert made.dropped == {"TargetGone": 2}
    kernel.images, kernel.wanted_by = {5: 95}, {5: frozenset({"theirs"})}
    batch = made.resolve(operations(1))
    assert batch is not None
    assert [info.started_ns for info in batch.processes] == [95]
    (second,) = made.processes.alive()
    assert (second.wanted_by, second.surroundings, second.parent) == ({"theirs"}, {}, None)


def test_a_parent_that_nobody_knows(tmp_path: Path) -> None:
    """What it begins is for whom the kernel says; one that had ended is the parent of nobody."""
    made, kernel = resolver(tmp_path)
    kernel.wanted_by = {6: frozenset({"one"}), 7: frozenset({"two"}), 8: frozenset({"three"})}
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.FORK, 6, parent=4, start=60, time=60))])
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXIT, 5, start=50, time=70))])
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.FORK, 7, parent=5, start=80, time=80))])
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXEC, 8, start=80, time=80))])
    found = {each.tgid: each for each in made.processes.alive()}
    assert {tgid: each.wanted_by for tgid, each in found.items()} == kernel.wanted_by
    assert {each.parent for each in found.values()} == {None}


def test_a_lost_exec_before_an_end(tmp_path: Path) -> None:
    """What had ended was the other program: its own operations are its own, and the first one's stay the first one's."""
    made, _ = resolver(tmp_path)
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXIT, 5, start=105, time=140))])
    batch = made.resolve(operations(2))
    assert batch is not None
    assert [info.started_ns for info in batch.processes] == [50, 105]
    assert [(each.start_ns, each.ended_ns) for each in made.processes.finished] == [(50, 105), (105, 140)]


def test_an_end_that_is_told_twice(tmp_path: Path) -> None:
    """By two threads that were both the last: it is one process, with all that it did."""
    made, _ = resolver(tmp_path)
    for time in (130, 131):
        made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.EXIT, 5, start=50, time=time))])
    batch = made.resolve(operations(2))
    assert batch is not None
    assert [info.started_ns for info in batch.processes] == [50, 50]
    assert [(each.start_ns, each.ended_ns) for each in made.processes.finished] == [(50, 130)]


def test_records_that_come_late(tmp_path: Path) -> None:
    """Of what is known already, and of what was before it: each image is there once, from its start to the next one's."""
    made, kernel = resolver(tmp_path)
    kernel.images = {6: 80}
    made.processes.recover(6)
    for event, start in ((ProcessEvent.FORK, 60), (ProcessEvent.EXEC, 70), (ProcessEvent.EXEC, 80)):
        made.learn([(RecordKind.PROCESS, process_record(event, 6, parent=5, start=start, time=start))])
    assert [(each.tgid, each.start_ns) for each in made.processes.alive()] == [(5, 50), (6, 80)]
    assert [(each.start_ns, each.ended_ns) for each in made.processes.finished] == [(60, 80), (70, 80)]
    rows = operations(3, tgid=6)
    rows["start"], rows["time"] = (65, 75, 85), (66, 76, 86)
    batch = made.resolve(rows)
    assert batch is not None
    assert [info.started_ns for info in batch.processes] == [60, 70, 80]


def test_nothing_was_done_before_a_start(tmp_path: Path) -> None:
    """What a number stood for before the first image that is told of is not known: it is nobody's."""
    made, kernel = resolver(tmp_path)
    kernel.images = {6: 105}
    assert made.resolve(operations(1, tgid=6)) is None
    assert made.dropped == {"TargetGone": 1}


def test_a_lost_exec_of_a_parent(tmp_path: Path) -> None:
    """It is found out before its child is taken for one of the program that it was."""
    made, kernel = resolver(tmp_path)
    kernel.images = {5: 70}
    made.learn([(RecordKind.PROCESS, process_record(ProcessEvent.FORK, 6, parent=5, start=80, time=80))])
    (child,) = (each for each in made.processes.alive() if each.tgid == 6)
    assert child.parent is not None
    assert child.parent.start_ns == 70


def test_what_began_after_a_loss_may_be_on_its_way(tmp_path: Path) -> None:
    """It is not looked for; and an end is not before what was done meanwhile."""
    made, kernel = resolver(tmp_path)
    kernel.images = {6: 80, 7: 95}
    made.processes.catch_up(90, lambda: 200)
    assert [(each.tgid, each.start_ns) for each in made.processes.alive()] == [(6, 80)]
    assert [each.ended_ns for each in made.processes.finished] == [200]


def test_unsound(tmp_path: Path) -> None:
    """Rows and records that are none of ours are counted; the others are not disturbed."""
    made, _ = resolver(tmp_path)
    rows = operations(5, op=[STAT, 63, STAT, STAT, STAT])
    rows["version"][3] = 7
    batch = made.resolve(rows)
    assert batch is not None
    assert (len(batch.ops), made.dropped) == (3, {"Unsound": 2})
    made.learn([(RecordKind.PATH, b""), (99, b"x" * 200), (RecordKind.STACK, stack_record(1, [], count=9))])
    assert made.tables.unsound == 3


kinds = st.sampled_from([*RecordKind, 0, 77])
heads = st.builds(
    lambda kind, rest: np.array([(kind, records.VERSION, 24, 60, 5, 5)], records.HEADER).tobytes() + rest,
    kinds,
    st.binary(max_size=600),
)
hostile = st.lists(st.tuples(kinds, st.one_of(st.binary(max_size=600), heads)), max_size=30)
matching = st.lists(heads.map(lambda data: (int.from_bytes(data[:2], "little"), data)), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(hostile, matching), st.binary(max_size=8 * OPERATION.itemsize), st.booleans())
def test_hostile_records(tmp_path: Path, others: list[tuple[int, bytes]], data: bytes, with_heads: bool) -> None:
    """Any bytes at all: nothing raises, and every row is accounted for."""
    made, _ = resolver(tmp_path, paths=("/a",), cidrs=("::/0", "0.0.0.0/0"))
    rows = np.frombuffer(data[: len(data) // OPERATION.itemsize * OPERATION.itemsize], OPERATION).copy()
    if with_heads:
        rows["version"], rows["tgid"], rows["start"], rows["time"] = records.VERSION, 5, 60, 70
        rows["op"] = rows["op"] % 64
        rows["frame_state"] %= 10
        rows["context_kind"] %= 3
    made.learn(others)
    batch = made.resolve(rows) if len(rows) else None
    taken = 0 if batch is None else len(batch.ops)
    assert taken + made.filtered + sum(made.dropped.values()) == len(rows)


def test_beside_other_profiles(tmp_path: Path) -> None:
    """Where others want the process too, what the kernel filtered as widely as all of them is filtered as this one says."""
    made, _ = resolver(
        tmp_path,
        operations=frozenset({NUMBER["Send"], NUMBER["Read"]}),
        min_duration_ns={Group.FILES: 6, Group.NETWORK: 0},
        ports=(80, 443),
    )
    made.resolver.shared = True
    rows = operations(
        8, op=[NUMBER[name] for name in ("Send", "Send", "Send", "Receive", "Read", "Read", "Open", "Sleep")]
    )
    rows["peer_port"] = [80, 81, 0, 80, 0, 0, 0, 0]
    rows["local_port"] = [1, 1, 443, 1, 0, 0, 0, 0]
    rows["time"][5] += 1
    batch = made.resolve(rows)
    assert batch is not None
    assert np.flatnonzero(np.isin(rows["start"], batch.ops["start"])).tolist() == [0, 2, 5]
    assert made.filtered == 5


@pytest.mark.parametrize("family", [0, 1, 2, 10, 16, 17, 9999])
@pytest.mark.parametrize("op", [operation.number for operation in OPERATIONS])
def test_any_family_of_any_operation(tmp_path: Path, op: int, family: int) -> None:
    """Families that have no peer we can name are no trouble."""
    made, _ = resolver(tmp_path)
    batch = made.resolve(operations(1, op=op, family=family, protocol=6, ret=-4095, peer_port=1))
    assert batch is not None
    assert batch.segments[0, 0].name
