# SPDX-License-Identifier: Apache-2.0
"""The symboliser on this very process, and on memory that is made to mislead it."""

from __future__ import annotations

import dis
import json
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.ring.records import FRAME
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.python import symbolise
from kernelspan_agent.runtimes.python.layout import ADDRESS_BITS, NO_MODULE, Types, mix_words
from kernelspan_agent.runtimes.python.lines import line_of
from kernelspan_agent.runtimes.python.symbolise import PythonSymboliser, read_check
from kernelspan_agent.runtimes.python.tasks import NONE, task_number
from kernelspan_agent.runtimes.python.versions import BY_MINOR
from tests.support.noise import Noise
from tests.support.own_python import own_python

MINOR = sys.version_info.minor


@pytest.fixture(scope="module")
def own() -> Any:
    """This process: (memory, what was detected)."""
    with own_python() as (_, found, memory):
        yield memory, found


def row(own: Any, frame: FrameType, **changed: int) -> np.ndarray:
    memory, found = own
    offsets = found.details.offsets
    code = id(frame.f_code)
    base = code + offsets.code_bytecode if MINOR >= 11 else 0
    pc = base + (frame.f_lasti if MINOR != 10 else frame.f_lasti // 2)
    values = {"code": code, "pc": pc, "globals": id(frame.f_globals), "check": read_check(memory, code, offsets)}
    rows = np.zeros(1, FRAME)
    for name, value in (values | changed).items():
        rows[name] = value
    return rows


def test_names_itself(own: Any) -> None:
    """A running frame of this test, with its line."""
    frame = sys._getframe()
    rows, line = row(own, frame), frame.f_lineno
    memory, found = own
    (named,) = registry.symboliser(found, memory).frames(rows)
    name = frame.f_code.co_qualname if MINOR >= 11 else frame.f_code.co_name
    assert (named.function, named.file, named.line) == (f"{__name__}.{name}", __file__, line)
    assert named.call_site == int(rows["pc"][0]) - named_base(own, rows)


def named_base(own: Any, rows: np.ndarray) -> int:
    return int(rows["code"][0]) + own[1].details.offsets.code_bytecode if MINOR >= 11 else 0


def test_another_check_is_another_function(own: Any) -> None:
    """A row whose check is not the code's has no name, and says why."""
    memory, found = own
    rows = row(own, sys._getframe())
    rows["check"] ^= 1
    symboliser = registry.symboliser(found, memory)
    (frame,) = symboliser.frames(rows)
    assert (frame.function, frame.file, frame.line, frame.unresolved) == ("", "", 0, symbolise.REPLACED)
    assert symboliser.unresolved == {symbolise.REPLACED: 1}


def test_a_dead_object_is_seen(own: Any) -> None:
    """An object that is no code object, though all else fits, has no name."""
    memory, found = own
    rows = row(own, sys._getframe())
    types = Types(code=found.details.types.dict)
    (frame,) = PythonSymboliser(memory, found.details.offsets, types).frames(rows)
    assert (frame.function, frame.unresolved) == ("", symbolise.FREED)


def test_another_name_at_the_namespaces_address_costs_only_the_module(own: Any) -> None:
    """With the hash of the module's name as the kernel gives it the module is named, with another or none it is not."""
    memory, found = own
    frame = sys._getframe()
    rows = row(own, frame)
    name = id(frame.f_globals["__name__"])
    mixed = mix_words(symbolise._text_words(memory, name, found.details.offsets))
    for bits, known in ((mixed, True), (mixed ^ 1, False), (mixed ^ 1 << 63, False), (NO_MODULE, False)):
        rows["globals"] = id(frame.f_globals) | bits >> ADDRESS_BITS << ADDRESS_BITS
        rows["tag"] = bits & 0xFFFF
        (named,) = registry.symboliser(found, memory).frames(rows)
        assert (named.module == __name__) is known
        assert named.qualname.endswith(frame.f_code.co_name)


@pytest.mark.parametrize("globals_address", [0, 8, 1 << 63, (1 << 64) - 8])
def test_unreadable_globals_cost_only_the_module(own: Any, globals_address: int) -> None:
    """The name stays true without its module."""
    memory, found = own
    (frame,) = registry.symboliser(found, memory).frames(row(own, sys._getframe(), globals=globals_address))
    assert frame.module == ""
    assert frame.function == frame.qualname != ""


def test_names_without_a_module(own: Any) -> None:
    """Globals with no __name__, with one that is no str, and with one far behind: only a str is taken."""
    memory, found = own
    for value in (5, None, b"x", ["y"]):
        space = {"__name__": value}
        (frame,) = registry.symboliser(found, memory).frames(row(own, sys._getframe(), globals=id(space)))
        assert frame.module == ""
    filled: dict[Any, Any] = {str(index): index for index in range(30)} | {7: 8, "__name__": "m\u00e9\n"}
    (frame,) = registry.symboliser(found, memory).frames(row(own, sys._getframe(), globals=id(filled)))
    assert frame.module == "m\u00e9\\n"


def test_caches_are_bounded(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many frames come by, a bounded number is kept."""
    monkeypatch.setattr(symbolise, "MAX_FRAMES", 8)
    monkeypatch.setattr(symbolise, "MAX_CODES", 4)
    memory, found = own
    symboliser = PythonSymboliser(memory, found.details.offsets, found.details.types)
    rows = np.concatenate([row(own, sys._getframe(), globals=index) for index in range(50)])
    assert len(symboliser.frames(rows)) == 50
    assert len(symboliser._frames) == 8
    assert len(symboliser._codes) == 4


def test_shim_frames_are_left_out() -> None:
    """An owner that marks the interpreter's own frames gives no frame, from 3.12 on."""
    rows = np.zeros(3, FRAME)
    rows["owner"] = (2, 3, 4)
    for minor, count in ((11, 3), (12, 1), (15, 1)):
        frames = PythonSymboliser(Noise(bytes(8), holes=1), BY_MINOR[minor], Types()).frames(rows)
        assert [frame.unresolved for frame in frames] == [symbolise.UNREADABLE] * count


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(BY_MINOR)),
    st.binary(min_size=1, max_size=600),
    st.integers(0, 5),
    st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4),
)
def test_random_memory_never_does_more_than_fail(minor: int, data: bytes, holes: int, words: list[int]) -> None:
    """Few reads, no exception, text that can be sent."""
    memory = Noise(data, holes=holes)
    rows = np.zeros(1, FRAME)
    rows["code"], rows["pc"], rows["globals"] = words[:3]
    offsets = BY_MINOR[minor]
    try:
        rows["check"] = read_check(memory, words[0], offsets)
    except MemoryReadError:
        rows["check"] = words[3] & 0xFFFFFFFF
    for frame in PythonSymboliser(memory, offsets, Types()).frames(rows):
        json.dumps([frame.function, frame.module]).encode()
        assert len(frame.qualname) <= symbolise.MAX_NAME_CHARS * len("\\U00010000")
        assert frame.function or frame.unresolved or not frame.qualname
    assert memory.reads < 250
    assert task_number(memory, offsets, words[0], words[1], Types(long=1, unicode=2)) >= NONE


@given(st.integers(8, 15), st.binary(max_size=300), st.integers(-(2**31), 2**31), st.integers(-2, 2**40))
def test_random_tables(minor: int, table: bytes, first: int, offset: int) -> None:
    """Any bytes give a line or none."""
    assert 0 <= line_of(table, first, offset, minor) <= 0x7FFFFFFF


def test_lines_of_this_interpreter() -> None:
    """Every instruction of a few modules, as dis has it."""
    instructions = 0
    for module in (json.decoder, dis, np.lib):
        source = module.__file__
        assert source is not None
        instructions += compare(compile(Path(source).read_text(encoding="utf-8"), source, "exec"))
    assert instructions > 3000


def compare(code: CodeType) -> int:
    count = 0
    for start, end, line in code.co_lines():
        for offset in range(start, end, 2):
            count += 1
            assert line_of(code.co_linetable, code.co_firstlineno, offset, MINOR) == (line or 0)
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return count + sum(compare(constant) for constant in nested)
