# SPDX-License-Identifier: Apache-2.0
"""C programs that make what Python cannot: floods, old calls, threads that die in calls. Compiled once a session."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.require import require

_SOURCES = Path(__file__).with_name("programs")
_FOLDER = tempfile.TemporaryDirectory(prefix="kernelspan-programs-")  # lives as long as the session


@cache
def compiled(name: str, *options: str) -> Path:
    """The program of tests/support/programs/NAME.c. A test that needs one is left out where there is no C compiler."""
    program = Path(_FOLDER.name, "".join(options) or "plain", name)
    program.parent.mkdir(exist_ok=True)
    try:
        subprocess.run(
            ["cc", "-O1", "-pthread", "-Wall", "-Werror", *options, "-o", program, _SOURCES / f"{name}.c"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        require("kernel", False, "no C compiler (tools/apt test)")
    except subprocess.CalledProcessError as error:
        raise AssertionError(error.stderr.decode()) from error
    return program
