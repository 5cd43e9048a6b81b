# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program holds: what readelf says it needs, theirs too, and never one that is loaded later."""

from __future__ import annotations

import os
import re

from kernelspan_agent.process.elf import read_elf
from kernelspan_agent.runtimes.native.linked import Linked, held, linked
from tests.support.compiled import run


def test_what_a_file_names() -> None:
    """As readelf has it, and who links it."""
    for path in ("/bin/ls", "/lib/x86_64-linux-gnu/libm.so.6"):
        fd = os.open(path, os.O_RDONLY)
        try:
            found = linked(read_elf(fd))
        finally:
            os.close(fd)
        said = run("readelf", "-d", "-l", "-W", path)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", said))
        needed |= {each.rpartition("/")[2] for each in re.findall(r"program interpreter: (.*)\]", said)}
        assert found.needed == needed
        assert found.needed
        assert [found.name] == (re.findall(r"\(SONAME\).*\[(.*)\]", said) or [""])


def test_what_is_held() -> None:
    """In turns, and in a circle; not what nobody needs."""
    others = {
        "a": Linked("a", frozenset({"b", "gone"})),
        "b": Linked("b", frozenset({"a", "c"})),
        "c": Linked("c"),
        "plugin": Linked("plugin", frozenset({"other"})),
        "other": Linked("other"),
    }
    assert held(Linked("", frozenset({"a"})), others) == {"a", "b", "c"}
    assert held(Linked(), others) == set()
