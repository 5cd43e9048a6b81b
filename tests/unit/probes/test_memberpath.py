# SPDX-License-Identifier: Apache-2.0
"""Paths through types made by hand: every kind of step, and what is refused with why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.ktypes import KernelTypes, LeafKind, Step
from kernelspan_agent.probes.memberpath import resolve
from kernelspan_agent.probes.typeparse import pointer_to, typed
from tests.support.btf_builder import small_kernel


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelTypes]:
    where = tmp_path_factory.mktemp("btf")
    (where / "vmlinux").write_bytes(small_kernel().bytes())
    with KernelTypes.open(where) as opened:
        yield opened


def through(*offsets: int) -> tuple[Step, ...]:
    """Followed at all but the last."""
    return tuple(Step(offset, dereference=at < len(offsets) - 1) for at, offset in enumerate(offsets))


@pytest.mark.parametrize(
    ("path", "steps", "kind", "size"),
    [
        ("parent", through(0), LeafKind.POINTER, 8),
        ("parent.parent.comm", through(0, 0, 8), LeafKind.STRING, 16),
        ("comm[15]", through(23), LeafKind.INTEGER, 1),
        ("right", through(28), LeafKind.INTEGER, 4),
        ("table[3]", through(68), LeafKind.INTEGER, 4),
        ("alive", through(80), LeafKind.BOOL, 1),
        ("[0]", through(0), LeafKind.STRUCT, 96),
        ("[2].comm", through(200), LeafKind.STRING, 16),
        ("parent[1].comm", through(0, 104), LeafKind.STRING, 16),
        ("(struct holder *)", through(-8), LeafKind.STRUCT, 136),
        ("(struct holder *).before", through(-8), LeafKind.INTEGER, 8),
        ("(holder *).table", through(96), LeafKind.ARRAY, 16),
        ("parent.(struct holder *).task.comm", through(0, 8), LeafKind.STRING, 16),
        ("parent.(struct holder *).(struct task *).comm", through(0, 8), LeafKind.STRING, 16),
        ("address.(struct holder *).table[1]", through(72, 108), LeafKind.INTEGER, 4),
        ("comm.(struct pair *).b", through(16), LeafKind.INTEGER, 8),
    ],
)
def test_steps_and_what_is_there(
    types: KernelTypes, path: str, steps: tuple[Step, ...], kind: LeafKind, size: int
) -> None:
    """Offsets add up until a pointer is followed."""
    found = resolve(types, pointer_to(types, "struct task *"), path)
    assert found.steps == steps
    assert (found.leaf.kind, found.leaf.size) == (kind, size)


def test_no_path_is_the_argument_itself(types: KernelTypes) -> None:
    """Nothing is read."""
    start = pointer_to(types, "struct task *")
    assert resolve(types, start, "") == resolve(types, start, "")
    assert resolve(types, start, "").steps == ()
    assert resolve(types, start, "").leaf is start


@pytest.mark.parametrize(
    ("path", "step", "size", "offset", "bits"),
    [("flag", 32, 1, 0, 3), ("wide", 32, 4, 3, 20)],
)
def test_bit_fields(types: KernelTypes, path: str, step: int, size: int, offset: int, bits: int) -> None:
    """In the smallest word that is aligned and holds all of it."""
    found = resolve(types, pointer_to(types, "struct task *"), path)
    assert found.steps == through(step)
    assert (found.leaf.size, found.leaf.bit_offset, found.leaf.bit_size) == (size, offset, bits)


def test_the_process_memory_is_told_apart(types: KernelTypes) -> None:
    """Behind a pointer that BTF or the caller says is the process's, all is."""
    found = resolve(types, pointer_to(types, "struct task *"), "buffer[3]")
    assert found.steps == (Step(40, dereference=True), Step(3, dereference=False, user=True))
    start = typed(types, "const struct task *const *", user=True)
    assert start is not None
    found = resolve(types, start, "[1].parent.comm")
    assert found.steps == (Step(8, True, True), Step(0, True, True), Step(8, False, True))


