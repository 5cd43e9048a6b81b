# SPDX-License-Identifier: Apache-2.0
"""kopf's events of the two kinds, to the services. Level-based and thin: nothing is decided here, nothing returned.

on.event alone: handlers of creation and update write annotations onto users' objects, those of deletion add finalizers,
and a profile must be deletable with the operator down.
"""

from __future__ import annotations

import logging
from typing import Any

import kopf

from kernelspan_api.resource import GROUP, VERSION
from kernelspan_operator.services.system import System

PLURALS = ("traceprofiles", "clustertraceprofiles")
_log = logging.getLogger(__name__)


def register(registry: kopf.OperatorRegistry, system: System) -> None:
    """Handlers of both kinds that feed `system`."""
    for plural in PLURALS:

        async def changed(event: Any, **_: Any) -> None:
            take(system, event)

        kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"{plural}-event")(changed)


def take(system: System, event: Any) -> None:
    """One event, whose object is whatever the API server stores: a fault of ours with it ends here."""
    body = dict(event["object"])
    try:
        if event["type"] == "DELETED":
            system.remove(body)
        else:
            system.put(body)
    except Exception:  # noqa: BLE001 - one bad object must not end the loop over the others
        meta = body.get("metadata") or {}
        _log.exception("profile.fault namespace=%s name=%s", meta.get("namespace"), meta.get("name"))
