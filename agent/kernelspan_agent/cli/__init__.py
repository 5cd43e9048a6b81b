# SPDX-License-Identifier: Apache-2.0
"""The command line: `kernelspan run | trace | agent | check | render | libraries | explain | list |
completion`.

Each command is a module of this folder, imported when it is called: `--help` needs neither numpy nor grpc.

Exit codes: 0 fine (run -- COMMAND: the command's own), 1 a fault of ours, 2 bad usage or profile, 3 the machine cannot do
it.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from kernelspan_agent.cli.lazy import Lazy
from kernelspan_agent.control import logs
from kernelspan_agent.errors import KernelspanError

PROGRAM, COMPLETE_VARIABLE = "kernelspan", "_KERNELSPAN_COMPLETE"
_log = logging.getLogger(__name__)
COMMANDS = {
    "run": "Trace programs on this machine.",
    "trace": "Show requests as they end, which are slow, and why.",
    "agent": "Trace a Kubernetes node as the operator says.",
    "check": "What this machine can do, and why not.",
    "render": "Print the C that would be compiled.",
    "libraries": "Which libraries a process has loaded, and what they do.",
    "explain": "What is known of a process, or why a pod is not traced.",
    "list": "What can be probed, with its arguments.",
    "completion": "Print a shell's completion script.",
}


@click.group(
    cls=Lazy,
    table=COMMANDS,
    package=__name__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 a fault of kernelspan's, 2 bad usage or profile, 3 this machine cannot do it.",
)
@click.version_option(package_name="kernelspan")
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    default="warning",
    envvar=logs.VARIABLE,
    show_envvar=True,
    show_default=True,
    help="What the log on standard error shows: plain on a terminal, else JSON, one object a line.",
)
def cli(log_level: str) -> None:
    """Traces what unmodified programs do, from kernel probes, with the function, file, line and library behind it."""
    logs.configure(log_level, sys.stderr)


def main() -> None:
    """The console script."""
    try:
        status = cli(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has seen enough: `kernelspan render … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere at exit
        sys.exit(1)  # as click does
    except KernelspanError as error:
        click.echo(f"{PROGRAM}: {error.reason}: {error}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        if error.details:
            _log.debug("error.details reason=%s details=%s", error.reason, error.details)
        sys.exit(error.exit_code)
