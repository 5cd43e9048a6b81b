# SPDX-License-Identifier: Apache-2.0
"""Which profiles exist, by uid: our own watch of both kinds, as metadata only, beside kopf's of the whole objects.

kopf lists anew after every connection that breaks, and what was deleted in between it never tells. This watch does. It
also says when all profiles that there were have come in by kopf, which kopf does not say either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernelspan_api.objects import Metadata
from kernelspan_api.resource import API_VERSION

from .watch import Collection, Delete, Synced, Upsert
from .watches import OpenWatch

_PATHS = tuple(f"/apis/{API_VERSION}/{plural}" for plural in ("traceprofiles", "clustertraceprofiles"))
# What kopf still has on the way when the deletion is known here is dropped; it lags by milliseconds.
_REMEMBERED = 10_000


class Existing:
    """`gone` is told the uid of each that is deleted."""

    def __init__(self, open_watch: OpenWatch, gone: Callable[[str], object]) -> None:
        self._open, self._gone = open_watch, gone
        self._there: dict[str, set[str]] = {path: set() for path in _PATHS}
        self._synced: set[str] = set()
        self._seen: set[str] = set()
        self._buried: dict[str, None] = {}  # in their order

    def start(self) -> None:
        """Watches."""
        for path in _PATHS:
            self._follow(path)

    def _follow(self, path: str) -> None:
        def tell(change: Upsert[Any] | Delete | Synced) -> None:
            if isinstance(change, Upsert):
                self._there[path].add(change.object.metadata.uid)
            elif isinstance(change, Delete):
                self._there[path].discard(change.uid)
                self.bury(change.uid)
                self._gone(change.uid)
            else:
                self._synced.add(path)

        self._open(Collection(path, Metadata, metadata_only=True), tell)

    def see(self, uid: str) -> bool:
        """The object has come in as a whole; False: it is deleted already."""
        if uid in self._buried:
            return False
        self._seen.add(uid)
        return True

    def bury(self, uid: str) -> None:
        """The object is deleted."""
        self._seen.discard(uid)
        self._buried[uid] = None
        if len(self._buried) > _REMEMBERED:
            del self._buried[next(iter(self._buried))]

    def is_synced(self) -> bool:
        """Whether all that there are have come in as a whole."""
        return len(self._synced) == len(_PATHS) and all(there <= self._seen for there in self._there.values())
