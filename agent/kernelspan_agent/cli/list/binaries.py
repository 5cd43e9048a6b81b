# SPDX-License-Identifier: Apache-2.0
"""The files that `kernelspan list symbols|usdt` look into: of a process, in its own tree, or of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.errors import KernelspanError, UsageError

if TYPE_CHECKING:
    from kernelspan_agent.process.symbols.where import Binary


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--pid, --path, --libraries, --limit, --json."""
    for option in (
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="One JSON object on standard output; docs/reference/cli.md has its keys.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, 100_000),
            default=256,
            show_default=True,
            help="Show so many of each file; how many there are is said.",
        ),
        click.option(
            "--libraries", is_flag=True, help="With --pid: also in every library that the process has loaded now."
        ),
        click.option(
            "--path",
            metavar="FILE",
            help="A program or library: with --pid as the process sees it, else of this machine.",
        ),
        click.option("-p", "--pid", type=click.IntRange(min=1), help="A process; without --path: its executable."),
    ):
        function = option(function)
    return function


def each_file(pid: int | None, path: str | None, *, libraries: bool) -> Iterator[Binary]:
    """Each file that is meant, open until the next is asked for. Raises UsageError where there is none."""
    from kernelspan_agent.process.errors import ProcessError
    from kernelspan_agent.process.symbols import where
    from kernelspan_agent.targets.select import by_pid

    if pid is None and path is None:
        raise click.UsageError("give --pid, --path or both")
    if libraries and (pid is None or path is not None):
        raise click.UsageError("--libraries goes with --pid alone")
    with _as_usage():
        if pid is None:
            from pathlib import Path

            assert path is not None
            with where.open_path(str(Path(path).absolute())) as binary:
                yield binary
            return
        process = by_pid(pid)
        with where.open_binary(process, path or where.AUTO) as binary:
            seen = {binary.identity}
            yield binary
        for mapping in where.mapped_binaries(process) if libraries else ():
            try:
                with where.open_mapped(process, mapping) as binary:
                    if binary.identity not in seen:
                        seen.add(binary.identity)
                        yield binary
            except ProcessError:  # it went, or is no file of a file system
                continue


@contextmanager
def _as_usage() -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except KernelspanError as error:
        raise UsageError(str(error), reason=error.reason, hint=error.hint) from error
