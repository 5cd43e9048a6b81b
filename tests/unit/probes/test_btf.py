# SPDX-License-Identifier: Apache-2.0
"""BTF made by hand, whole and broken: what is there is found, what is not sound is told, nothing is read outside."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes import btf, memberpath, syscalls
from kernelspan_agent.probes.btf import Btf, BtfError
from kernelspan_agent.probes.ktypes import KernelTypes
from kernelspan_agent.probes.typeparse import typed
from kernelspan_agent.probes.typetext import text
from tests.support.btf_builder import MAGIC, Builder, small_kernel

SMALL = small_kernel().bytes()
PATHS = (
    "parent.parent.comm",
    "left",
    "flag",
    "hidden.x",
    "table[3]",
    "address.(struct holder *).task.comm",
    "(struct holder *).before",
)


def header(*parts: int, length: int = 24) -> bytes:
    return struct.pack("<HBBIIIII", MAGIC, 1, 0, length, *parts)


def test_offsets_and_sizes() -> None:
    """Through unnamed members; a bit-field's is that of the byte in which it begins."""
    types = Btf(SMALL)
    assert [types.offset(path) for path in ("task.comm", "task.right", "task.wide", "holder.task.comm")] == [
        8,
        28,
        32,
        16,
    ]
    assert types.size("task") == 96
    with pytest.raises(BtfError, match="no member nothing"):
        types.offset("task.nothing")
    with pytest.raises(BtfError, match="struct size_t: not in"):
        types.size("size_t")


def test_enumerators() -> None:
    """By the enum's name and theirs; what is not there is told."""
    made = Builder()
    words = [word for name, value in (("FIRST", 1), ("SECOND", 0x8000)) for word in (made.name(name), value)]
    made.add(btf.ENUM, "flags", 4, words, 2)
    types = Btf(made.bytes())
    assert types.enumerator("flags.SECOND") == 0x8000
    for path, what in (("flags.THIRD", "enum flags has no THIRD"), ("others.FIRST", "enum others")):
        with pytest.raises(BtfError, match=what):
            types.enumerator(path)


def test_the_first_type_is_found() -> None:
    """Where it begins, void begins as well."""
    assert Btf(SMALL).find("int", btf.INT) == 1


def test_a_name_within_a_name_is_another() -> None:
    """What ends or begins so is not taken for it."""
    made = Builder()
    made.integer("xint", 4)
    made.integer("intx", 4)
    assert Btf(made.bytes()).find("int", btf.INT) is None
    assert Btf(made.bytes()).find("xint", btf.INT) == 1


@pytest.mark.parametrize(
    ("declaration", "written"),
    [
        (lambda b, char: b.pointer(b.add(btf.CONST, "", char)), "const char *"),
        (lambda b, char: b.add(btf.CONST, "", b.pointer(char)), "char *const"),
        (lambda b, char: b.pointer(b.array(char, 3)), "char (*)[3]"),
        (lambda b, char: b.array(b.array(char, 3), 2), "char[2][3]"),
        (lambda b, char: b.array(char, 0), "char[]"),
        (lambda b, char: b.array(b.pointer(char), 2), "char *[2]"),
        (lambda b, char: b.pointer(b.add(btf.FUNC_PROTO, "", char, [0, char, 0, 0], 2)), "char (*)(char, ...)"),
        (lambda b, _: b.pointer(b.add(btf.FUNC_PROTO, "", 0)), "void (*)(void)"),
        (lambda b, _: b.pointer(b.struct("", 4)), "struct {…} *"),
        (lambda b, _: b.pointer(b.add(btf.FWD, "u", flag=True)), "union u *"),
        (lambda b, char: b.add(btf.VOLATILE, "", b.add(btf.CONST, "", char)), "volatile const char"),
    ],
)  # fmt: skip
def test_types_as_c_writes_them(declaration: object, written: str) -> None:
    """Pointers to arrays and arrays of pointers, qualifiers on their side of the star."""
    made = Builder()
    number = declaration(made, made.integer("char", 1))  # type: ignore[operator]
    assert text(Btf(made.bytes()), number) == written


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not BTF"),
        (b"\x7fELF" + bytes(60), "not BTF"),
        (header(0, 0, 0, 0, length=8), "outside"),
        (header(0, 4, 4, 0), "outside"),
        (header(0, 0, 0, 1), "outside"),
        (header(0xFFFF_FFFC, 8, 0, 0), "outside"),
        (header(0, 3, 3, 0) + bytes(3), "outside"),
        (header(0, 8, 8, 0) + struct.pack("<II", 0, 1 << 24), "cut short"),
        (header(0, 12, 12, 0) + struct.pack("<III", 0, btf.STRUCT << 24 | 0xFFFFFF, 0), "cut short"),
        (header(0, 12, 12, 0) + struct.pack("<III", 0, 99 << 24, 0), "unknown here"),
    ],
)
def test_what_is_not_sound_is_refused(content: bytes, words: str) -> None:
    """With what is wrong, before anything is looked up."""
    with pytest.raises(BtfError, match=words):
        Btf(content)


