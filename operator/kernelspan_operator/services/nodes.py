# SPDX-License-Identifier: Apache-2.0
"""The cluster's nodes: their labels, and that they exist. Watched as metadata only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernelspan_api.objects import Metadata

from .watch import Collection, Delete, Synced, Upsert

NODES: Collection[Metadata] = Collection("/api/v1/nodes", Metadata, metadata_only=True)


class Nodes:
    """All nodes. `touched` is told of one whose labels have changed, `gone` of one that was deleted."""

    def __init__(self, touched: Callable[[str], object], gone: Callable[[str], object]) -> None:
        self._touched, self._gone = touched, gone
        self._names: dict[str, str] = {}  # by uid
        self._labels: dict[str, dict[str, str]] = {}
        self._synced = False

    def tell(self, change: Upsert[Any] | Delete | Synced) -> None:
        """What the watch of NODES tells."""
        if isinstance(change, Synced):
            self._synced = True
        elif isinstance(change, Delete):
            name = self._names.pop(change.uid, "")
            if name and name not in self._names.values():  # else it was made anew under its name before
                self._labels.pop(name, None)
                self._gone(name)
        else:
            meta = change.object.metadata
            labels = meta.labels or {}
            self._names[meta.uid] = meta.name
            if self._labels.get(meta.name) != labels:
                self._labels[meta.name] = labels
                self._touched(meta.name)

    def is_synced(self) -> bool:
        """Whether all that there are have been told once."""
        return self._synced

    def labels(self, node: str) -> dict[str, str]:
        """Its labels; none where it is not known."""
        return self._labels.get(node, {})

    def __contains__(self, node: object) -> bool:
        return node in self._labels

    def __len__(self) -> int:
        return len(self._labels)
