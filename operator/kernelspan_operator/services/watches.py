# SPDX-License-Identifier: Apache-2.0
"""Watches as tasks: how the services that need one start it and end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from .kube import Kube
from .watch import Collection, Delete, Synced, Timing, Upsert, Watch

Tell = Callable[[Upsert[Any] | Delete | Synced], object]
_log = logging.getLogger(__name__)


class OpenWatch(Protocol):
    """Starts a watch; what it gives ends it, after which nothing more is told."""

    def __call__(self, collection: Collection[Any], tell: Tell) -> Callable[[], object]:
        """See above."""


class Watches:
    """All watches of the operator. A bug in one is logged and ends that one alone; `close` ends all."""

    def __init__(self, kube: Kube, timing: Timing | None = None) -> None:
        self._kube, self._timing = kube, timing or Timing()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def open(self, collection: Collection[Any], tell: Tell) -> Callable[[], object]:
        """See OpenWatch."""
        task = asyncio.ensure_future(Watch(self._kube, collection, tell, self._timing).run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task.cancel

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("watch.bug error=%s", repr(error), exc_info=error)

    async def close(self) -> None:
        """Ends all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
