# SPDX-License-Identifier: Apache-2.0
"""What can go wrong for the operator: each error has a stable reason and a hint what to do."""

from __future__ import annotations


class OperatorError(Exception):
    """Base: `reason` is CamelCase and stable, `hint` is a sentence that says what to do."""

    reason = "Error"

    def __init__(self, message: str, *, reason: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason or type(self).reason
        self.hint = hint


class ApiError(OperatorError):
    """The API server refused a request. `status`: its HTTP code, 0: it was not reached."""

    reason = "ApiServer"

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ConfigurationError(OperatorError):
    """The operator was started in a way that cannot work."""

    reason = "Configuration"


class RefusedError(OperatorError):
    """An agent's call is refused; `reason` is what it is counted as."""

    reason = "Unauthenticated"
