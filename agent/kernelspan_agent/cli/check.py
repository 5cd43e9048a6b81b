# SPDX-License-Identifier: Apache-2.0
"""`kernelspan check`: what this machine can do, and why not, found out by doing it; with -f: what would be attached.

Nothing stays attached. A profile that is wrong is told first and decides the exit code: its author can mend it anywhere.
"""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any

import click

from kernelspan_agent.cli.terminal import Painter
from kernelspan_agent.guard.capabilities import how_to_grant

if TYPE_CHECKING:
    from kernelspan_agent.cli.profiles import Examined
    from kernelspan_agent.guard.checks import Check
    from kernelspan_agent.guard.groups import Loaded, Plan
    from kernelspan_api.plan import Wanted

FINE, BAD_PROFILE, CANNOT = 0, 2, 3
_NAME_WIDTH = 20


@click.command("check")
@click.option(
    "-f", "--file", "profile_path", metavar="PROFILE", help="Also say what would be attached for this TraceProfile."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output; docs/reference/cli.md has its keys."
)
def command(profile_path: str | None, as_json: bool) -> int:
    """Find out what this machine can do by doing it, and say what is missing and how to get it.

    Tries permissions, packages, bpf(2), each kind of attachment, and compiles and loads every probe group. Nothing stays
    attached. Exits with 0 if `run` can work, 2 if the profile is wrong, 3 if the machine cannot do it.

    \b
    kernelspan check
    kernelspan check -f profile.yaml --json
    """
    from kernelspan_agent.cli.profiles import examine

    examined = examine(profile_path) if profile_path else None
    found = survey(examined)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(page(found, Painter.of_stdout(os.environ))))
    if examined is not None and examined.problems:
        return BAD_PROFILE
    return FINE if found["ok"] else CANNOT


def survey(examined: Examined | None) -> dict[str, Any]:
    """Everything that is found out, as --json shows it."""
    from kernelspan_agent.guard import checks, groups, tries

    places = checks.Places()
    found = checks.read(places) + tries.tries()
    plan = _plan(examined) if examined and examined.profile and not examined.problems else None
    loaded = _load(found, plan)
    found.append(groups.as_check(loaded))
    probes = _own(found, plan[0]) if plan else []
    return {
        "ok": not any(check.fails for check in found) and not _nothing_left(plan, probes),
        "kernel": {"release": platform.release(), "machine": platform.machine()},
        "checks": [check.as_json() for check in found],
        "programs": [each.as_json() for each in loaded],
        "notVisible": [{"what": what, "why": why} for what, why in checks.not_visible(places)],
        "profile": _profile(examined, plan[1] if plan else None, probes) if examined else None,
    }


def _plan(examined: Examined) -> tuple[Any, Plan]:
    from kernelspan_agent.guard import groups
    from kernelspan_agent.probes import mechanisms
    from kernelspan_api.plan import wanted

    assert examined.profile is not None
    needed = wanted(examined.profile.metadata.name, examined.profile.spec)
    return needed, groups.plan_of(needed, mechanisms.choose(needed))


def _load(found: list[Check], plan: tuple[Any, Plan] | None) -> list[Loaded]:
    from kernelspan_agent.guard import groups
    from kernelspan_agent.probes.mechanisms import ALL, MECHANISMS

    needed = plan[0] if plan else None
    chosen = tuple(each for each in ALL if each.name == plan[1].mechanism) if plan else MECHANISMS
    if missing := _missing(found):
        return groups.untried(f"needs {missing}", chosen, needed)
    return groups.load_all(os.environ, chosen, needed)


def _own(found: list[Check], needed: Wanted) -> list[dict[str, Any]]:
    """What becomes of the profile's own probes."""
    if not needed.probes:
        return []
    from kernelspan_agent.guard import ownprobes

    missing = _missing(found)
    tried = ownprobes.untried(needed, f"needs {missing}") if missing else ownprobes.try_all(needed, os.environ)
    return [each.as_json() for each in tried]


def _nothing_left(plan: tuple[Wanted, Plan] | None, probes: list[dict[str, Any]]) -> bool:
    """Whether the profile is own probes alone, and none of them can be had: `run` would end at once."""
    alone = plan is not None and not plan[0].operations and bool(probes)
    return alone and all(each["state"] == "Failed" for each in probes)


def _missing(found: list[Check]) -> str:
    """The first check that programs need and that has failed; empty: none has."""
    return next((check.name for check in found if check.fails and check.name in _BEFORE_PROGRAMS), "")


_BEFORE_PROGRAMS = ("user-namespace", "btf", "bcc", "linux-headers", "bpf-map", "bpf-program")


def _profile(examined: Examined, plan: Plan | None, probes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "path": examined.path,
        "name": examined.profile.metadata.name if examined.profile else "",
        "problems": [
            {"path": each.path, "value": each.value, "message": each.message, "line": each.line}
            for each in examined.problems
        ],
        "ignored": examined.ignored,
        "plan": plan.as_json() if plan else None,
        "probes": probes,
    }


