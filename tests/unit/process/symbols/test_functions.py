# SPDX-License-Identifier: Apache-2.0
"""Functions by name: which are meant, how many, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelspan_agent.process.errors import ProcessError, SymbolError
from kernelspan_agent.process.symbols import tables
from kernelspan_agent.process.symbols.functions import Found, check_offset, find_functions
from kernelspan_agent.process.symbols.where import open_path
from tests.unit.process.symbols import crafting

FUNC, IFUNC = 2, 10
CODE = crafting.BASE + 64 + 56 + 8


def file_of(names: list[tuple[str, int, int]], *, dynamic: bool = False) -> bytes:
    """(name, place in the code, type) each."""
    strings, entries = b"\0", []
    for name, at, kind in names:
        entries.append((len(strings), CODE + at, 8, kind))
        strings += name.encode() + b"\0"
    made = crafting.File()
    made.section(".text", b"\x90" * 4096)
    link = made.section(".strtab", strings, crafting.SHT_STRTAB)
    made.section(".symtab", crafting.symbols(entries), crafting.SHT_DYNSYM if dynamic else crafting.SHT_SYMTAB, link)
    return made.content()


def find(content: bytes, *texts: str, limit: int = 100) -> list[Found]:
    with crafting.opened(content) as binary:
        return find_functions(binary, texts, limit)


def places(found: Found) -> list[int]:
    return [function.address - CODE for function in found.functions]


def problem(found: Found) -> SymbolError:
    assert found.functions == ()
    assert found.problem is not None
    return found.problem


def test_every_static_function_of_a_name_is_found() -> None:
    """Each compile unit may have its own; one place is one function, by whatever names."""
    content = file_of([("parse", 0, FUNC), ("parse", 64, FUNC), ("parse_all", 96, FUNC), ("alias", 64, FUNC)])
    (found,) = find(content, "parse")
    assert (places(found), found.matched) == ([0, 64], 2)
    (found,) = find(content, "*")
    assert (places(found), found.matched) == ([0, 64, 96], 3)
    assert [function.name for function in found.functions] == ["parse", "parse", "parse_all"]


def test_a_name_goes_before_a_glob() -> None:
    """`main.(*Engine).Quote` is a name of Go's, and not what it could stand for as a glob."""
    names = [("main.(*Engine).Quote", 0, FUNC), ("main.(xEngine).Quote", 8, FUNC), ("a?c", 16, FUNC), ("abc", 24, FUNC)]
    first, second, third, fourth = find(file_of(names), "main.(*Engine).Quote", "main.(?Engine).Quote", "a?c", "a*c")
    assert places(first) == [0]
    assert places(second) == [0, 8]
    assert places(third) == [16]
    assert places(fourth) == [16, 24]


def test_a_glob_is_cut_and_counted() -> None:
    """How many there are is said."""
    content = file_of([(f"f{index}", 8 * index, FUNC) for index in range(300)])
    (found,) = find(content, "f*", limit=10)
    assert (len(found.functions), found.matched) == (10, 300)


def test_versions_are_no_part_of_names() -> None:
    """In the table and in what is asked."""
    content = file_of([("copy@V1", 0, FUNC), ("copy@@V2", 8, FUNC), ("copying", 16, FUNC)])
    for text in ("copy", "copy@@V2"):
        (found,) = find(content, text)
        assert places(found) == [0, 8]
        assert {function.name for function in found.functions} == {"copy"}


