# SPDX-License-Identifier: Apache-2.0
"""Tracing for the sake of the counts alone: `kernelspan libraries` watches processes for some seconds."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from kernelspan_agent.app import App
from kernelspan_agent.cli import behaviour
from kernelspan_agent.cli.run import stop_on_signals
from kernelspan_agent.export.pipeline import Pipeline
from kernelspan_agent.process.errors import ProcessError
from kernelspan_agent.process.procfs import read_stat
from kernelspan_agent.resolve.resource import ResourceSettings
from kernelspan_agent.resolve.touched import Touched
from kernelspan_agent.targets.select import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernelspan_agent.process.procfs import Process
    from kernelspan_api.profile import TraceProfile


def watch(processes: Sequence[Process], profile: TraceProfile, seconds: float) -> dict[str, Any]:
    """What their libraries did: keys of `behaviour.report`, with `seconds` and `accounting`. Raises MachineError.

    Until they have all ended, SIGINT or SIGTERM comes, or the time is over.
    """
    stopped = stop_on_signals()
    app = App(
        profile,
        Pipeline([]),
        os.environ,
        resource=ResourceSettings(),
        programs=[f"/proc/{process.pid}/exe" for process in processes],
    )
    try:
        app.only.touched = Touched()
        for process in processes:
            if _is_there(process):
                app.select(process.pid, name_of(process))
        began = time.monotonic()
        app.run(lambda: bool(stopped) or time.monotonic() - began >= seconds or not app.processes.alive())
        took = time.monotonic() - began
        app.end(0.0)
        return {"seconds": round(took, 3), "accounting": app.accounting().as_json(), **behaviour.report(app)}
    finally:
        app.close()


def _is_there(process: Process) -> bool:
    """Whether it is the process still: pids are given again."""
    try:
        read_stat(process)
    except ProcessError:
        return False
    return True
