# SPDX-License-Identifier: Apache-2.0
"""Files the user names for us to write: refused before anything is traced, not after."""

from __future__ import annotations

from pathlib import Path

from kernelspan_agent.errors import UsageError


def check_writable(option: str, path: str) -> None:
    """Raises UsageError where `path` cannot be written; leaves nothing behind and what is there as it is."""
    file = Path(path)
    try:
        existed = file.exists()
        with file.open("ab"):
            pass
        if not existed:
            file.unlink()
    except (OSError, ValueError) as error:
        raise _refused(option, path, error) from error


def write_text(option: str, path: str, text: str) -> None:
    """Writes the file whole. Raises UsageError where that has become impossible (a full disk)."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(option, path, error) from error


def _refused(option: str, path: str, error: OSError | ValueError) -> UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return UsageError(f"{option} {path!r}: {reason}", hint="name a file that can be written to")
