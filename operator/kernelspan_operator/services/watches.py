# SPDX-License-Identifier: Apache-2.0
"""Watches as tasks: how the services that need one start it and end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from kernelspan_operator.errors import ApiError

from .kube import Kube
from .watch import BEGINNINGS_AT_ONCE, Collection, Delete, Synced, Timing, Upsert, Watch

Tell = Callable[[Upsert[Any] | Delete | Synced], object]
Refused = Callable[[ApiError], object]
_log = logging.getLogger(__name__)


class OpenWatch(Protocol):
    """Starts a watch; what it gives ends it, after which nothing more is told."""

    def __call__(
        self, collection: Collection[Any], tell: Tell, refused: Refused = ..., listing: Callable[[], object] = ...
    ) -> Callable[[], object]:
        """See above, and Watch."""


class Watches:
    """All watches of the operator. A bug in one is logged and ends that one alone; `close` ends all."""

    def __init__(self, kube: Kube, timing: Timing | None = None) -> None:
        self._kube, self._timing = kube, timing or Timing()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(BEGINNINGS_AT_ONCE)
        self.restarts: dict[str, int] = {}  # by reason
        self.bugs = 0  # watches that have ended and should not have

    def __len__(self) -> int:
        return len(self._tasks)

    def open(
        self,
        collection: Collection[Any],
        tell: Tell,
        refused: Refused = lambda _error: None,
        listing: Callable[[], object] = lambda: None,
    ) -> Callable[[], object]:
        """See OpenWatch."""
        watch = Watch(
            self._kube, collection, tell, self._timing, refused, self._restarted, listing, at_once=self._at_once
        )
        task = asyncio.ensure_future(watch.run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task.cancel

    def _restarted(self, reason: str) -> None:
        self.restarts[reason] = self.restarts.get(reason, 0) + 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.bugs += 1
            _log.error("watch.bug error=%s", repr(error), exc_info=error)

    async def close(self) -> None:
        """Ends all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
