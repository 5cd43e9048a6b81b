# SPDX-License-Identifier: Apache-2.0
"""Small programs compiled where they are needed, and what binutils says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.require import require


def compiled(folder: Path, text: str, *flags: str, compiler: str = "gcc", name: str = "program") -> Path:
    """The program made of C (or C++) `text`; the test is left out where there is no such compiler."""
    require("kernel", shutil.which(compiler), f"{compiler} is not installed (tools/apt test)")
    source, made = folder / f"{name}.{'c' if compiler == 'gcc' else 'cc'}", folder / name
    source.write_text(text)
    run(compiler, "-w", "-o", str(made), str(source), *flags)
    return made


def run(*command: str, folder: Path | None = None) -> str:
    """Its output. Raises CalledProcessError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def nm(path: Path, *flags: str) -> list[tuple[str, int]]:
    """(name, address) of every function that nm sees, without versions."""
    found = []
    for line in run("nm", "--defined-only", *flags, str(path)).splitlines():
        match = re.fullmatch(r"([0-9a-f]+) ([tTwWi]) (.+)", line)
        if match:
            found.append((match[3].split("@")[0], int(match[1], 16)))
    return found
