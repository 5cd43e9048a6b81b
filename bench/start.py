# SPDX-License-Identifier: Apache-2.0
"""From the command to the first span at the other end, compile included (an empty cache) and not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.collectors import counting_server
from bench.machine import LOAD_CORE, WORK_CORE
from bench.processes import HERE, BenchError

_PROGRAM = "import time\nopen('/etc/hostname').read()\ntime.sleep(30)\n"
_WAIT_SECONDS = 30.0


def first_span_seconds(*, cold: bool, times: int) -> list[float]:
    """`kernelspan run -- python3 …` to the first request received, each time a new process. Raises BenchError.

    Not pinned to one core: a start may use the machine. The first warm one fills the cache and is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="kernelspan-bench-") as folder:
        if not cold:
            _once(folder)
        return [_once(str(Path(folder, str(number))) if cold else folder) for number in range(times)]


def _once(cache: str) -> float:
    command = [
        str(Path(sys.executable).with_name("kernelspan")),
        "run",
        "-q",
        "-f",
        str(HERE.parent / "examples" / "01-python-files.yaml"),
    ]
    with counting_server() as (endpoint, received):
        began = time.monotonic()
        agent = subprocess.Popen(
            [
                "taskset",
                "-c",
                f"{WORK_CORE},{LOAD_CORE}",
                *command,
                "--otlp",
                endpoint,
                "--",
                sys.executable,
                "-c",
                _PROGRAM,
            ],
            env={**os.environ, "KERNELSPAN_CACHE": cache},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            if not received.first.wait(_WAIT_SECONDS):
                raise BenchError(f"no span within {_WAIT_SECONDS:g} s")
            return received.times[0] - began
        finally:
            agent.terminate()
            agent.communicate(timeout=_WAIT_SECONDS)
