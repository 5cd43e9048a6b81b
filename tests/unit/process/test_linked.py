# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program holds: what readelf says it needs, theirs too, and never one that is loaded later."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from kernelspan_agent.process.elf import read_elf
from kernelspan_agent.process.linked import Linked, candidates, held, linked
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


@pytest.mark.parametrize("flag", ["--enable-new-dtags", "--disable-new-dtags"])
def test_where_a_library_may_be(flag: str, tmp_path: Path) -> None:
    """Where the program, the environment and everybody wants it: each file of that name, and no other."""
    for folder in ("own", "other", "none"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
    built = ["gcc", "-Wl,--no-as-needed", str(tmp_path / "empty.c")]
    for folder in ("own", "other"):
        subprocess.run([*built, "-shared", "-o", str(tmp_path / folder / "libwanted.so")], check=True)
    places = f"-Wl,{flag},-rpath,$ORIGIN/own:{tmp_path}/none"
    options = ["-o", str(tmp_path / "program"), f"-L{tmp_path}/own", "-lwanted", "-lm", places]
    subprocess.run([*built, *options], check=True)
    (tmp_path / "link").symlink_to("program")
    environ = {"LD_LIBRARY_PATH": f"{tmp_path}/none::{tmp_path}/other"}
    for program in ("program", "link"):
        found = candidates(str(tmp_path / program), environ, lambda name: name == "libwanted.so")
        assert found == [f"{tmp_path}/own/libwanted.so", f"{tmp_path}/other/libwanted.so"]
    (usual, *_) = candidates(str(tmp_path / "program"), {}, lambda name: name.startswith("libm."))
    assert usual == os.path.realpath("/lib/x86_64-linux-gnu/libm.so.6")
    assert not candidates(str(tmp_path / "program"), {}, lambda _: False)
    assert not candidates(str(tmp_path / "empty.c"), {}, lambda _: True)
    assert not candidates(str(tmp_path / "nothing"), {}, lambda _: True)
