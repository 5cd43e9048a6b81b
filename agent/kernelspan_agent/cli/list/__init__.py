# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list`: what the user's own probes can be put on. Each kind of it is a module of this folder, and a line here."""

from __future__ import annotations

import click

from kernelspan_agent.cli.lazy import Lazy

KINDS = {
    "functions": "Functions of the kernel.",
    "tracepoints": "Tracepoints of the kernel.",
    "symbols": "Functions of a program or library.",
    "usdt": "Static probes of a program or library.",
}


@click.group("list", cls=Lazy, table=KINDS, package=__name__)
def command() -> None:
    """List what probes can be put on, with the names and types of its arguments.

    PATTERN is a glob: * and ? and [abc]; put it in quotes, or the shell takes it for files. Exits with 0 if something was
    found, with 2 if there is no such thing (near names are told), with 3 if this machine does not tell.

    \b
    kernelspan list functions 'tcp_send*'
    kernelspan list tracepoints 'sched:*exec*' --json
    """
