# SPDX-License-Identifier: Apache-2.0
"""Where compiled modules are kept from one start of the agent to the next. Best effort: what cannot be kept is compiled again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def directory(environ: Mapping[str, str]) -> Path:
    """KERNELSPAN_CACHE, or below XDG_CACHE_HOME or ~/.cache."""
    if own := environ.get("KERNELSPAN_CACHE"):
        return Path(own)
    return (
        Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/var/cache")) / ".cache")
        / "kernelspan"
        / "objects"
    )


def boot_id() -> bytes:
    """Of this start of the kernel."""
    return _BOOT_ID.read_bytes().strip()


def has_any(environ: Mapping[str, str]) -> bool:
    """Whether something was kept since the kernel started: what is older is of no use."""
    try:
        return (directory(environ) / _mark()).exists()
    except OSError:  # nobody may look there
        return False


def _mark() -> str:
    return f"boot-{boot_id().decode()}"


def read(path: Path, name: str) -> dict[str, Any] | None:
    """What the compiler answered of a module; None: it is not kept, or not whole."""
    try:
        answer: dict[str, Any] = json.loads(path.read_bytes())
        return answer if answer["modules"][name]["programs"] and answer["defines"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, answer: Mapping[str, Any]) -> None:
    """For the next start."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            try:
                json.dump(answer, file)
                file.flush()
                Path(file.name).replace(path)
            except OSError:  # a full disk: nothing is left of it
                Path(file.name).unlink()
        _mark_boot(path.parent)
    except OSError:
        return


def _mark_boot(folder: Path) -> None:
    mark = folder / _mark()
    if not mark.exists():
        for old in folder.glob("boot-*"):
            old.unlink(missing_ok=True)
        mark.touch()
