# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list functions`: the kernel's functions and their parameters, as its symbols and its BTF have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.list import pages
from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.errors import UsageError

if TYPE_CHECKING:
    from kernelspan_agent.probes.kfunctions import KernelFunction
    from kernelspan_agent.probes.ktypes import Function


@click.command("functions")
@pages.pattern_argument()
@pages.json_option()
def command(pattern: str, as_json: bool) -> int:
    """List the functions of the running kernel and its modules whose name PATTERN selects.

    Behind a function: [its module]; `blacklisted`: the kernel allows no kprobe on it; `not traceable`: fentry and kprobe.multi
    cannot be used; how many functions share the name. Where the kernel does not describe its arguments there is an
    ellipsis: they can be read by index only. What the compiler has inlined everywhere is not listed.

    \b
    kernelspan list functions tcp_sendmsg
    kernelspan list functions 'vfs_*' --json
    """
    from kernelspan_agent.probes.kfunctions import KernelFunctions
    from kernelspan_agent.probes.ktypes import KernelTypes

    functions = KernelFunctions()
    names = functions.names(pattern)
    if not names:
        raise _nothing(functions.refusal(pattern, functions.find([pattern]).get(pattern)), pattern)
    found = functions.find(names)
    with KernelTypes.open() as types:
        described = types.functions(names)
        rows = ((found[name], described.get(name)) for name in names if name in found)
        if as_json:
            pages.write_json("functions", (_as_json(*row) for row in rows))
            return 0
        painter, columns = Painter.of_stdout(os.environ), pages.width()
        for row in rows:
            for line in _lines(*row, painter, columns):
                click.echo(line)
    return 0


def _nothing(error: Exception | None, pattern: str) -> UsageError:
    if set(pattern) & set("*?[") or error is None:
        return UsageError(f"no function of this kernel matches {pattern}", reason="FunctionNotFound")
    return UsageError(str(error), reason="FunctionNotFound", hint=getattr(error, "hint", ""))


def _lines(
    function: KernelFunction, described: Function | None, painter: Painter, columns: int | None
) -> Iterator[str]:
    arguments, returns = [pages.UNKNOWN], ""
    if described is not None:
        arguments = [pages.declared(each.type.text, each.name) for each in described.parameters]
        arguments += ["..."] if described.variadic else []
        returns = described.returns.text if described.returns is not None else "void"
    head = pages.declared(returns, function.name) if returns else function.name
    *lines, last = pages.call(head, arguments, "", columns)
    yield from lines
    notes = "  ".join(_notes(function))
    yield f"{last}  {painter.faint(notes)}" if notes else last


def _notes(function: KernelFunction) -> Iterator[str]:
    if function.module:
        yield f"[{function.module}]"
    if function.blacklisted:
        yield "blacklisted"
    if function.traceable is False:
        yield "not traceable"
    if len(function.addresses) > 1:
        yield f"{len(function.addresses)} of this name"


def _as_json(function: KernelFunction, described: Function | None) -> dict[str, Any]:
    return {
        "name": function.name,
        "module": function.module or None,
        "count": len(function.addresses),
        "clones": list(function.clones),
        "traceable": function.traceable,
        "blacklisted": function.blacklisted,
        "parameters": None if described is None else [pages.parameter(each) for each in described.parameters],
        "variadic": described.variadic if described is not None else None,
        "returns": None if described is None or described.returns is None else pages.value(described.returns),
    }
