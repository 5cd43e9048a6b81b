# SPDX-License-Identifier: Apache-2.0
"""What is said of the user's own probes: which could not be attached and why, which never were, how long calls took."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.own.missed import TOO_MANY

if TYPE_CHECKING:
    from kernelspan_agent.app import App
    from kernelspan_agent.errors import KernelspanError
    from kernelspan_agent.probes.own.probe import OwnProbe

BAR = 40  # characters
_UNITS = (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000), ("ns", 1))
_log = logging.getLogger(__name__)


def of(app: App) -> Iterator[OwnProbe]:
    """The profile's own probes, in its order."""
    for spec in app.only.wanted.probes:
        if (own := app.session.own.get(spec)) is not None:
            yield own


def block(name: str, problem: KernelspanError) -> list[str]:
    """Name, reason and message, and what to do about it."""
    if problem.details:
        _log.debug("probe.failed probe=%s reason=%s details=%s", name, problem.reason, problem.details)
    return [f"kernelspan: probe {name}: {problem.reason}: {problem}", *([f"  {problem.hint}"] if problem.hint else [])]


def failed(app: App, told: set[str]) -> list[str]:
    """A block for each probe that could not be attached, but for those that are `told` already; they are from now on."""
    lines = []
    for own in of(app):
        if own.problem is not None and not own.was_attached and own.spec.name not in told:
            told.add(own.spec.name)
            lines += block(own.spec.name, own.problem)
    return lines


def require_any(app: App, *, has_command: bool) -> None:
    """Raises MachineError where nothing is attached and nothing can come to be.

    A probe on user code may still find its file in a process that is traced; one that is started by us has this machine's.
    """
    wanted = app.only.wanted
    if wanted.operations or not wanted.probes:
        return
    problems = []
    for own in of(app):
        if own.is_attached or own.problem is None or (own.spec.file is not None and not has_command):
            return
        problems.append(own.problem)
    if problems:
        count = "the profile's probe" if len(problems) == 1 else f"none of the profile's {len(problems)} probes"
        verb = "could not be attached" if len(problems) == 1 else "could be attached"
        raise MachineError(f"nothing to trace: {count} {verb}", reason=problems[0].reason)


def never_came(app: App) -> list[str]:
    """A block for each probe whose code no traced process had."""
    lines = []
    for own in of(app):
        if own.was_attached or own.problem is not None:
            continue
        what = f": {own.awaits}" if own.awaits is not None else ""
        lines.append(f"kernelspan: probe {own.spec.name} was never attached: no traced process had its code{what}")
        if own.awaits is not None and own.awaits.hint:
            lines.append(f"  {own.awaits.hint}")
    return lines


def left_out(app: App) -> list[str]:
    """A block for each probe that the kernel did not show some calls."""
    lines = []
    for own in of(app):
        missed = {reason: count for reason, count in (own.missed.sums or {}).items() if count}
        if missed:
            told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(missed.items()))
            lines.append(f"kernelspan: probe {own.spec.name}: the kernel left out calls, of any process: {told}")
            if TOO_MANY in missed:
                lines.append(f"  {own.mechanism} keeps room for few calls at once; mechanism Fentry loses no return")
    return lines


def report(app: App) -> list[dict[str, Any]]:
    """For --report."""
    found = []
    for own in of(app):
        trouble = None if own.was_attached else own.problem or own.awaits
        state = "Attached" if own.was_attached else own.standing.value
        buckets = app.only.durations.of(own.number) if app.only.durations is not None and own.was_attached else []
        found.append(
            {
                "name": own.spec.name,
                "mode": own.spec.mode.value,
                "state": state,
                "mechanism": own.mechanism,
                "reason": trouble.reason if trouble else "",
                "message": str(trouble) if trouble else "",
                "hint": trouble.hint if trouble else "",
                "missed": None if own.missed.sums is None else {k: v for k, v in own.missed.sums.items() if v},
                "durations": [{"fromNs": low, "belowNs": high, "count": count} for low, high, count in buckets],
            }
        )
    return found


def histograms(probes: Sequence[Mapping[str, Any]]) -> str:
    """The durations of a report's probes, for people; empty: there are none."""
    lines = []
    for probe in probes:
        if probe["durations"]:
            lines += ["", f"{probe['name']}   {sum(each['count'] for each in probe['durations']):,} calls"]
            lines += _bars(probe["durations"])
    return "\n".join(lines)


def _bars(buckets: Sequence[Mapping[str, int]]) -> Iterator[str]:
    most = max(each["count"] for each in buckets)
    width = max(len(f"{each['count']:,}") for each in buckets)
    for each in buckets:
        bar = "#" * -(-each["count"] * BAR // most)
        yield f"  {_shown(each['fromNs']):>8} .. {_shown(each['belowNs']):>8}  {each['count']:>{width},} |{bar:<{BAR}}|"


def _shown(ns: int) -> str:
    name, unit = next(((name, unit) for name, unit in _UNITS if ns >= unit), _UNITS[-1])
    value = ns / unit
    return f"{value:.0f} {name}" if unit == 1 or value >= 100 else f"{value:.3g} {name}"
