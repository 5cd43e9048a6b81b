# SPDX-License-Identifier: Apache-2.0
"""A call whose return the kernel has kept to itself, as it may on 7.2: the next call's return is not taken for it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kernelspan_agent.probes import bpf, mechanisms
from kernelspan_agent.probes.constants import CALL_OP_AT, PLACES
from kernelspan_api.operations import BY_NAME, Group
from tests.support.engines import engines, programs

pytestmark = pytest.mark.root
_READ, _FSTAT = 0, 5  # their numbers, on x86-64
_NUMBER_AT = CALL_OP_AT - 4


@pytest.mark.parametrize("number", [_FSTAT, _READ])
def test_the_next_calls_result_is_its_own(number: int) -> None:
    """Here the test puts one there, while the program reads its next line: it is counted as left out, and has no span.

    One of the same number is told by its arguments.
    """
    spec = {"files": {"operations": ["Stat"]}}
    with engines(mechanism=mechanisms.RAW_TRACEPOINT) as make, programs() as begin:
        made = make(spec)
        made.add("p", spec)
        program = begin()
        made.trace(program, "p")
        program.do("look first")
        made.until(lambda: made.seen["p"].marks == ["first"], "its first is seen")
        calls, place = made.engine.session._loader.maps["ks_calls"], struct.pack("<I", _place_of(program.pid))
        size = _value_bytes(calls)
        kept = bpf.map_lookup(calls, place, size)
        assert kept is not None
        assert struct.unpack_from("<H", kept, CALL_OP_AT) == (0,)
        call = struct.pack("<IHB", number, BY_NAME[Group.FILES, "Stat"].number, list(Group).index(Group.FILES))
        assert Path(f"/proc/{program.pid}/syscall").read_text().startswith(f"{_READ} ")  # it is in read(2)
        bpf.map_update(calls, place, kept[:_NUMBER_AT] + call + kept[_NUMBER_AT + len(call) :])
        program.do("look second")
        made.until(lambda: "second" in made.seen["p"].marks, "the next is seen")
        made.engine.finish()
        found = made.engine.accounting_of("p")
        assert made.seen["p"].spans == [("file.stat", "/mark/first"), ("file.stat", "/mark/second")]
        assert found.dropped["Skipped"] >= 1
        assert found.unaccounted == -1


def _place_of(thread: int) -> int:
    """See place.h."""
    return (thread << 3 | thread >> 12 & 7) & PLACES - 1


def _value_bytes(map_fd: int) -> int:
    (line,) = (line for line in Path(f"/proc/self/fdinfo/{map_fd}").read_text().splitlines() if "value_size" in line)
    return int(line.split()[1])
