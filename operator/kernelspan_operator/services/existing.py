# SPDX-License-Identifier: Apache-2.0
"""Which profiles exist, by uid: our own watch of both kinds, as metadata only, beside kopf's of the whole objects.

kopf lists anew after every connection that breaks, and what was deleted in between it never tells. This watch does, also of
one that kopf had seen and it had not: what was in before a list began and is not in that list is deleted. It also says when
all profiles that there were have come in by kopf, which kopf does not say either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernelspan_api.objects import Metadata
from kernelspan_api.resource import API_VERSION

from .watch import Collection, Delete, Synced, Upsert
from .watches import OpenWatch

_NAMESPACED, _CLUSTERS = (f"/apis/{API_VERSION}/{plural}" for plural in ("traceprofiles", "clustertraceprofiles"))
_PATHS = (_NAMESPACED, _CLUSTERS)
# What kopf still has on the way when the deletion is known here is dropped; it lags by milliseconds.
_REMEMBERED = 10_000


class Existing:
    """`gone` is told the uid of each that is deleted."""

    def __init__(self, open_watch: OpenWatch, gone: Callable[[str], object]) -> None:
        self._open, self._gone = open_watch, gone
        self._there: dict[str, set[str]] = {path: set() for path in _PATHS}  # by this watch
        self._seen: dict[str, set[str]] = {path: set() for path in _PATHS}  # by kopf
        self._synced: set[str] = set()
        self._buried: dict[str, None] = {}  # in their order

    def start(self) -> None:
        """Watches."""
        for path in _PATHS:
            self._follow(path)

    def _follow(self, path: str) -> None:
        there, seen = self._there[path], self._seen[path]
        before: set[str] = set()  # in before the list began

        def listing() -> None:
            nonlocal before
            before = set(seen)

        def tell(change: Upsert[Any] | Delete | Synced) -> None:
            if isinstance(change, Upsert):
                there.add(change.object.metadata.uid)
            elif isinstance(change, Delete):
                there.discard(change.uid)
                self.bury(change.uid)
                self._gone(change.uid)
            else:
                self._synced.add(path)
                for uid in (before & seen) - there:
                    self.bury(uid)
                    self._gone(uid)

        self._open(Collection(path, Metadata, metadata_only=True), tell, listing=listing)

    def see(self, uid: str, *, namespaced: bool) -> bool:
        """The object has come in as a whole; False: it is deleted already."""
        if uid in self._buried:
            return False
        self._seen[_NAMESPACED if namespaced else _CLUSTERS].add(uid)
        return True

    def bury(self, uid: str) -> None:
        """The object is deleted."""
        for seen in self._seen.values():
            seen.discard(uid)
        self._buried[uid] = None
        if len(self._buried) > _REMEMBERED:
            del self._buried[next(iter(self._buried))]

    def is_synced(self) -> bool:
        """Whether all that there are have come in as a whole."""
        return len(self._synced) == len(_PATHS) and all(self._there[path] <= self._seen[path] for path in _PATHS)
