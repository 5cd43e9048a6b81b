# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list symbols`: functions of a program or library that a uprobe can be attached to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.list import binaries
from kernelspan_agent.errors import UsageError

if TYPE_CHECKING:
    from kernelspan_agent.process.errors import SymbolError
    from kernelspan_agent.process.symbols.functions import Found
    from kernelspan_agent.process.symbols.where import Binary

_SOURCE_WIDTH = 13


@click.command("symbols")
@click.argument("pattern")
@binaries.options
def command(pattern: str, pid: int | None, path: str | None, libraries: bool, limit: int, as_json: bool) -> None:
    """List functions of a program or library whose name, mangled or as in the source, is PATTERN or matches it.

    Names come from .symtab, .dynsym, the debug file below /usr/lib/debug, MiniDebugInfo and Go's own table, which stripping
    leaves. A C++ or Rust function can be given without its parameters. Exits with 2 if there is none.

    \b
    kernelspan list symbols --path /usr/bin/python3 'PyObject_Call*'
    kernelspan list symbols --pid 4242 'main.(*Engine).*'
    kernelspan list symbols --pid 4242 --libraries SSL_write
    """
    shown, problem = [], None
    for binary in binaries.each_file(pid, path, libraries=libraries):
        answer, error = _look(binary, pattern, limit)
        problem = problem or error
        if answer is not None:
            shown.append(answer)
    if not shown:
        assert problem is not None  # a file that was looked into has one or the other
        raise UsageError(str(problem), reason=problem.reason, hint=problem.hint)
    click.echo(json.dumps({"files": shown}, indent=1) if as_json else "\n".join(_page(shown)))


def _look(binary: Binary, pattern: str, limit: int) -> tuple[dict[str, Any] | None, SymbolError | None]:
    from kernelspan_agent.process.errors import ElfError, SymbolError
    from kernelspan_agent.process.procfs import printable
    from kernelspan_agent.process.symbols import functions, golang

    try:
        (found,) = functions.find_functions(binary, [pattern], limit)
        program = golang.go_program(binary)
    except ElfError as error:
        return None, SymbolError(f"{printable(binary.path)}: {error}", reason=error.reason)
    if found.problem is not None:
        return None, found.problem
    go = {"version": printable(program.version), "abi": program.abi.value} if program else None
    return {"path": printable(binary.path), "matched": found.matched, "go": go, "functions": _functions(found)}, None


def _functions(found: Found) -> list[dict[str, Any]]:
    from kernelspan_agent.process.procfs import printable

    return [
        {
            "name": printable(each.name),
            "demangled": printable(each.demangled) or None,
            "offset": each.offset,
            "size": each.size or None,
            "source": each.source,
        }
        for each in found.functions
    ]


def _page(files: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for each in files:
        go = f", {each['go']['version'] or 'Go'}, arguments in {each['go']['abi']}" if each["go"] else ""
        shown = len(each["functions"])
        count = f"{each['matched']} functions" + (f", {shown} shown" if shown < each["matched"] else "")
        lines.append(f"{each['path']}: {count}{go}")
        for function in each["functions"]:
            name = function["demangled"] or function["name"]
            raw = f"  {function['name']}" if function["demangled"] else ""
            lines.append(f"  {function['offset']:#10x} {function['source']:<{_SOURCE_WIDTH}} {name}{raw}")
    return lines
