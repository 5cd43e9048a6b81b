# SPDX-License-Identifier: Apache-2.0
"""/metrics, /healthz and /readyz of a running agent.

/healthz: the loop has taken a step lately; a supervisor restarts an agent that fails it. /readyz: operations are seen
and there is somewhere for spans to go; during the end it fails, so that nobody waits for more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from kernelspan_agent.control.listen import Answer, Server

if TYPE_CHECKING:
    from kernelspan_agent.control.running import Agent

# A step takes milliseconds, and every wait in it is bounded by 50 ms; a machine that is out of memory or CPU may take
# seconds, and a restart would not help it.
STALE_SECONDS = 30.0


def serve(address: str, agent: Agent, say: Callable[[str], None] | None = None) -> Callable[[], None]:
    """Serves at host:port; gives what stops it. `say` is told the port, where it was left to the kernel (0).

    Raises UsageError: the address is malformed, in use or not ours.
    """
    from kernelspan_agent.control.metrics import Metrics  # noqa: PLC0415 - prometheus_client: 6 MB resident

    metrics = Metrics(agent)
    server = Server(
        address,
        {
            "/metrics": lambda: Answer(HTTPStatus.OK, metrics.text(), metrics.content_type),
            "/healthz": lambda: _answer(healthy(agent, time.monotonic())),
            "/readyz": lambda: _answer(agent.trouble()),
        },
    )
    if say is not None and address.rpartition(":")[2].strip("0") == "":
        say(f"listening on port {server.port}")
    return server.close


def healthy(agent: Agent, now_seconds: float) -> str:
    """Why the agent is not alive; empty: it is. `now_seconds`: time.monotonic()."""
    silent = now_seconds - agent.last_step_seconds
    return f"the loop has not taken a step for {silent:.0f} s" if silent > STALE_SECONDS else ""


def _answer(trouble: str) -> Answer:
    if trouble:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n".encode())
    return Answer(HTTPStatus.OK, b"ok\n")