def page(found: dict[str, Any], paint: Painter) -> list[str]:
    """The same for people."""
    lines = [f"kernel {found['kernel']['release']} {found['kernel']['machine']}"]
    for check in found["checks"]:
        lines += _check_lines(check, paint)
    lines += _grant_lines(found["checks"])
    lines += ["", *_program_lines(found["programs"], paint)]
    lines += ["", "not visible here"]
    lines += [f"  {each['what']:<{_NAME_WIDTH}} {each['why']}" for each in found["notVisible"]]
    if found["profile"]:
        lines += ["", *_profile_lines(found["profile"], paint)]
    verdict = (
        paint.good("kernelspan run can work here") if found["ok"] else paint.bad("kernelspan run cannot work here")
    )
    return [*lines, "", verdict]


def _check_lines(check: dict[str, Any], paint: Painter) -> list[str]:
    lines = [
        f"  {paint.state(check['state'], check['required'])} {check['name']:<{_NAME_WIDTH}} {check['detail']}".rstrip()
    ]
    if check["hint"] and check["state"] != "ok" and check["hint"] != how_to_grant([check["name"]]):
        lines.append(f"{'':<{_NAME_WIDTH + 11}}{paint.faint(check['hint'])}")
    return lines


def _grant_lines(checks: list[dict[str, Any]]) -> list[str]:
    """How to grant all that is missing, said once."""
    missing = [check["name"] for check in checks if check["name"].startswith("CAP_") and check["state"] == "no"]
    return ["", "to grant what is missing", *_wrapped(how_to_grant(missing), 2)] if missing else []


def _program_lines(programs: list[dict[str, Any]], paint: Painter) -> list[str]:
    mechanisms = list(dict.fromkeys(each["mechanism"] for each in programs))
    by_place = {(each["module"], each["mechanism"]): each for each in programs}
    lines = [f"programs, verified instructions {'':<1}" + "".join(f"{name:>16}" for name in mechanisms)]
    for module in dict.fromkeys(each["module"] for each in programs):
        cells = [by_place[module, mechanism] for mechanism in mechanisms]
        text = "".join(f"{_cell(cell):>16}" for cell in cells)
        state = next((cell["state"] for cell in cells if cell["state"] != "ok"), "ok")
        lines.append(f"  {paint.state(state, required=True)} {module:<{_NAME_WIDTH}} {text}")
        lines += [f"{'':<{_NAME_WIDTH + 11}}{cell['detail']}" for cell in cells if cell["state"] == "no"]
    return lines


def _cell(cell: dict[str, Any]) -> str:
    if cell["state"] != "ok":
        return str(cell["state"])
    return f"{cell['verifiedInstructions']:,}" if cell["verifiedInstructions"] else "loaded"


def _profile_lines(profile: dict[str, Any], paint: Painter) -> list[str]:
    lines = [f"profile {profile['path']}" + (f" ({profile['name']})" if profile["name"] else "")]
    for problem in profile["problems"]:
        got = f" (got {problem['value']})" if problem["value"] else ""
        lines.append(f"  {paint.state('no', required=True)} {problem['path'] or 'document'}: {problem['message']}{got}")
    lines += [
        f"  {paint.state('ok', required=False)} {field} is for Kubernetes and is ignored here"
        for field in profile["ignored"]
    ]
    if (plan := profile["plan"]) and plan["groups"]:
        lines.append(f"  would be attached by {plan['mechanism']}:")
        for group in plan["groups"]:
            lines.append(f"    {group['group']}: {', '.join(group['operations'])}")
            lines += _wrapped("system calls: " + " ".join(group["systemCalls"]), 6)
        if plan["absentSystemCalls"]:
            lines += _wrapped("this kernel does not have: " + " ".join(plan["absentSystemCalls"]), 4)
    if profile["probes"]:
        lines.append("  own probes, each attached and detached again:")
        for probe in profile["probes"]:
            lines += _probe_lines(probe, paint)
    return lines


_PAINT = {"Attached": "ok", "Pending": "unknown", "Failed": "no", "Untried": "untried"}


def _probe_lines(probe: dict[str, Any], paint: Painter) -> list[str]:
    state = probe["state"]
    lines = [f"    {paint.state(_PAINT[state], required=True)} {probe['name']:<{_NAME_WIDTH}} {_probe_text(probe)}"]
    indent = _NAME_WIDTH + 13
    if probe["message"] and state == "Attached":
        lines += _wrapped(probe["message"], indent)
    if probe["hint"]:
        lines += [paint.faint(line) for line in _wrapped(probe["hint"], indent)]
    for other in probe["others"]:
        lines += _wrapped(f"not {other['mechanism']}: {other['why']}", indent)
    return lines


def _probe_text(probe: dict[str, Any]) -> str:
    if probe["state"] != "Attached":
        why = f"{probe['reason']}: {probe['message']}" if probe["reason"] else probe["message"]
        return f"waits: {why}" if probe["state"] == "Pending" else why
    counted = f", {probe['verifiedInstructions']:,} verified instructions" if probe["verifiedInstructions"] else ""
    places = f" at {probe['places']} places" if probe["places"] > 1 else ""
    return f"{probe['mechanism']}{places}{counted}"


def _wrapped(text: str, indent: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))
