# SPDX-License-Identifier: Apache-2.0
"""`kernelspan completion`: what a shell needs to complete our command lines, as click writes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kernelspan_agent.cli import COMPLETE_VARIABLE, PROGRAM

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell: bash (4.4 or newer), zsh or fish.

    \b
    source <(kernelspan completion bash)      # in ~/.bashrc
    source <(kernelspan completion zsh)       # in ~/.zshrc, after compinit
    kernelspan completion fish | source       # in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    script = kind(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not source(): for bash that runs the bash of this machine, which need not be the one that will read it.
    click.echo(script.source_template % script.source_vars())
