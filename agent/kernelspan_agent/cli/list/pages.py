# SPDX-License-Identifier: Apache-2.0
"""How lists look: on a terminal within its width, in a pipe one thing a line, for programs one JSON object."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kernelspan_agent.probes.ktypes import Leaf, Parameter

_Command = TypeVar("_Command", bound=Callable[..., Any])
_MIN_WIDTH = 40
UNKNOWN = "…"  # in the place of arguments that nobody describes


def pattern_argument() -> Callable[[_Command], _Command]:
    """PATTERN, of every kind."""
    return click.argument("pattern", metavar="PATTERN")


def json_option() -> Callable[[_Command], _Command]:
    """--json, of every kind."""
    text = "One JSON object on standard output; docs/reference/cli.md has its keys."
    return click.option("--json", "as_json", is_flag=True, help=text)


def write_json(kind: str, things: Iterable[dict[str, Any]]) -> None:
    """{"functions": [...]}, a thing a line, written as they come."""
    click.echo(f'{{"{kind}": [', nl=False)
    separator = "\n"
    for thing in things:
        click.echo(separator + json.dumps(thing, ensure_ascii=False), nl=False)
        separator = ",\n"
    click.echo("\n]}")


def width() -> int | None:
    """Columns of the terminal; None where standard output is none."""
    return max(_MIN_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def call(head: str, arguments: Iterable[str], tail: str, columns: int | None) -> Iterator[str]:
    """`head(a, b)tail`, in lines of so many columns, the arguments under each other's first where they do not fit one."""
    parts = list(arguments)
    whole = f"{head}({', '.join(parts)}){tail}"
    if columns is None or len(whole) <= columns:
        yield whole
        return
    indent = min(len(head) + 1, 8)
    line = f"{head}("
    for index, part in enumerate(parts):
        word = part + (", " if index < len(parts) - 1 else f"){tail}")
        if len(line) + len(word.rstrip()) > columns and line.strip():
            yield line.rstrip()
            line = " " * indent
        line += word
    yield line


def declared(type_text: str, name: str) -> str:
    """`struct sock *sk`, as C has it where that is a name behind a type: tracefs gives arrays as char[16]."""
    base, bracket, count = type_text.partition("[")
    if not name:
        return type_text
    if "(*)" in type_text:
        return type_text.replace("(*)", f"(*{name})", 1)
    return f"{base}{'' if base.endswith('*') else ' '}{name}{bracket}{count}"


def parameter(each: Parameter) -> dict[str, Any]:
    """A parameter, as --json shows it."""
    return {"name": each.name or None, **value(each.type)}


def value(leaf: Leaf) -> dict[str, Any]:
    """A type, as --json shows it."""
    return {
        "type": leaf.text,
        "kind": leaf.kind.value,
        "size": leaf.size,
        "signed": leaf.signed,
        "pointsTo": leaf.of.text if leaf.of is not None and leaf.kind.value == "pointer" else None,
    }
