# SPDX-License-Identifier: Apache-2.0
"""Returns and the check of the stack in code written by hand; of real linkers: tests/kernel/test_symbols_go.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.symbols import child, reading
from kernelspan_agent.process.symbols.reading import returns_of

ENTRY = 0x401000
COMPARE, GROW_BACK = "49 3b 66 10", "e8 00 00 00 00 eb"  # cmp rsp, [r14+16]; call, jmp short


def code(*parts: str) -> bytes:
    return bytes.fromhex(" ".join(parts))


@pytest.mark.parametrize(
    ("parts", "found", "body"),
    [
        # no check: ret
        (["31 c0 c3"], [2], 0),
        # cmp; jbe grow; test; je other; ret; other: ret; grow
        ([COMPARE, "76 06 85 c0 74 01 c3 c3", GROW_BACK, "ed"], [10, 11], 6),
        # a large frame's: mov r12, rsp; jb grow; cmp; jbe grow; ret; grow
        (["49 89 e4 72 07", COMPARE, "76 01 c3", GROW_BACK, "ed"], [11], 11),
        # a loop to its own entry is no growth: dec; jne entry; ret
        (["ff c8 75 fc c3"], [4], 0),
        # what is between the functions: ret; int3
        (["c3 cc cc cc"], [0], 0),
        # rep ret, ret 8
        (["f3 c3 c2 08 00"], [0, 2], 0),
    ],
)
def test_code_by_hand(parts: list[str], found: list[int], body: int) -> None:
    """Each by its bytes; places from the entry."""
    assert returns_of([[(ENTRY, code(*parts))]]) == [([ENTRY + at for at in found], ENTRY + body)]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (["c3 0f ff ff ff ff ff ff"], "no instruction is known"),
        (["eb 40 c3"], "goes on in another function"),
        (["74 f0 c3"], "goes on in another function"),
        (["ff e0 c3"], "only known when it runs"),
        (["c3 48"], "no instruction is known"),  # cut in the middle
    ],
)
def test_what_is_not_certain_is_refused(parts: list[str], problem: str) -> None:
    """With the reason."""
    (answer,) = returns_of([[(ENTRY, code(*parts))]])
    assert isinstance(answer, str)
    assert problem in answer


def test_much_code_is_read_by_one_child_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """None has more than its CPU time is enough for; what a child dies of is not told of the others' functions."""
    run = reading._run
    monkeypatch.setattr(reading, "CODE_AT_ONCE_BYTES", 100)
    monkeypatch.setattr(reading, "_run", lambda what, data: run(what, data) if len(data) < 200 else (b"", -9))
    short, long = [(ENTRY, b"\xc3")], [(ENTRY, b"\x90" * 200)]
    found, died = ([ENTRY], ENTRY), "the disassembler ended with -9"
    assert returns_of([short] * 4 + [short, long] + [short]) == [found] * 4 + [died] * 2 + [found]
    assert returns_of([]) == []


ASIDE = ENTRY + 0x100
TO_ASIDE = "0f 84 fa 00 00 00 c3"  # je aside; ret


def test_what_was_put_aside() -> None:
    """Is the function's own where it jumps there; what lies there besides is another's."""
    back = bytes.fromhex("74 01 c3 e9") + (ENTRY + 6 - ASIDE - 8).to_bytes(
        4, "little", signed=True
    )  # je +1; ret; jmp back
    parts = [(ENTRY, code(TO_ASIDE)), (ASIDE, back), (ASIDE + 0x40, b"\xc3")]
    assert returns_of([parts, [(ENTRY, b"\xc3"), *parts[1:]], parts[:1]]) == [
        ([ENTRY + 6, ASIDE + 2], ENTRY),
        ([ENTRY], ENTRY),
        f"it goes on in another function, by a jump at {ENTRY:#x}",
    ]


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_an_answer(content: bytes) -> None:
    """Returns inside the code, or a problem."""
    answer = child.returns([(ENTRY, content)])
    if "problem" not in answer:
        assert all(ENTRY <= address < ENTRY + len(content) for address in answer["returns"])
        assert ENTRY <= answer["body"] <= ENTRY + len(content)
