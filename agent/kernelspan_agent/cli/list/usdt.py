# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list usdt`: static probes that a program or library was built with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.list import binaries
from kernelspan_agent.errors import UsageError

if TYPE_CHECKING:
    from kernelspan_agent.process.symbols.usdt import StaticProbe
    from kernelspan_agent.process.symbols.usdt_arguments import Argument


@click.command("usdt")
@click.argument("pattern", default="*")
@binaries.options
def command(pattern: str, pid: int | None, path: str | None, libraries: bool, limit: int, as_json: bool) -> None:
    """List static probes (USDT) whose `provider:name`, or name alone, is PATTERN or matches it, with their arguments.

    Arguments are those of each site: size in bytes, `-` for signed, and where it is. Exits with 2 if there is none.

    \b
    kernelspan list usdt --path /usr/bin/python3
    kernelspan list usdt --pid 4242 --libraries 'python:gc__*'
    """
    from kernelspan_agent.process.errors import ElfError
    from kernelspan_agent.process.procfs import printable
    from kernelspan_agent.process.symbols import usdt

    shown, looked, wrong = [], [], ""
    for binary in binaries.each_file(pid, path, libraries=libraries):
        looked.append(printable(binary.path))
        try:
            found, matched = usdt.list_probes(binary, pattern, limit)
        except ElfError as error:
            wrong = wrong or f"{looked[-1]}: {error}"
            continue
        if found:
            shown.append({"path": looked[-1], "matched": matched, "probes": [_probe(each) for each in found]})
    if not shown:
        several = f" and {len(looked) - 1} libraries have" if len(looked) > 1 else " has"
        raise UsageError(
            wrong or f"{looked[0]}{several} no static probe {printable(pattern)}",
            reason="UsdtNotFound",
            hint="without PATTERN all are listed" if pattern != "*" else "it is built without static probes",
        )
    click.echo(json.dumps({"files": shown}, indent=1) if as_json else "\n".join(_page(shown)))


def _probe(probe: StaticProbe) -> dict[str, Any]:
    from kernelspan_agent.process.procfs import printable

    return {
        "provider": printable(probe.provider),
        "name": printable(probe.name),
        "sites": [
            {
                "offset": site.offset,
                "semaphoreOffset": site.semaphore_offset or None,
                "arguments": [_argument(argument) for argument in site.arguments],
            }
            for site in probe.sites
        ],
    }


def _argument(argument: Argument) -> dict[str, Any]:
    from kernelspan_agent.process.procfs import printable

    return {
        "text": printable(argument.text),
        "size": argument.size,
        "signed": argument.signed,
        "place": argument.place.value,
        "problem": printable(argument.problem) or None,
    }


def _page(files: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for each in files:
        shown = len(each["probes"])
        count = f"{each['matched']} probes" + (f", {shown} shown" if shown < each["matched"] else "")
        lines.append(f"{each['path']}: {count}")
        for probe in each["probes"]:
            sites = probe["sites"]
            lines.append(f"  {probe['provider']}:{probe['name']}" + (f", {len(sites)} sites" if len(sites) > 1 else ""))
            for site in sites:
                raised = "  raised by a semaphore" if site["semaphoreOffset"] else ""
                texts = " ".join(argument["text"] for argument in site["arguments"]) or "no arguments"
                lines.append(f"    {site['offset']:#10x} {texts}{raised}")
    return lines