def test_circles_have_an_end() -> None:
    """Typedefs of each other, arrays of themselves, unnamed structs that contain themselves."""
    made = Builder()
    circle = made.add(btf.TYPEDEF, "circle", 1)
    ring = made.array(2, 2)
    inside = made.struct("self", 8, ("", 3, 0), ("", 3, 0), ("", 3, 0))
    types = Btf(made.bytes())
    with pytest.raises(BtfError, match="without end"):
        types.plain(circle)
    with pytest.raises(BtfError, match="no end"):
        text(types, ring)
    assert types.member(inside, "nothing") is None


def test_names_cannot_steer_a_terminal() -> None:
    """What cannot be printed is replaced; a name without its end is none."""
    made = Builder()
    made.integer("a\x1b[2J\n", 4)
    assert Btf(made.bytes()).record(1).name == "a\ufffd[2J\ufffd"
    with pytest.raises(BtfError, match="without end"):
        Btf(made.bytes()[:-1] + b"x").record(1)


def folder(where: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (where / name).write_bytes(content)
    return where


def test_a_module_goes_on_where_the_kernel_ends(tmp_path: Path) -> None:
    """Its types are made of the kernel's, its names are in either, its structs complete what the kernel only declares."""
    kernel = small_kernel()
    module = Builder(*kernel.ends)
    whole = module.struct("elsewhere", 8, ("x", 1, 32))  # int, of the kernel
    module.function("module_reap", 1, ("victim", 6))
    module.struct("int", 4, ("task", 6, 0))  # a name that the kernel has already
    with KernelTypes.open(folder(tmp_path, vmlinux=kernel.bytes(), m=module.bytes(), broken=b"?")) as types:
        assert types.find("elsewhere", btf.STRUCT) == ("m", whole)
        found = types.function("module_reap")
        assert found is not None
        assert (found.module, found.parameters[0].type.text, found.returns and found.returns.text) == (
            "m",
            "struct task *",
            "int",
        )
        resolved = memberpath.resolve(types, found.parameters[0].type, "hidden.x")
        assert [(step.offset, step.dereference) for step in resolved.steps] == [(64, True), (4, False)]
        reap = types.function("reap")
        assert reap is not None
        assert memberpath.resolve(types, reap.parameters[0].type, "hidden.x").steps == resolved.steps
        assert types.find("int", btf.STRUCT) == ("m", whole + 3)
        assert set(types.functions(["reap", "module_reap", "nothing"])) == {"reap", "module_reap"}


def test_a_folder_cannot_be_left(tmp_path: Path) -> None:
    """The name of a module is none of a path."""
    inner = tmp_path / "btf"
    inner.mkdir()
    with KernelTypes.open(folder(inner, vmlinux=SMALL)) as types:
        folder(tmp_path, outside=Builder(*small_kernel().ends).bytes())
        for name in ("../outside", "..", "vmlinux", "missing"):
            with pytest.raises(BtfError):
                types.types(name)


def test_no_type_information_is_told(tmp_path: Path) -> None:
    """With what would have it."""
    with pytest.raises(MachineError, match="No such file") as told:
        KernelTypes.open(tmp_path)
    assert (told.value.reason, told.value.exit_code) == ("KernelTooOld", 3)
    assert "CONFIG_DEBUG_INFO_BTF" in told.value.hint
    (tmp_path / "vmlinux").write_bytes(b"")
    with pytest.raises(MachineError, match="no BTF"):
        KernelTypes.open(tmp_path)


def ask_everything(where: Path) -> None:
    """Whatever can be asked of BTF; only errors that are told may come of it."""
    with contextlib.suppress(MachineError), KernelTypes.open(where) as types:
        found = []
        for name in ("reap", "values", "say", "module_reap"):
            with contextlib.suppress(MachineError):
                found.append(types.function(name))
        with contextlib.suppress(MachineError):
            types.raw_tracepoint("reaped")
        types.functions(["reap", "say"])
        syscalls.names(types, None)
        for function in filter(None, found):
            for parameter in function.parameters:
                for path in PATHS:
                    with contextlib.suppress(MachineError):
                        assert len(memberpath.resolve(types, parameter.type, path).steps) <= memberpath.MAX_STEPS + 1
        for number in range(min(types.kernel.count, 64)):
            for ask in (
                types.kernel.record,
                types.kernel.plain,
                lambda each: text(types.kernel, each),
                lambda each: types.leaf("", each),
            ):
                with contextlib.suppress(BtfError):
                    ask(number)
        with contextlib.suppress(BtfError):
            typed(types, "const struct task *const *")


def _changed(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(content)
    for at, byte in changes:
        data[at % len(data)] = byte
    return bytes(data)


_CHANGES = st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 255)), min_size=1, max_size=12)


