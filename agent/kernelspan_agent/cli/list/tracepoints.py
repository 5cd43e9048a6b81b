# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list tracepoints`: the kernel's tracepoints with their fields, and the arguments of the raw ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.list import pages
from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.errors import MachineError, UsageError

if TYPE_CHECKING:
    from kernelspan_agent.probes.ktypes import Function, KernelTypes
    from kernelspan_agent.probes.tracefs import Tracefs, Tracepoint


@click.command("tracepoints")
@pages.pattern_argument()
@pages.json_option()
def command(pattern: str, as_json: bool) -> int:
    """List the tracepoints of the running kernel that PATTERN selects: CATEGORY:NAME, or NAME alone.

    The fields are what a probe reads by name. Below them, after `raw`, the arguments of the raw tracepoint of that name,
    which are read by index. System calls are sys_enter_NAME and sys_exit_NAME in the category syscalls.

    \b
    kernelspan list tracepoints 'tcp:*'
    kernelspan list tracepoints sys_enter_openat
    """
    from kernelspan_agent.probes.tracefs import Tracefs

    tracefs = Tracefs.find()
    found = tracefs.events(pattern)
    if not found:
        raise _nothing(tracefs, pattern)
    types = _types()
    try:
        raw = types.raw_tracepoints(name for _, name in found) if types is not None else {}
        rows = ((tracefs.tracepoint(*each), raw.get(each[1])) for each in found)
        if as_json:
            pages.write_json("tracepoints", (_as_json(*row) for row in rows))
            return 0
        painter, columns = Painter.of_stdout(os.environ), pages.width()
        for row in rows:
            for line in _lines(*row, painter, columns):
                click.echo(line)
    finally:
        if types is not None:
            types.close()
    return 0


def _types() -> KernelTypes | None:
    """None where the kernel has no BTF: fields are tracefs' affair."""
    from kernelspan_agent.probes.ktypes import KernelTypes

    try:
        return KernelTypes.open()
    except MachineError:
        return None


def _nothing(tracefs: Tracefs, pattern: str) -> UsageError:
    from kernelspan_agent.probes.nearest import hint

    known = tracefs.events()
    near = ""
    if not set(pattern) & set("*?["):
        near = hint(pattern, (":".join(each) if ":" in pattern else each[1] for each in known))
    what = f"no tracepoint of this kernel matches {pattern}"
    return UsageError(what, reason="TracepointNotFound", hint=near)


def _lines(tracepoint: Tracepoint, raw: Function | None, painter: Painter, columns: int | None) -> Iterator[str]:
    fields = [pages.declared(each.type, each.name) for each in tracepoint.fields]
    yield from pages.call(f"{tracepoint.category}:{tracepoint.name}", fields, "", columns)
    if raw is not None:
        arguments = [pages.declared(each.type.text, each.name) for each in raw.parameters]
        for line in pages.call("    raw", arguments, "", columns):
            yield painter.faint(line)


def _as_json(tracepoint: Tracepoint, raw: Function | None) -> dict[str, Any]:
    return {
        "category": tracepoint.category,
        "name": tracepoint.name,
        "fields": [
            {
                "name": each.name,
                "type": each.type,
                "kind": each.kind.value,
                "offset": each.offset,
                "size": each.size,
                "signed": each.signed,
                "elements": each.elements,
                "place": each.place.value,
            }
            for each in tracepoint.fields
        ],
        "rawArguments": None if raw is None else [pages.parameter(each) for each in raw.parameters],
    }
