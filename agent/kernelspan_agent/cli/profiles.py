# SPDX-License-Identifier: Apache-2.0
"""Profiles from files, as the commands take them: every problem told at once, with its place."""

from __future__ import annotations

from pathlib import Path

from kernelspan_api.profile import TraceProfile, ignored_standalone, load, unavailable
from kernelspan_api.problems import Problem, ProfileError

from kernelspan_agent.errors import UsageError

MAX_PROFILE_BYTES = 1 << 20


def read_profile(path: str) -> tuple[TraceProfile, list[str]]:
    """A valid profile that this version can run, and what in it is Kubernetes' affair alone.

    Raises UsageError with every problem.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_PROFILE_BYTES:
        raise UsageError(f"{path}: more than {MAX_PROFILE_BYTES} bytes")
    try:
        profile = load(text, standalone=True)
    except ProfileError as error:
        raise _refusal(path, error.problems) from error
    if problems := unavailable(profile):
        raise _refusal(path, problems)
    return profile, ignored_standalone(profile)


def _refusal(path: str, problems: list[Problem] | tuple[Problem, ...]) -> UsageError:
    lines = [f"{path} has {len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
    lines += [f"  {problem}" for problem in problems]
    return UsageError("\n".join(lines), hint="docs/reference/traceprofile.md lists every field")
