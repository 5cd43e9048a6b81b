# SPDX-License-Identifier: Apache-2.0
"""C, C++ and Go programs that make what Python cannot: floods, old calls, threads that die in calls. Compiled once a session."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.require import require
from tools.errors import ToolError
from tools.gotool import find_go

_SOURCES = Path(__file__).with_name("programs")
_FOLDER = tempfile.TemporaryDirectory(prefix="kernelspan-programs-")  # lives as long as the session


@cache
def compiled(name: str, *options: str) -> Path:
    """The program of tests/support/programs/NAME.c. A test that needs one is left out where there is no C compiler."""
    program = _place(name, options)
    _run("kernel", "cc", "-O1", "-pthread", "-Wall", "-Werror", *options, "-o", program, _SOURCES / f"{name}.c")
    return program


@cache
def compiled_cxx(name: str, *options: str) -> Path:
    """The program of tests/support/programs/NAME.cc."""
    program = _place(f"{name}-cxx", options)
    _run("kernel", "c++", "-O2", "-Wall", "-Werror", *options, "-o", program, _SOURCES / f"{name}.cc")
    return program


@cache
def compiled_go(name: str, *options: str) -> Path:
    """The program of the module tests/support/programs/NAME, by the Go that is there."""
    program, folder = _place(f"{name}-go", options), _SOURCES / name
    try:
        go = find_go(os.environ, folder)
    except ToolError as error:
        require("kernel", False, f"{error} {error.hint}".strip())
        raise
    _run("kernel", go.command, "build", *options, "-o", program, ".", cwd=folder, env={**go.environment})
    return program


def _place(name: str, options: tuple[str, ...]) -> Path:
    program = Path(_FOLDER.name, "".join(options).replace("/", "-") or "plain", name)
    program.parent.mkdir(exist_ok=True)
    return program


def _run(tier: str, *command: str | Path, **options: Any) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, **options)
    except FileNotFoundError:
        require(tier, False, f"no {command[0]} (tools/apt test)")
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr.decode()) from error