def test_names_of_cpp_and_rust_as_they_are_written() -> None:
    """With parameters, without, mangled, by glob; spaces do not count; a thunk and a cold part are others."""
    names = [
        ("_ZN2ns6Engine5quoteEi", 0, FUNC),
        ("_ZN2ns6Engine5quoteEPKc", 8, FUNC),
        ("_ZThn8_N2ns6Engine5quoteEi", 16, FUNC),
        ("_ZN2ns6Engine5quoteEi.cold", 24, FUNC),
        ("_RNvNtCs1234_7mycrate3net4send", 32, FUNC),
        ("_ZN7mycrate3net4send17h0123456789abcdefE", 40, FUNC),
        ("quote", 48, FUNC),
        ("_Z5twiceIiET_S0_", 56, FUNC),
        # of rustc 1.95, by both schemes
        ("_RNvMNtCskK7mfDs1mzF_1m7pricingINtB2_6EnginelE5quoteB4_", 64, FUNC),
        ("_RNvXs_NtCskK7mfDs1mzF_1m7pricingINtB4_6EnginelENtB4_5Price5price", 72, FUNC),
        ("_ZN1m7pricing15Engine$LT$T$GT$5quote17h24509fb0e35dfd4cE", 80, FUNC),
        (
            "_ZN67_$LT$m..pricing..Engine$LT$i32$GT$$u20$as$u20$m..pricing..Price$GT$5price17h9b86e8f42f09e50cE",
            88,
            FUNC,
        ),
    ]
    cases = {
        "ns::Engine::quote": [0, 8],
        "ns::Engine::quote(int)": [0],
        "ns::Engine::quote(char const *)": [8],
        "_ZN2ns6Engine5quoteEi": [0],
        "ns::*::quote": [0, 8],
        "mycrate::net::send": [32, 40],
        "quote": [48],
        "twice<int>": [56],
        "int twice<int>(int)": [56],
        "m::pricing::Engine<i32>::quote": [64],
        "<m::pricing::Engine<i32>>::quote": [64],
        "m::pricing::Engine<T>::quote": [80],
        "<m::pricing::Engine<i32> as m::pricing::Price>::price": [72, 88],
    }
    found = dict(zip(cases, find(file_of(names), *cases), strict=True))
    assert {text: places(each) for text, each in found.items()} == cases
    assert found["_ZN2ns6Engine5quoteEi"].functions[0].demangled == "ns::Engine::quote(int)"


def test_what_is_not_there_names_the_nearest() -> None:
    """By name, or as it is written in the source."""
    content = file_of([("PyObject_Call", 0, FUNC), ("_ZN2ns6Engine5quoteEi", 8, FUNC), ("other", 16, FUNC)])
    first, second, third = find(content, "PyObject_Cal", "ns::Engine::quota", "nothing_like_it")
    assert "it has PyObject_Call" in str(problem(first))
    assert "it has ns::Engine::quote" in str(problem(second))
    assert str(problem(third)).endswith("has no function nothing_like_it")
    assert {problem(each).reason for each in (first, second, third)} == {"SymbolNotFound"}


def test_an_indirect_function_is_refused() -> None:
    """Its address is that of the resolver, which runs once."""
    content = file_of([("memcpy", 0, IFUNC), ("memcpy_fast", 8, FUNC)])
    first, second = find(content, "memcpy", "memcpy*")
    assert "IFUNC" in str(problem(first))
    assert places(second) == [8]


def test_what_is_called_of_a_library_says_so() -> None:
    """A probe on it belongs to the library's file."""
    strings = b"\0malloc@GLIBC_2.2.5\0here\0"
    made = crafting.File()
    made.section(".text", b"\x90" * 64)
    link = made.section(".dynstr", strings, crafting.SHT_STRTAB)
    rows = bytearray(crafting.symbols([(1, 0, 0, 0), (20, CODE, 8, FUNC)]))
    rows[24 + 6 : 24 + 8] = b"\0\0"  # of no section
    made.section(".dynsym", bytes(rows), crafting.SHT_DYNSYM, link)
    first, second = find(made.content(), "malloc", "here")
    assert "a function of a library" in str(problem(first))
    assert places(second) == [0]


def test_an_offset_must_lie_in_code() -> None:
    """Not in the headers of another segment, nor behind the file."""
    with crafting.opened(file_of([("f", 0, FUNC)])) as binary:
        check_offset(binary, 64)
        for offset in (-1, 1 << 20, 1 << 63):
            with pytest.raises(SymbolError, match="no code at offset"):
                check_offset(binary, offset)


