# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet: each has a reason (a status reason of TraceProfile where one fits) and a hint what to do."""

from __future__ import annotations


class KernelspanError(Exception):
    """Base: `reason` is CamelCase and stable, `hint` is a sentence that says what to do, `exit_code` as documented."""

    reason = "Error"
    exit_code = 1

    def __init__(self, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason or type(self).reason
        self.hint = hint
        self.details = ""  # the whole of what clang or the verifier wrote, for the debug log

    def with_hint(self) -> str:
        """What is wrong and what to do, in one line, as a status has it."""
        return "; ".join(filter(None, (str(self), self.hint)))


class UsageError(KernelspanError):
    """The command line or the profile is wrong."""

    reason = "InvalidSpec"
    exit_code = 2


class MachineError(KernelspanError):
    """This machine cannot do what is asked: a capability, a package or a kernel feature is missing."""

    reason = "MechanismUnsupported"
    exit_code = 3


class BudgetError(KernelspanError):
    """A bound of the agent's own is reached."""

    reason = "BudgetExceeded"
