# SPDX-License-Identifier: Apache-2.0
"""Start-up: the connection, the services, and kopf with settings under which it never writes to a user's object."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AbstractAsyncContextManager

import kopf

from kernelspan_operator.handlers import profiles
from kernelspan_operator.models.spans import Spans, no_spans
from kernelspan_operator.services.kube import REQUEST_SECONDS, Connection, Kube
from kernelspan_operator.services.system import Settings, System
from kernelspan_operator.services.watch import PAGE, Timing

PREFIX = "kernelspan.io"
# After the last of them kopf gives up, and the process with it: an API server may be away for longer than kopf's minute.
BACKOFF_SECONDS = (0.5, 1, 1, 2, 2, 3, *[5] * 720)
BATCH_SECONDS = 0.01  # kopf's own 0.1 s would be most of the time from a change to its plan


def kopf_settings(timing: Timing) -> kopf.OperatorSettings:
    """kopf's settings. Its names on objects are ours from the first day, though nothing of ours makes it write one."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # no Kubernetes events from log lines
    settings.scanning.disabled = True  # the two kinds are all there is; no watch of CRDs and namespaces
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{PREFIX}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=PREFIX, key="last-handled-configuration"
    )
    settings.queueing._batch_window = BATCH_SECONDS  # noqa: SLF001 - it has no public name any more
    settings.networking.error_backoffs = BACKOFF_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.watching.server_timeout = timing.watch
    settings.watching.inactivity_timeout = timing.silence
    settings.watching.chunk_size = PAGE
    settings.watching.connect_timeout = 30
    return settings


def _login(connection: Connection) -> kopf.ConnectionInfo:
    token = connection.token() if connection.token is not None else None
    certificate, key = connection.certificate or (None, None)
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=connection.ca,
        token=token,
        scheme="Bearer" if token else None,
        certificate_data=certificate,
        private_key_data=key,
    )


def serving(address: str, system: System) -> AbstractAsyncContextManager[None]:
    """/metrics and its like at the address; nothing where there is none."""
    if not address:
        return contextlib.nullcontext()
    from kernelspan_operator.services.listen import listening  # noqa: PLC0415 - prometheus_client: 6 MB resident

    return listening(address, system)


async def run(
    connection: Connection,
    settings: Settings,
    *,
    listen_http: str = "",
    spans: Spans = no_spans,
    timing: Timing | None = None,
    stop: asyncio.Event | None = None,
    started: asyncio.Future[System] | None = None,
) -> None:
    """Until a signal or `stop`. Raises OperatorError where it cannot start. `started` gets the services, for tests."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each event that came in
    registry = kopf.OperatorRegistry()

    async def login(**_: object) -> kopf.ConnectionInfo:
        return _login(connection)

    kopf.on.login(registry=registry)(login)
    async with Kube(connection) as kube:
        timing = timing or Timing()
        system = System(kube, settings, timing, spans)
        profiles.register(registry, system)

        # In kopf's own order: what it finds running after this it waits for, 5 s long, and then cancels, agents' streams
        # and gRPC's own tasks among it.
        async def ending(**_: object) -> None:
            await system.close()

        kopf.on.cleanup(registry=registry)(ending)
        try:
            async with serving(listen_http, system):
                await system.start()
                if started is not None:
                    started.set_result(system)
                await kopf.operator(
                    registry=registry, settings=kopf_settings(timing), clusterwide=True, standalone=True, stop_flag=stop
                )
        finally:
            await system.close()
