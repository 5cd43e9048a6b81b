# SPDX-License-Identifier: Apache-2.0
"""What names stacks is taken in ahead of operations that wait, but never of a process that changes before its turn."""

from __future__ import annotations

import queue
from collections import deque
from unittest.mock import Mock

import numpy as np

from kernelspan_agent.intake import Intake
from kernelspan_agent.resolve.tables import Tables
from kernelspan_agent.ring.reader import Drained
from kernelspan_agent.ring.records import CODE_HEADER, OPERATION, VERSION, FrameState, ProcessEvent, RecordKind
from kernelspan_agent.runtimes.registry import RawFrame

from .making import path_record, process_record, stack_record

TGID = 5  # of stack_record
NO_OPERATIONS = np.zeros(0, OPERATION)
FRAMES = [(7, 1, 2, 3, 0, 3, 0)]
STACK = (int(RecordKind.STACK), stack_record(9, FRAMES))
PATH = (int(RecordKind.PATH), path_record(1, b"a\0"))
UNSOUND = (int(RecordKind.STACK), b"")


def code() -> tuple[int, bytes]:
    head = np.array([(RecordKind.CODE, VERSION, CODE_HEADER.itemsize, 60, TGID, TGID, 0)], CODE_HEADER)
    return int(RecordKind.CODE), head.tobytes()


def exec_of(tgid: int) -> tuple[int, bytes]:
    return int(RecordKind.PROCESS), process_record(RecordKind.PROCESS, tgid, event=ProcessEvent.EXEC)


def tables(symbolise: Mock) -> Tables:
    processes = Mock()
    processes.find.return_value.symbolise = symbolise
    processes.classify.return_value = (None, None)
    return Tables(processes, Mock(), Mock())


def waiting(*pieces: list[tuple[int, bytes]]) -> Intake:
    """What the ring's thread has left."""
    made = Intake.__new__(Intake)
    made._queue, made._ahead, made._given = queue.SimpleQueue(), deque(), 0
    for others in pieces:
        made._queue.put(Drained(NO_OPERATIONS, others))
    return made


def rest_of(intake: Intake) -> list[list[tuple[int, bytes]]]:
    found = []
    while (drained := intake.next(0.0)) is not None:
        found.append(drained.others)
    return found


def named(*_: object) -> list[RawFrame]:
    return [RawFrame("f", "", "f", "/app/f.js", 3, 1, 7)]


def test_names_of_all_that_waits_are_taken_in_first() -> None:
    """In their order, once; all other records wait for their turn, and so does what is none of ours."""
    symbolise = Mock(side_effect=named)
    made, intake = tables(symbolise), waiting([PATH, code(), STACK, UNSOUND], [STACK, PATH])
    intake.look_ahead(made.learn_ahead)
    intake.look_ahead(made.learn_ahead)
    assert symbolise.call_count == 2
    assert made.processes.find.return_value.symboliser.learn.call_count == 1  # type: ignore[attr-defined]
    assert [each.function for each in made.stacks.get(9, FrameState.COMPLETE).frames] == ["f"]
    assert rest_of(intake) == [[PATH, UNSOUND], [PATH]]


def test_names_of_a_process_that_changes_wait_behind_that() -> None:
    """Whose image they are of is known when its record had its turn: not before, in no piece."""
    symbolise = Mock(side_effect=named)
    made, intake = tables(symbolise), waiting([STACK], [exec_of(TGID + 1), STACK], [STACK, exec_of(TGID)])
    intake.look_ahead(made.learn_ahead)
    assert symbolise.call_count == 2
    intake._queue.put(Drained(NO_OPERATIONS, [code(), STACK]))
    intake.look_ahead(made.learn_ahead)
    assert symbolise.call_count == 2
    assert rest_of(intake) == [[], [exec_of(TGID + 1)], [STACK, exec_of(TGID)], [code(), STACK]]
    intake._queue.put(Drained(NO_OPERATIONS, [STACK]))
    intake.look_ahead(made.learn_ahead)
    assert symbolise.call_count == 3
    assert rest_of(intake) == [[]]


def test_names_wait_behind_the_names_before_them() -> None:
    """A process that had its turn may still have names in a piece that waits: a stack is not read before these."""
    order: list[str] = []
    symbolise = Mock(side_effect=lambda *_: order.append("stack") or named())
    made, intake = tables(symbolise), waiting([exec_of(TGID)], [code()])
    made.processes.find.return_value.symboliser.learn.side_effect = lambda _: order.append("code")  # type: ignore[attr-defined]
    intake.look_ahead(made.learn_ahead)
    assert (first := intake.next(0.0)) is not None
    assert first.others == [exec_of(TGID)]
    intake._queue.put(Drained(NO_OPERATIONS, [STACK]))
    intake.look_ahead(made.learn_ahead)
    for others in rest_of(intake):
        made.learn(others)
    assert order == ["code", "stack"]


def test_what_is_known_of_a_stack_stays_known() -> None:
    """A stack of the same id that can no longer be read takes nothing from operations that wait."""
    symbolise = Mock(side_effect=[named(), [RawFrame("", "", "", "", 0, 1, 1, "CompiledCode")]])
    made = tables(symbolise)
    made.learn([STACK, STACK])
    assert [each.function for each in made.stacks.get(9, FrameState.COMPLETE).frames] == ["f"]