_MANY = 200_000
_LOOKS = """
import re, sys
from kernelspan_agent.process.symbols.functions import find_functions
from kernelspan_agent.process.symbols.where import open_path
def highest():  # of this program alone: getrusage has that of the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
with open_path(sys.argv[1]) as binary:
    find_functions(binary, ["nothing"])
before = highest()
with open_path(sys.argv[2]) as binary:
    found = find_functions(binary, ["function_with_a_long_name_199999", "*_name_1*", "nearly_anything"])
print(found[0].matched, found[1].matched, (highest() - before) >> 10)
"""


def test_a_file_of_very_many_symbols_costs_little_memory(tmp_path: Path) -> None:
    """As many as a browser has: some arrays, and no object for a symbol that nobody asked for."""
    names = np.char.mod(b"function_with_a_long_name_%06d", np.arange(_MANY)).astype("S33")  # 33: one NUL at the end
    strings = b"\0" + names.tobytes()
    rows = np.zeros(_MANY, tables._SYMBOL)
    rows["name"], rows["info"], rows["section"] = 1 + 33 * np.arange(_MANY), FUNC, 1
    rows["value"], rows["size"] = CODE + np.arange(_MANY) % 4096, 1
    made = crafting.File()
    made.section(".text", b"\x90" * 4096)
    link = made.section(".strtab", strings, crafting.SHT_STRTAB)
    made.section(".symtab", rows.tobytes(), crafting.SHT_SYMTAB, link)
    (tmp_path / "large").write_bytes(made.content())
    (tmp_path / "small").write_bytes(file_of([("f", 0, FUNC)]))
    command = [sys.executable, "-c", _LOOKS, str(tmp_path / "small"), str(tmp_path / "large")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    matched, globbed, mebibytes = map(int, said.split())
    assert (matched, globbed) == (1, 4096)
    assert mebibytes < 32


def test_a_stripped_file_says_what_to_do() -> None:
    """No table at all, or one of exports only, and nothing near."""
    for content in (file_of([], dynamic=True), file_of([("exported", 0, FUNC)], dynamic=True)):
        error = problem(find(content, "hidden_thing")[0])
        assert error.reason == "SymbolStripped"
        assert "-dbgsym" in error.hint


@pytest.mark.parametrize("text", ["", "*" * 300, "a\0b", "\ud800", "(", "::", "f(" * 200, "operator", "\n", "~", "<>"])
def test_any_text_is_an_answer(text: str) -> None:
    """What no function can be called is not found, or everything."""
    (found,) = find(file_of([("f", 0, FUNC), ("_Z1fv", 8, FUNC)]), text)
    assert bool(found.functions) != bool(found.problem)


@given(st.data())
def test_damaged_files_never_do_more_than_raise(data: st.DataObject) -> None:
    """Any bytes changed anywhere."""
    content = bytearray(file_of([("parse", 0, FUNC), ("parse_i", 64, FUNC), ("memcpy", 96, IFUNC)]))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 130), st.integers(4224, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    try:
        for found in find(bytes(content), "parse", "memcpy", "p*"):
            assert all(0 <= function.offset < len(content) for function in found.functions)
    except ProcessError:
        pass


def test_this_interpreter() -> None:
    """A real program, by a name that it exports."""
    with open_path(os.path.realpath(sys.executable)) as binary:
        found = find_functions(binary, ["Py_BytesMain", "Py_BytesMane"])
    if found[0].problem is None:  # else it is in libpython
        assert found[0].functions[0].name == "Py_BytesMain"
        assert "Py_BytesMain" in str(found[1].problem)


def test_the_disk_is_not_written_to(tmp_path: Path) -> None:
    """A file that may only be read is enough."""
    path = tmp_path / "file"
    path.write_bytes(file_of([("f", 0, FUNC)]))
    path.chmod(0o444)
    with open_path(str(path)) as binary:
        assert places(find_functions(binary, ["f"])[0]) == [0]
