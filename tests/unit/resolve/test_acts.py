# SPDX-License-Identifier: Apache-2.0
"""Operations by library: each is counted once, at the library nearest to the kernel, whatever comes together in a batch."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.model import Segment
from kernelspan_agent.resolve.acts import NAMES, NOBODY, OTHER, OWN_KIND, Acts
from kernelspan_agent.resolve.segments import error_segment
from kernelspan_agent.ring.records import OWN_OPERATION
from kernelspan_api.operations import OPERATIONS
from tests.unit.resolve.acting import Act, batch, library, stack

OPEN, CONNECT, LOCK = 1, 16, 48
OWNERS = st.sampled_from(["app", "runtime", "a", "b", "c", "?"])
STACKS = [
    stack(),
    stack("app"),
    stack("a", "app"),
    stack("runtime", "b", "a", "app"),
    stack("?", "a", "app"),
    stack("app", "a"),
]


def acts(max_size: int = 60) -> st.SearchStrategy[list[Act]]:
    """Operations of any kind and result, built in and own."""
    own = st.builds(
        Act,
        st.integers(OWN_OPERATION, OWN_OPERATION + 255),
        st.sampled_from(STACKS),
        st.integers(-5000, 5),
        st.sampled_from([None, Segment(), Segment(error="EPERM")]),
    )
    built_in = st.builds(
        Act,
        st.sampled_from([each.number for each in OPERATIONS]),
        st.sampled_from(STACKS),
        st.sampled_from([0, 7, -1, -errno.EAGAIN, -errno.ETIMEDOUT, -4095, -4096, -(1 << 40)]),
    )
    return st.lists(own | built_in, max_size=max_size)


def test_who_acts() -> None:
    """The library nearest to the kernel, unless the app is nearer; all that stand in the stack are inside."""
    counted = Acts()
    numbers = counted.add(batch([Act(OPEN, each) for each in STACKS]))
    named = [one.name if (one := counted.library(int(number))) else "" for number in numbers]
    assert named == ["", "", "a", "b", "", ""]
    inside = {counted.libraries[at].name: counted.inside(at + 2) for at in range(len(counted.libraries))}
    assert inside == {"a": 4, "b": 1}
    assert counted.by_kind(NOBODY) == {"file.open": 4}


def test_without_stacks_nobody_acts() -> None:
    """Where no frames were asked for, all is counted, and claimed for no library."""
    counted = Acts()
    counted.add(replace(batch([Act(OPEN, stack("a"))] * 3), stack_of=None, distinct=[]))
    assert (counted.total, counted.by_kind(NOBODY), counted.rows()) == (3, {"file.open": 3}, [NOBODY, OTHER])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.span_name)
def test_a_failure_is_what_makes_a_span_an_error(operation: object) -> None:
    """For every kind of operation and every errno."""
    number = operation.number  # type: ignore[attr-defined]
    counted = Acts()
    counted.add(batch([Act(number, STACKS[0], -code) for code in range(4096)]))
    expected = sum(bool(error_segment(number, code).error) for code in range(1, 4096))
    assert sum(counted.failures(NOBODY).values()) == expected
    assert expected >= 4091


@given(st.lists(acts(), max_size=4), st.integers(0, 3))
def test_each_is_counted_once(batches: list[list[Act]], most: int) -> None:
    """By library and kind as a plain count has it; beyond the bound at OTHER; nothing is lost."""
    counted = Acts(max_libraries=most)
    kept: list[str] = []
    expected, failed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in batches:
        numbers = counted.add(batch(each))
        for act, number in zip(each, numbers.tolist(), strict=True):
            kind = NAMES[act.number] if act.number < OWN_OPERATION else OWN_KIND
            whose = {0: "", 2: "a", 3: "b"}.get(STACKS.index(act.stack), "")
            named = counted.library(number)
            if whose and named is None:
                assert number == OTHER
                assert len(counted.libraries) == most
                whose = "other"
            elif whose:
                assert named == library(whose)
                kept.append(whose)
            else:
                assert number == NOBODY
            expected[whose, kind] += 1
            failed[whose, kind] += act.failed
    assert len(set(kept)) <= most
    rows = {("" if n == NOBODY else "other" if n == OTHER else counted.library(n).name): n for n in counted.rows()}  # type: ignore[union-attr]
    assert {(who, kind): count for who, n in rows.items() for kind, count in counted.by_kind(n).items()} == expected
    assert {(who, kind): count for who, n in rows.items() for kind, count in counted.failures(n).items()} == +failed
    assert counted.total == sum(map(len, batches))


def test_rows_grow() -> None:
    """More libraries than rows to begin with: nothing moves."""
    counted = Acts(max_libraries=200)
    for round_ in range(2):
        for number in range(250):
            counted.add(batch([Act(CONNECT, stack(f"lib{number}", "app"), -errno.EPERM)]))
        assert len(counted.libraries) == 200
        assert all(counted.by_kind(2 + at) == {"socket.connect": round_ + 1} for at in range(200))
        assert all(counted.failures(2 + at) == {"socket.connect": round_ + 1} for at in range(200))
    assert counted.by_kind(OTHER) == {"socket.connect": 100}
    assert counted.inside(OTHER) == 100


def test_stacks_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """More stacks than are kept, some met again after they were forgotten: what stands inside is counted all the same."""
    monkeypatch.setattr("kernelspan_agent.resolve.acts._STACKS", 4)
    counted, plain = Acts(), Counter[str]()
    many = [stack(f"lib{number % 3}", "app", f"lib{number % 5}") for number in range(20)]
    for first in (0, 3, 0, 9, 2, 0):
        part = many[first : first + 6]  # two more than there is room for
        counted.add(batch([Act(OPEN, each) for each in part]))
        plain.update(each.library.name for one in part for each in set(one.frames) if each.library is not None)
    assert {one.name: counted.inside(at + 2) for at, one in enumerate(counted.libraries)} == plain
    assert counted.total == 36


def test_a_version_is_another_library() -> None:
    """Two versions of one name, as two processes may have, are two."""
    counted = Acts()
    old, new = stack("a"), stack("a")
    new = replace(new, frames=(replace(new.frames[0], library=library("a", "2")),))
    assert counted.add(batch([Act(OPEN, old), Act(OPEN, new), Act(LOCK, old)])).tolist() == [2, 3, 2]
    assert np.array_equal(counted.rows(), [0, 1, 2, 3])
