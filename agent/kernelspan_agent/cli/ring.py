# SPDX-License-Identifier: Apache-2.0
"""The option by which commands that trace say how large the ring buffer is."""

from __future__ import annotations

import click

from kernelspan_agent.ring.size import MOST_MEBIBYTES, RING_BYTES, VARIABLE

ring_option = click.option(
    "--ring-mebibytes",
    type=click.IntRange(1, MOST_MEBIBYTES),
    envvar=VARIABLE,
    show_envvar=True,
    metavar="MIB",
    help=f"Room for what was not read yet, a power of two; the default is {RING_BYTES >> 20}. "
    "It counts twice in the resident memory.",
)
