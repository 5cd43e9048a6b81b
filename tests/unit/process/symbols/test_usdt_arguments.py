# SPDX-License-Identifier: Apache-2.0
"""Operands of static probes, of compilers and of nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.symbols.usdt_arguments import (
    EM_AARCH64,
    EM_X86_64,
    MAX_ARGUMENTS,
    Argument,
    Place,
    parse_arguments,
    symbols_of,
)

REGISTER, MEMORY, CONSTANT = Place.REGISTER, Place.MEMORY, Place.CONSTANT
X86 = [
    ("8@%rax", Argument("8@%rax", 8, False, REGISTER, base="ax")),
    ("-4@%edx", Argument("-4@%edx", 4, True, REGISTER, base="dx")),
    ("1@%ah", Argument("1@%ah", 1, False, REGISTER, base="ax", shift=8)),
    ("-2@%r11w", Argument("-2@%r11w", 2, True, REGISTER, base="r11")),
    ("1@%sil", Argument("1@%sil", 1, False, REGISTER, base="si")),
    ("-4@-1204(%rbp)", Argument("-4@-1204(%rbp)", 4, True, MEMORY, base="bp", value=-1204)),
    ("8@(%rsp)", Argument("8@(%rsp)", 8, False, MEMORY, base="sp")),
    ("8@0x10(%r8)", Argument("8@0x10(%r8)", 8, False, MEMORY, base="r8", value=16)),
    ("4@8(%rax,%rbx,4)", Argument("4@8(%rax,%rbx,4)", 4, False, MEMORY, base="ax", index="bx", scale=4, value=8)),
    ("4@(,%r12,8)", Argument("4@(,%r12,8)", 4, False, MEMORY, index="r12", scale=8)),
    ("4@(%rax,%rbx)", Argument("4@(%rax,%rbx)", 4, False, MEMORY, base="ax", index="bx")),
    ("4@$5", Argument("4@$5", 4, False, CONSTANT, value=5)),
    ("-4@$-1", Argument("-4@$-1", 4, True, CONSTANT, value=-1)),
    ("4@$-1", Argument("4@$-1", 4, False, CONSTANT, value=0xFFFFFFFF)),
    ("-8@$0x7fffffffffffffff", Argument("-8@$0x7fffffffffffffff", 8, True, CONSTANT, value=(1 << 63) - 1)),
    ("8@foo(%rip)", Argument("8@foo(%rip)", 8, False, MEMORY, value=0x5000, relative=True)),
    ("8@foo+8(%rip)", Argument("8@foo+8(%rip)", 8, False, MEMORY, value=0x5008, relative=True)),
    ("8@-16+foo(%rip)", Argument("8@-16+foo(%rip)", 8, False, MEMORY, value=0x4FF0, relative=True)),
    ("8f@(%rax)", Argument("8f@(%rax)", 8, False, MEMORY, base="ax", floating=True)),
    ("%rdi", Argument("%rdi", 8, True, REGISTER, base="di")),
]
ARM = [
    ("8@x3", Argument("8@x3", 8, False, REGISTER, base="regs[3]")),
    ("-4@w12", Argument("-4@w12", 4, True, REGISTER, base="regs[12]")),
    ("8@sp", Argument("8@sp", 8, False, REGISTER, base="sp")),
    ("4@wzr", Argument("4@wzr", 4, False, CONSTANT)),
    ("-4@[sp, 60]", Argument("-4@[sp, 60]", 4, True, MEMORY, base="sp", value=60)),
    ("8@[x29, -8]", Argument("8@[x29, -8]", 8, False, MEMORY, base="regs[29]", value=-8)),
    ("8@[x0]", Argument("8@[x0]", 8, False, MEMORY, base="regs[0]")),
    ("-4@-1", Argument("-4@-1", 4, True, CONSTANT, value=-1)),
]


@pytest.mark.parametrize(("text", "argument"), X86)
def test_x86(text: str, argument: Argument) -> None:
    """Each form alone, and between two others."""
    assert parse_arguments(text, EM_X86_64, {"foo": 0x5000}) == (argument,)
    if "@" in text:
        several = parse_arguments(f"8@%rbx {text} -4@$7", EM_X86_64, {"foo": 0x5000})
        assert several[1] == argument
        assert [each.text for each in several] == ["8@%rbx", text, "-4@$7"]


@pytest.mark.parametrize(("text", "argument"), ARM)
def test_arm(text: str, argument: Argument) -> None:
    """The same for the other machine, whose operands hold spaces."""
    assert parse_arguments(text, EM_AARCH64, {}) == (argument,)
    assert parse_arguments(f"8@x1 {text} 8@x2", EM_AARCH64, {})[1] == argument


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("8@%xmm0", "not among those"),
        ("8f@%rax", "floating-point"),
        ("8@%fs:16", "unknown form"),
        ("8@%fs:16(%rax)", "unknown form"),
        ("16@%rax", "16 bytes"),
        ("0@%rax", "0 bytes"),
        ("8@8(%rip)", "does not name"),
        ("8@bar(%rip)", "not in the file's tables"),
        ("8@foo(%rax)", "not known before"),
        ("8@(%eax)", "no 64-bit"),
        ("8@(%rax,%esi,2)", "no 64-bit"),
        ("8@(%rax,%rbx,3)", "unknown form"),
        ("8@()", "no register"),
        ("8@$99999999999999999999", "64 bits"),
        ("8@99999999999999999999(%rax)", "64 bits"),
        ("8@$foo", "unknown form"),
        ("8@", "unknown form"),
        ("8@%rax) + system(", "not among those"),
    ],
)
def test_what_no_code_can_be_made_for_says_why(text: str, problem: str) -> None:
    """And has no place that anything could be read from."""
    (argument,) = parse_arguments(text, EM_X86_64, {"foo": 0x5000})
    assert argument.place is Place.UNKNOWN
    assert problem in argument.problem
    assert (argument.base, argument.index, argument.value) == ("", "", 0)


@given(st.text(max_size=80) | st.text("-48@%$()raxbp, f+[]#x0.", max_size=60), st.sampled_from([62, 183, 3]))
def test_any_text_is_read_or_says_why(text: str, machine: int) -> None:
    """Nothing is raised; what is used in code is of a closed set of registers and bounded numbers."""
    names = symbols_of(text)
    for argument in parse_arguments(text, machine, dict.fromkeys(names, 0x1000)):
        known = {"", "sp", *(f"regs[{number}]" for number in range(31)), *(f"r{number}" for number in range(8, 16))}
        assert argument.base in known | {"ax", "bx", "cx", "dx", "si", "di", "bp"}
        assert argument.index in known | {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp"}
        assert argument.scale in {1, 2, 4, 8}
        assert -(1 << 64) < argument.value < 1 << 65
        assert bool(argument.problem) == (argument.place is Place.UNKNOWN)


def test_there_are_no_more_arguments_than_a_probe_can_have() -> None:
    """<sys/sdt.h> has twelve."""
    assert len(parse_arguments("8@%rax " * 40, EM_X86_64, {})) == MAX_ARGUMENTS
