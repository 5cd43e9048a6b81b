# SPDX-License-Identifier: Apache-2.0
"""Constants from the kernel's types: an offset, a size, an enumerator, or a number where the types do not have it."""

from __future__ import annotations

import pytest

from kernelspan_agent.probes import compiler
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.constants import OFFSETS, OWN_OFFSETS
from tests.support.btf_builder import Builder


@pytest.fixture
def types() -> Btf:
    """One struct."""
    made = Builder()
    number = made.integer("int", 4)
    made.struct("pair", 8, ("first", number, 0), ("second", number, 32))
    return Btf(made.bytes())


@pytest.mark.parametrize(("what", "value"), [("pair.second", 4), ("sizeof pair", 8), ("98304", 98304)])
def test_what_it_is(types: Btf, what: str, value: int) -> None:
    assert compiler._constant(types, what) == value


def test_what_is_not_there_is_told_so_that_the_next_is_tried(types: Btf) -> None:
    """An older kernel's enum, which is none."""
    with pytest.raises(BtfError):
        compiler._constant(types, "enum pair.FIRST")


def test_every_constant_is_of_a_form_that_is_read() -> None:
    """Of the kernel's and of own probes'."""
    forms = {each.partition(" ")[0] for paths in (OFFSETS | OWN_OFFSETS).values() for each in paths if " " in each}
    assert forms == {"sizeof", "enum"}