@pytest.mark.parametrize(
    ("path", "words", "hint"),
    [
        ("comn", "struct task has no member comn", "near it: comm"),
        ("lefd", "has no member lefd", "near it: left"),
        ("parent.comm.x", r"char\[16\] has no members, so no x", ""),
        ("comm[16]", "has no element 16", ""),
        ("alive[0]", "neither an array nor a pointer", ""),
        ("counters[0]", "a value for each CPU", ""),
        ("hidden.x", "only declared", ""),
        ("hidden[1]", "size of struct elsewhere is not known", ""),
        ("(struct nothing *).x", "struct nothing is not in", ""),
        ("(size_t *).x", "size_t is no struct", ""),
        ("(struct pair *).a", "nothing that could be taken for struct pair", ""),
        ("(struct twice *).one", "in more than one place", ""),
        ("comm.(struct large *).a", "24 bytes, more than char", ""),
        (".".join(["parent"] * 18), "more than 16 pointers", ""),
        (".".join(["parent"] * 90), "no path", ""),
        ("a..b", "no path", "such as"),
        (".a", "no path", "such as"),
        ("a.", "no path", "such as"),
        ("a b", "no path", "such as"),
        ("a->b", "no path", "such as"),
        ("a[x]", "no path", "such as"),
        ("a[-1]", "no path", "such as"),
        ("(a", "no path", "such as"),
        ("a;b", "no path", "such as"),
        ("parent[999999].comm", "", ""),
        ("comm\0", "no path", "such as"),
        ("commé", "no path", "such as"),
    ],
)
def test_what_cannot_be_is_refused(types: KernelTypes, path: str, words: str, hint: str) -> None:
    """With the member that is not there and the nearest that are."""
    start = pointer_to(types, "struct task *")
    if not words:
        assert resolve(types, start, path).steps == through(0, 999999 * 96 + 8)
        return
    with pytest.raises(MachineError, match=words) as told:
        resolve(types, start, path)
    assert told.value.reason == "ArgumentUnsupported"
    assert path in str(told.value)
    assert hint in told.value.hint


def test_it_may_not_lead_too_far(types: KernelTypes) -> None:
    """Offsets stay within what a program's text can hold."""
    with pytest.raises(MachineError, match="too far"):
        resolve(types, pointer_to(types, "struct huge *"), "[999999].x")


def test_values_have_no_members(types: KernelTypes) -> None:
    """A struct that is passed by value lies in registers."""
    values = types.function("values")
    assert values is not None
    assert [each.slot for each in values.parameters] == [0, 2, None, 3]
    with pytest.raises(MachineError, match="passed by value"):
        resolve(types, values.parameters[0].type, "a")
    with pytest.raises(MachineError, match="passed by value"):
        resolve(types, values.parameters[0].type, "(struct task *).comm")


def test_functions_and_raw_tracepoints(types: KernelTypes) -> None:
    """Names, types, what is returned; an ellipsis; without the argument that is the kernel's own."""
    reap, say, reaped = types.function("reap"), types.function("say"), types.raw_tracepoint("reaped")
    assert reap is not None
    assert say is not None
    assert reaped is not None
    assert [(each.name, each.type.text) for each in reap.parameters] == [("victim", "struct task *"), ("how", "enum state"), ("limit", "size_t")]  # fmt: skip
    assert [each.type.signed for each in reap.parameters] == [False, True, False]
    assert reap.returns is not None
    assert reap.returns.text == "int"
    assert ([each.name for each in say.parameters], say.variadic) == (["format"], True)
    assert [(each.name, each.type.text, each.slot) for each in reaped.parameters] == [("victim", "struct task *", 0), ("status", "int", 1)]  # fmt: skip
    assert types.function("nothing") is None
    assert types.function("task") is None  # a struct
    assert types.raw_tracepoint("nothing") is None


@pytest.mark.parametrize(
    ("text", "kind", "size", "of"),
    [
        ("unsigned long", LeafKind.INTEGER, 8, None),
        ("const char *", LeafKind.POINTER, 8, "char"),
        ("char __user *", LeafKind.POINTER, 8, "char"),
        ("struct task**", LeafKind.POINTER, 8, "struct task *"),
        ("size_t", LeafKind.INTEGER, 8, None),
        ("enum state", LeafKind.ENUM, 4, None),
        ("struct pair", LeafKind.STRUCT, 16, None),
        ("char[5]", LeafKind.STRING, 5, "char"),
        ("int[]", LeafKind.ARRAY, 0, "int"),
        ("void *", LeafKind.POINTER, 8, "void"),
    ],
)
def test_types_by_their_text(types: KernelTypes, text: str, kind: LeafKind, size: int, of: str | None) -> None:
    """As tracefs writes them."""
    leaf = typed(types, text)
    assert leaf is not None
    assert (leaf.kind, leaf.size, leaf.of.text if leaf.of else None) == (kind, size, of)


@pytest.mark.parametrize("text", ["", "*", "nothing", "struct", "struct nothing *", "int (*)(int)", "int x", "char *****", "char" * 500, "int[", "a;b", "char *[2]"])  # fmt: skip
def test_no_type_is_none(types: KernelTypes, text: str) -> None:
    """Nothing is guessed."""
    assert typed(types, text) is None