@given(_CHANGES, _CHANGES, st.integers(0, len(SMALL)))
@example([(28 + 3, 0x0D)], [(0, 0)], len(SMALL))
@settings(max_examples=60)
def test_changed_bytes_break_nothing(tmp_path_factory: pytest.TempPathFactory, kernel: list[tuple[int, int]], module: list[tuple[int, int]], end: int) -> None:  # fmt: skip
    """Of the kernel's and of a module's; a file that ends anywhere."""
    where = tmp_path_factory.mktemp("btf")
    base = small_kernel()
    on_top = Builder(*base.ends)
    on_top.struct("elsewhere", 8, ("x", 1, 32))
    on_top.function("module_reap", 1, ("victim", 6))
    folder(where, vmlinux=_changed(SMALL, kernel)[: max(end, 1)], m=_changed(on_top.bytes(), module))
    ask_everything(where)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.binary(max_size=200))
@settings(max_examples=60)
def test_random_types_break_nothing(tmp_path_factory: pytest.TempPathFactory, words: list[int], names: bytes) -> None:
    """Behind a header that is right, anything."""
    where = tmp_path_factory.mktemp("btf")
    content = struct.pack(f"<{len(words)}I", *words)
    data = header(0, len(content), len(content), len(names)) + content + names
    ask_everything(folder(where, vmlinux=data))


def test_what_is_read_is_given_back(tmp_path: Path) -> None:
    """No descriptor stays open, and nothing is readable after close."""
    folder(tmp_path, vmlinux=SMALL)
    before = set(Path("/proc/self/fd").iterdir())
    types = KernelTypes.open(tmp_path)
    types.close()
    assert set(Path("/proc/self/fd").iterdir()) == before
    with pytest.raises(BtfError, match="no type"):
        types.kernel.record(1)
