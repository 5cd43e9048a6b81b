# SPDX-License-Identifier: Apache-2.0
"""Go programs of a real linker: found however they were stripped, and every return seen once, by counting.

Crafted tables of the other layouts: tests/unit/process/symbols/test_gopclntab.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernelspan_agent.process.elf import read_address, read_elf
from kernelspan_agent.process.errors import SymbolError
from kernelspan_agent.process.symbols import child, golang, where
from kernelspan_agent.process.symbols.functions import Function, find_functions
from kernelspan_agent.process.symbols.returns import go_returns
from tests.support.compiled import nm, run
from tests.support.require import require
from tests.support.uprobes import counted
from tools.errors import ToolError
from tools.gotool import find_go

CALLS = 97
PROGRAM = """package main

import (
	"fmt"
	"os"
)

type Engine struct{ n int }

//go:noinline
func (e *Engine) Quote(symbol string, k int) (int, error) {
	var frame [20000]byte // more than a goroutine begins with: its stack grows, and the function begins anew
	frame[k] = 1
	if k%2 == 1 {
		return int(frame[k]), fmt.Errorf("odd")
	}
	return len(symbol) + e.n, nil
}

//go:noinline
func choose(k int) int {
	switch k % 9 {
	case 0:
		return len(os.Args)
	case 1:
		return 5
	case 2:
		return 17
	case 3:
		return 19
	case 4:
		return 2
	case 5:
		return 3
	case 6:
		return 8
	case 7:
		return 99
	}
	return 1
}

//go:noinline
func Each[T any](xs []T, f func(T) T) int {
	for i := range xs {
		xs[i] = f(xs[i])
	}
	return len(xs)
}

func main() {
	e, sum := &Engine{3}, 0
	for i := 0; i < 97; i++ {
		done := make(chan int)
		go func() { n, _ := e.Quote("abc", i); done <- n }()
		sum += <-done + choose(i) + Each([]string{"a"}, func(s string) string { return s })
	}
	fmt.Println(sum)
}
"""
MODES = {
    "plain": [],
    "stripped": ["-ldflags=-s -w"],
    "position-independent": ["-buildmode=pie", "-ldflags=-s -w"],
    "linked with C": ["-buildmode=pie", "-ldflags=-linkmode=external"],
    "linked with C, stripped": ["-buildmode=pie", "-ldflags=-linkmode=external -s -w"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The program in every mode."""
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(PROGRAM)
    (folder / "go.mod").write_text("module example/engine\n\ngo 1.22\n")
    try:
        go = find_go(os.environ, folder)
    except ToolError as error:
        require("kernel", False, str(error))
        raise
    found = {}
    for index, (mode, flags) in enumerate(MODES.items()):
        made = folder / f"program{index}"
        environment = {**go.environment, "CGO_ENABLED": str(int("C" in mode)), "GOTOOLCHAIN": "local"}
        command = [str(go.command), "build", "-o", str(made), *flags, "."]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        found[mode] = made
    return found


def functions_of(path: Path, *texts: str) -> list[tuple[Function, ...]]:
    with where.open_path(str(path)) as binary:
        answers = find_functions(binary, texts, 100_000)
    for answer in answers:
        assert answer.problem is None, answer.problem
    return [answer.functions for answer in answers]


@pytest.mark.parametrize("mode", MODES)
def test_functions_and_returns_are_passed_as_often_as_they_are_called(built: dict[str, Path], mode: str) -> None:
    """Every call once at `body`, once at one of the returns; more often at the entry where the stack grew."""
    path = built[mode]
    for name, grows in (("main.(*Engine).Quote", True), ("main.choose", False), ("main.Each[go.shape.string]", False)):
        ((function,),) = functions_of(path, name)
        assert function.source == ("pclntab" if "strip" in mode or "independent" in mode else "symtab")
        with where.open_path(str(path)) as binary, ExitStack() as stack:
            (found,) = go_returns(binary, [function])
            entry, body, *ends = [
                stack.enter_context(counted(binary.attach_path, offset))
                for offset in (function.offset, found.body_offset, *found.offsets)
            ]
            run(str(path))
            assert (name, body.count()) == (name, CALLS)
            assert sum(end.count() for end in ends) == CALLS
            # more also where Go's runtime took the processor away: it asks for that where it checks the stack's size
            assert entry.count() >= CALLS + grows


def test_the_table_has_the_functions_that_nm_shows(built: dict[str, Path]) -> None:
    """Of the same program, stripped and not: all of them, by name and address."""
    (found,) = functions_of(built["stripped"], "*")
    by_name = {function.name: function.address for function in found}
    wanted = {name: at for name, at in nm(built["plain"]) if name.startswith(("main.", "fmt.", "os.", "strconv."))}
    assert len(wanted) > 50
    for name, at in wanted.items():
        if not re.search(r"\.abi0$|\.(init|stmp|jump|inittask|dict|str)", name):
            assert (name, by_name.get(name)) == (name, at)


@pytest.mark.parametrize("mode", ["plain", "linked with C"])
def test_every_return_is_one_that_objdump_shows(built: dict[str, Path], mode: str) -> None:
    """Of every function of the program, or it is refused; few of those are."""
    shown, starts = set(), set()
    for line in run("objdump", "-d", "--no-show-raw-insn", str(built[mode])).splitlines():
        if match := re.match(r"\s+([0-9a-f]+):\s+(?:bnd |repz )?(\S*)", line):
            starts.add(int(match[1], 16))
            if match[2].startswith("ret"):
                shown.add(int(match[1], 16))
    (found,) = functions_of(built[mode], "*")
    refused = looked = 0
    with where.open_path(str(built[mode])) as binary:
        elf = read_elf(binary.fd)
        for function in (each for each in found if each.size):
            end = function.address + function.size
            code = read_address(elf, function.address, function.size)
            answer = child.returns([(function.address, code)])
            looked += 1
            if "problem" in answer:
                refused += 1
                continue
            wanted = {at for at in shown if function.address <= at < end}
            assert (function.name, set(answer["returns"])) == (function.name, wanted)
            assert answer["body"] in starts
    assert looked > 1500
    assert refused < looked * 0.05


@pytest.mark.parametrize("name", ["runtime.gogo*", "runtime.memequal", "runtime.morestack_noctxt*"])
def test_what_leaves_by_a_jump_is_refused(built: dict[str, Path], name: str) -> None:
    """Assembly that goes on in another function has no return of its own."""
    ((function, *_),) = functions_of(built["plain"], name)
    with where.open_path(str(built["plain"])) as binary, pytest.raises(SymbolError, match="not certain") as caught:
        go_returns(binary, [function])
    assert caught.value.reason == "UretprobeUnsafe"


def test_version_and_abi(built: dict[str, Path]) -> None:
    """As the program itself says; what is no Go program has none."""
    for path in built.values():
        with where.open_path(str(path)) as binary:
            program = golang.go_program(binary)
        assert program is not None
        assert run("go", "version", str(path)).split(": ")[1].strip() == program.version
        assert program.abi is golang.Abi.REGISTERS
    with where.open_path("/bin/true") as binary:
        assert golang.go_program(binary) is None
