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
    from kernelspan_agent.control.running import Running

# A step takes milliseconds, and every wait in it is bounded by 50 ms; a machine that is out of memory or CPU may take
# seconds, and a restart would not help it.
STALE_SECONDS = 30.0


def serve(address: str, app: Running, say: Callable[[str], None] | None = None) -> Callable[[], None]:
    """Serves at host:port; gives what stops it. `say` is told the port, where it was left to the kernel (0).

    Raises UsageError: the address is malformed, in use or not ours.
    """
    from kernelspan_agent.control.metrics import Metrics  # noqa: PLC0415 - prometheus_client: 6 MB resident

    metrics = Metrics(app)
    server = Server(
        address,
        {
            "/metrics": lambda: Answer(HTTPStatus.OK, metrics.text(), metrics.content_type),
            "/healthz": lambda: _answer(healthy(app, time.monotonic())),
            "/readyz": lambda: _answer(ready(app)),
        },
    )
    if say is not None and address.rpartition(":")[2].strip("0") == "":
        say(f"listening on port {server.port}")
    return server.close


def healthy(app: Running, now_seconds: float) -> str:
    """Why the agent is not alive; empty: it is. `now_seconds`: time.monotonic()."""
    silent = now_seconds - app.last_step_seconds
    return f"the loop has not taken a step for {silent:.0f} s" if silent > STALE_SECONDS else ""


def ready(app: Running) -> str:
    """Why nothing is traced now; empty: all is attached."""
    if not app.is_attached:
        return "the agent is starting, or ending"
    return "" if app.session.attached else "nothing is attached"


def _answer(trouble: str) -> Answer:
    if trouble:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{trouble}\n".encode())
    return Answer(HTTPStatus.OK, b"ok\n")
