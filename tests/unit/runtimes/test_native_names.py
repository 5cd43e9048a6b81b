# SPDX-License-Identifier: Apache-2.0
"""Names of functions in stripped files, by debug files in the tree that the process sees."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from kernelspan_agent.runtimes.native.names import Names

PROGRAM = """
static __attribute__((noinline)) int hidden(int n) { return n ? n * hidden(n - 1) : 1; }
int main(int argc, char **argv) { (void)argv; return hidden(argc); }
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with the stripped program as /app/program, and its debug file."""
    (tmp_path / "program.c").write_text(PROGRAM)
    whole, tree = tmp_path / "program", tmp_path / "tree"
    run("gcc", "-g", "-O1", "-Wl,--build-id", "-o", str(whole), str(tmp_path / "program.c"))
    (tree / "app").mkdir(parents=True)
    run("strip", "-o", str(tree / "app/program"), str(whole))
    identity = re.search(r"Build ID: (\w\w)(\w+)", run("readelf", "-n", str(whole)))
    assert identity is not None
    debug = tree / f"usr/lib/debug/.build-id/{identity[1]}/{identity[2]}.debug"
    debug.parent.mkdir(parents=True)
    run("objcopy", "--only-keep-debug", str(whole), str(debug))
    return tree


def names(tree: Path, root: str) -> set[str]:
    """What is found of the code that the program begins with."""
    address = int(run("readelf", "-hW", str(tree / "app/program")).partition("Entry point address:")[2].split()[0], 0)
    fd = os.open(tree / "app/program", os.O_RDONLY)
    try:
        return {named.name for named in Names(fd, "/app/program", root).of(range(address, address + 1024)).values()}
    finally:
        os.close(fd)


def test_a_debug_file_names_functions(tree: Path) -> None:
    """Those that strip took away; where the tree has none they have no name."""
    assert {"hidden", "main"} <= names(tree, str(tree))
    assert "hidden" not in names(tree, str(tree.parent / "empty"))
    assert "hidden" not in names(tree, "")
