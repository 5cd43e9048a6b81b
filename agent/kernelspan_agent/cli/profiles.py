# SPDX-License-Identifier: Apache-2.0
"""Profiles from files, as the commands take them: every problem told at once, with its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kernelspan_agent.errors import UsageError
from kernelspan_api.problems import Problem, ProfileError
from kernelspan_api.profile import TraceProfile, ignored_standalone, load, unavailable

MAX_PROFILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Examined:
    """A profile and all that is wrong with it. `profile` None: it is no valid profile at all."""

    path: str
    profile: TraceProfile | None
    problems: tuple[Problem, ...]  # with a profile: what this version cannot do
    ignored: list[str]


def examine(path: str) -> Examined:
    """What a file holds. Raises UsageError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_PROFILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(text) > MAX_PROFILE_BYTES:
        raise UsageError(f"{path}: more than {MAX_PROFILE_BYTES} bytes")
    try:
        profile = load(text, standalone=True)
    except ProfileError as error:
        return Examined(path, None, error.problems, [])
    return Examined(path, profile, tuple(unavailable(profile)), ignored_standalone(profile))


def read_profile(path: str) -> tuple[TraceProfile, list[str]]:
    """A valid profile that this version can run, and what in it is Kubernetes' affair alone.

    Raises UsageError with every problem.
    """
    examined = examine(path)
    if examined.profile is None or examined.problems:
        raise _refusal(path, examined.problems)
    return examined.profile, examined.ignored


def _refusal(path: str, problems: tuple[Problem, ...]) -> UsageError:
    lines = [f"{path} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
    lines += [f"  {problem}" for problem in problems]
    return UsageError("\n".join(lines), hint="docs/reference/traceprofile.md lists every field")
