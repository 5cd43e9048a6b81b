# SPDX-License-Identifier: Apache-2.0
"""`kernelspan list`: what a probe can be attached to. Each kind is a module that adds its command to the group."""

from __future__ import annotations

import click

from kernelspan_agent.cli import list_symbols, list_usdt


@click.group("list")
def command() -> None:
    """List what a profile's own probes can name, by name or glob (`*`, `?`), with types and arguments where known."""


for each in (list_symbols, list_usdt):
    each.register(command)
