# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: what could not be built, and what to do about it."""

from __future__ import annotations


class ToolError(Exception):
    """A tool cannot be built; `hint` is a sentence that says what to do, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
