# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys from the files that the user names."""

from __future__ import annotations

from pathlib import Path

from kernelspan_agent.errors import UsageError

_MAX_PEM_BYTES = 1 << 20  # a bundle of all public authorities has a quarter of it


def read_pem(path: str) -> bytes:
    """A PEM file. Raises UsageError if it cannot be read or is none."""
    try:
        with Path(path).open("rb") as source:
            content = source.read(_MAX_PEM_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if b"-----BEGIN " not in content:
        raise UsageError(f"{path!r}: holds no PEM certificate or key")
    return content
