# SPDX-License-Identifier: Apache-2.0
"""Why a program was refused, out of the verifier's log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.probes.verdicts import MAX_LINE, verdict

STATS = "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n"


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        ("0: R1=ctx() R10=fp0\n0: (95) exit\nR0 !read_ok\n" + STATS, "R0 !read_ok at 0: (95) exit"),
        (
            "0: (b7) r0 = 0                        ; R0=0\n1: (79) r2 = *(u64 *)(r0 +0)      ; R0=0 R2_w=scalar()\n"
            "R0 invalid mem access 'scalar'\n" + STATS,
            "R0 invalid mem access 'scalar' at 1: (79) r2 = *(u64 *)(r0 +0)",
        ),
        (
            "; int x = *p; @ own.c:12\n7: (b7) r0 = 0\n8: (79) r2 = *(u64 *)(r0 +0)\nR0 invalid mem access 'inv'\n",
            "R0 invalid mem access 'inv' at 8: (79) r2 = *(u64 *)(r0 +0) of int x = *p; @ own.c:12",
        ),
        ("last insn is not an exit or jmp\n" + STATS, "last insn is not an exit or jmp"),
        ("9: (05) goto pc-2\nBPF program is too large. Processed 1000001 insn\n" + STATS,
         "BPF program is too large. Processed 1000001 insn at 9: (05) goto pc-2"),
        ("", ""),
    ],
    ids=["exit", "access", "source", "whole", "large", "nothing"],
)  # fmt: skip
def test_the_lines_that_matter(log: str, wanted: str) -> None:
    """The reason first, then where: of logs that Linux 6.18 wrote, and one of a program with line information."""
    assert verdict(log) == wanted


def test_a_long_log_is_looked_at_from_its_end() -> None:
    """A million states are not read, and no line is longer than a screen's."""
    log = "12: (79) r1 = *(u64 *)(r0 +0)\n" * 400_000 + "x" * 5000 + "\n" + STATS
    said = verdict(log)
    assert said.endswith("… at 12: (79) r1 = *(u64 *)(r0 +0)")
    assert len(said) < 2 * MAX_LINE


@given(st.text(max_size=2000))
def test_whatever_is_in_it(log: str) -> None:
    """One line that can be printed, bounded."""
    said = verdict(log)
    assert said.isprintable()
    assert len(said) <= 5 * MAX_LINE
