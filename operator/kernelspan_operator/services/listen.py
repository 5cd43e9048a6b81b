# SPDX-License-Identifier: Apache-2.0
"""/metrics, /healthz and /readyz of a running operator.

/healthz: the loop answers, and no watch has ended by a fault of ours; a kubelet restarts an operator that fails it.
/readyz: everything has been seen and plans are given; until then, and during the end, it fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from kernelspan_operator.errors import ConfigurationError

from .metrics import Metrics
from .system import System

_HINT = "give host:port, such as 0.0.0.0:8080, [::]:8080, or :8080 for every address"


def parse_address(text: str) -> tuple[str | None, int]:
    """Host (None: every address) and port. Raises ConfigurationError."""
    host, separator, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not separator or (":" in bare) != bracketed or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigurationError(f"--listen-http {text[:80]!r} is no address", hint=_HINT)
    return bare or None, int(port)


@asynccontextmanager
async def listening(address: str, system: System) -> AsyncIterator[None]:
    """Serves inside. Raises ConfigurationError."""
    host, port = parse_address(address)
    runner = web.AppRunner(_application(system), access_log=None, shutdown_timeout=0.5, keepalive_timeout=15)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"--listen-http {address}: {error.strerror or error}",
                hint="see who has the port, and whose address it is",
            ) from error
        yield
    finally:
        await runner.cleanup()


def _application(system: System) -> web.Application:
    metrics = Metrics(system)

    async def serve_metrics(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.content_type})

    async def serve_health(_request: web.Request) -> web.Response:
        return _answer(healthy(system))

    async def serve_readiness(_request: web.Request) -> web.Response:
        return _answer(ready(system))

    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", serve_metrics)
    application.router.add_get("/healthz", serve_health)
    application.router.add_get("/readyz", serve_readiness)
    return application


def healthy(system: System) -> str:
    """Why the operator is to be restarted; empty: it is well."""
    return "a watch has ended by a fault; see the log" if system.watches.bugs else ""


def ready(system: System) -> str:
    """Why no plan is given yet; empty: plans are given."""
    return "" if system.plans.is_open else "not everything has been seen yet"


def _answer(trouble: str) -> web.Response:
    return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)
