# SPDX-License-Identifier: Apache-2.0
"""sys.modules read from outside: of this very process, and of memory that is made to mislead."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelspan_agent.process.errors import MemoryReadError
from kernelspan_agent.runtimes import registry
from kernelspan_agent.runtimes.python import modules
from kernelspan_agent.runtimes.python.layout import Types
from kernelspan_agent.runtimes.python.versions import BY_MINOR
from tests.support.noise import Noise
from tests.support.own_python import own_python


class Derived(types.ModuleType):
    """As lazy importers make them."""


def loaded() -> list[str] | None:
    """What is read of this process."""
    with own_python() as (_, found, memory):
        return registry.loaded(found, memory)


@pytest.fixture
def strange() -> Iterator[dict[str, object]]:
    """Things in sys.modules that are not what one expects."""
    derived, nameless, odd = Derived("derived"), types.ModuleType("nameless"), types.ModuleType("odd")
    derived.__file__, odd.__file__ = "/derived/ü€𝄞.py", 7  # type: ignore[assignment]
    space = SimpleNamespace(__file__="/space.py")  # its dict lies where a module's does
    put = {
        "x.space": space,
        "x.derived": derived,
        "x.nameless": nameless,
        "x.odd": odd,
        "x.int": 7,
        "x.none": None,
        "x.class": Derived,
    }
    sys.modules.update(put)  # type: ignore[arg-type]
    yield put
    for name in put:
        del sys.modules[name]


def test_of_this_process(strange: dict[str, object]) -> None:
    """The files of all modules, those of derived types included; of what is no module, or has no text there, nothing."""
    assert "x.derived" in strange
    loaded()  # imports what it needs
    own = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
    files = {vars(module).get("__file__") for module in own}
    found = loaded()
    assert found is not None
    assert len(found) == len(set(found)) > 100
    assert set(found) == {file for file in files if isinstance(file, str)}
    assert "/derived/ü€𝄞.py" in found


def test_another_dict_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is known to be what is imported from: nothing is said."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert loaded() is None


def test_types_that_are_not_known() -> None:
    """A program without symbols: no word can be told to be a dict's address."""
    found = SimpleNamespace(address=0x1000, details=SimpleNamespace(offsets=BY_MINOR[11], types=Types()))
    assert modules.read_files(found, Noise(b"\0" * 64, holes=0)) is None  # type: ignore[arg-type]


def test_a_maze_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in which every word leads to a dict full of keys: reads are counted, not followed for ever."""
    monkeypatch.setattr(modules, "MAX_READS", 1000)
    maze = Noise((0x10000).to_bytes(8, "little") * 8, holes=0)
    found = SimpleNamespace(
        address=0x10000, details=SimpleNamespace(offsets=BY_MINOR[11], types=Types(dict=0x10000, unicode=0x10000))
    )
    with pytest.raises(MemoryReadError):
        modules.read_files(found, maze)  # type: ignore[arg-type]
    assert maze.reads <= 1000


@settings(deadline=None)
@given(
    st.binary(min_size=64, max_size=4096),
    st.integers(0, 9),
    st.sampled_from(sorted(BY_MINOR)),
    st.integers(0, 1 << 48),
    st.lists(st.integers(0, 64), min_size=4, max_size=4),
)
def test_noise(data: bytes, holes: int, minor: int, head: int, places: list[int]) -> None:
    """Memory that holds anything: an end, bounded reads, no list that nobody has proved, no error but the one named."""
    words = [int.from_bytes(data[place : place + 8], "little") for place in places]
    found = SimpleNamespace(address=head, details=SimpleNamespace(offsets=BY_MINOR[minor], types=Types(*words)))
    memory = Noise(data, holes=holes)
    try:
        files = modules.read_files(found, memory)  # type: ignore[arg-type]
    except MemoryReadError:
        return
    assert files is None or isinstance(files, list)
