# SPDX-License-Identifier: Apache-2.0
"""`kernelspan render`: the C that would be compiled for a profile. Nothing is compiled or loaded; no root needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from kernelspan_agent.cli.profiles import read_profile

if TYPE_CHECKING:
    from kernelspan_api.userprobes import UserProbe


@click.command("render")
@click.option("-f", "--file", "profile_path", required=True, metavar="PROFILE", help="The TraceProfile, a YAML file.")
def command(profile_path: str) -> None:
    """Print the C that would be compiled for a profile, module by module, with every constant it is compiled with.

    Nothing is compiled or loaded, and nothing of the profile is in it but numbers. Offsets of kernel structs are shown as
    names of members: they are looked up in the running kernel's type information when it is compiled. Where the arguments
    of the profile's own probes lie is asked of this machine: its kernel, its files, for functions of the kernel as root.

    \b
    kernelspan render -f profile.yaml | less
    """
    from kernelspan_agent.probes import constants, mechanisms
    from kernelspan_agent.probes.modules import modules_of
    from kernelspan_agent.probes.source import module_text
    from kernelspan_agent.ring.size import RING_BYTES
    from kernelspan_api.plan import wanted

    profile, _ = read_profile(profile_path)
    plan = wanted(profile.metadata.name, profile.spec)
    mechanism = mechanisms.choose(plan)
    defines = constants.defines(
        ring_bytes=RING_BYTES, watch_exec=False, executables=plan.by_executable, **mechanism.flags
    )
    click.echo(f"/* profile {profile.metadata.name}: mechanism {mechanism.name}. Each module is compiled by itself. */")
    click.echo("\n".join(["/*", *(f" * -D{name}={value}" for name, value in defines.items())]))
    offsets = constants.OFFSETS.items()
    click.echo("\n".join([*(f" * -D{name}=<{' or '.join(paths)}>" for name, paths in offsets), " */"]))
    for module in modules_of(plan):
        click.echo(
            f"\n/* ===== module {module.name}: {', '.join(module.programs)} ===== */\n\n{module_text(module.name)}",
            nl=False,
        )
    if plan.probes:
        for probe, text in _own(plan.probes):
            click.echo(f"\n/* ===== own probe {probe.name} ===== */\n\n{text}", nl=False)


def _own(probes: Sequence[UserProbe]) -> Iterator[tuple[UserProbe, str]]:
    """The text of each, or a comment that says why there is none here."""
    from kernelspan_agent.errors import KernelspanError
    from kernelspan_agent.probes.own.looking import planned_here
    from kernelspan_agent.probes.own.prepare import planned

    for prepared in planned(probes):
        found, problem = prepared, prepared.problem
        if found.generated is None and problem is None:
            try:
                found = planned_here(found.spec)
            except KernelspanError as error:
                problem = error
        found.close()
        if found.generated is None:
            why = f"{problem.reason}: {problem}" if problem else "its file is known only with the process that has it"
            yield found.spec, f"/* not known here: {why.replace('*/', '* /')} */\n"
        else:
            yield found.spec, found.generated.text
