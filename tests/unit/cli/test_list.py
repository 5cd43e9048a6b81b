# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list symbols` and `usdt`: what they show, and what they say where there is nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kernelspan_agent.cli import cli
from kernelspan_agent.errors import UsageError
from tests.unit.process.symbols import test_usdt as static_probes
from tests.unit.process.symbols.test_functions import FUNC, file_of


def listed(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["list", *arguments], prog_name="kernelspan", standalone_mode=False)


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A file with functions of every kind of name."""
    path = tmp_path / "program"
    names = [("main", 0, FUNC), ("_ZN2ns6Engine5quoteEi", 8, FUNC), ("main\x1b[31m", 16, FUNC)]
    path.write_bytes(file_of([*names, *((f"f{index}", 32 + 8 * index, FUNC) for index in range(20))]))
    return str(path)


def test_symbols_for_people(program: str) -> None:
    """How many, where, of which table, and both names; nothing that a terminal would take for a command."""
    run = listed("symbols", "--path", program, "*")
    lines = run.output.splitlines()
    assert lines[0] == f"{program}: 23 functions"
    assert "symtab" in lines[2]
    assert lines[2].endswith("ns::Engine::quote(int)  _ZN2ns6Engine5quoteEi")
    assert "\x1b" not in run.output
    assert (
        listed("symbols", "--path", program, "--limit", "3", "*")
        .output.splitlines()[0]
        .endswith("23 functions, 3 shown")
    )


def test_symbols_as_json(program: str) -> None:
    """The same as one object."""
    found = json.loads(listed("symbols", "--path", program, "--json", "ns::Engine::quote").output)
    (file,) = found["files"]
    assert (file["path"], file["matched"], file["go"]) == (program, 1, None)
    assert [sorted(each) for each in file["functions"]] == [["demangled", "name", "offset", "size", "source"]]


def test_usdt(tmp_path: Path) -> None:
    """Probes, sites and arguments; by glob over `provider:name`, or over the name alone."""
    path = tmp_path / "program"
    notes = [
        static_probes.note(b"p", b"go", b"-4@%ebx 8@%xmm0", static_probes.address(16), static_probes.address(100)),
        static_probes.note(b"p", b"go", b"", static_probes.address(24)),
        static_probes.note(b"q", b"stop", b"", static_probes.address(32)),
    ]
    path.write_bytes(static_probes.file_of(*notes))
    lines = listed("usdt", "--path", str(path)).output.splitlines()
    assert lines[:2] == [f"{path}: 2 probes", "  p:go, 2 sites"]
    assert lines[2].endswith("-4@%ebx 8@%xmm0  raised by a semaphore")
    assert lines[3].endswith("no arguments")
    for pattern, names in {"p:*": ["go"], "stop": ["stop"], "*": ["go", "stop"]}.items():
        found = json.loads(listed("usdt", "--path", str(path), "--json", pattern).output)
        assert [probe["name"] for probe in found["files"][0]["probes"]] == names
    arguments = json.loads(listed("usdt", "--path", str(path), "--json", "go").output)["files"][0]["probes"][0]["sites"]
    assert [each["place"] for each in arguments[0]["arguments"]] == ["register", "unknown"]


def test_a_process_and_its_libraries() -> None:
    """The executable alone, or everything that is loaded; each file once."""
    pid = str(os.getpid())
    found = json.loads(listed("symbols", "--pid", pid, "--libraries", "--json", "malloc").output)
    paths = [file["path"] for file in found["files"]]
    assert any("libc" in path for path in paths)
    assert len(set(paths)) == len(paths)
    own = os.path.realpath(sys.executable)
    found = json.loads(listed("symbols", "--pid", pid, "--path", own, "--json", "*").output)
    assert [file["path"] for file in found["files"]] == [own]


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        (["symbols", "--path", "PROGRAM", "mainn"], "SymbolNotFound", "it has main"),
        (["symbols", "--path", "/no/such/file", "f"], "BinaryNotFound", "no file"),
        (["symbols", "--path", "/", "f"], "BinaryNotFound", "a directory"),
        (["symbols", "--path", "/etc/passwd", "f"], "BinaryNotFound", "not an ELF file"),
        (["usdt", "--path", "PROGRAM"], "UsdtNotFound", "no static probe"),
        (["usdt", "--path", "/etc/passwd"], "UsdtNotFound", "not an ELF file"),
        (["symbols", "--pid", "99999999", "f"], "InvalidSpec", "no such process"),
    ],
)
def test_what_is_not_there_is_2_and_says_why(program: str, arguments: list[str], reason: str, words: str) -> None:
    """An error of the user's, with the reason that a profile's status would have."""
    run = listed(*(program if each == "PROGRAM" else each for each in arguments))
    assert isinstance(run.exception, UsageError)
    assert (run.exception.exit_code, run.exception.reason) == (2, reason)
    assert words in str(run.exception)
    assert run.output == ""
