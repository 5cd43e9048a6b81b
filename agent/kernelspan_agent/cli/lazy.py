# SPDX-License-Identifier: Apache-2.0
"""Groups of commands whose modules are imported when they are called: `--help` needs neither numpy nor grpc."""

from __future__ import annotations

import importlib
from typing import Any

import click


class Lazy(click.Group):
    """A group of the commands in `table`: name, and what it does. Each is `command` in the module of its name."""

    def __init__(self, *arguments: Any, table: dict[str, str], package: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.table, self.package = table, package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the table."""
        del ctx
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None: there is none."""
        del ctx
        if cmd_name not in self.table:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))
