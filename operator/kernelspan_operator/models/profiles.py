# SPDX-License-Identifier: Apache-2.0
"""A profile as the services know it: valid, or refused with everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from kernelspan_api.resource import Spec
from kernelspan_api.selection import expires, selects_node
from kernelspan_api.status import Status

CLUSTER_KIND = "ClusterTraceProfile"


class ProfileKey(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Which object: the namespace of a ClusterTraceProfile is empty."""

    kind: str
    namespace: str
    name: str


class Profile(msgspec.Struct, frozen=True):
    """One object. `spec` None: it is refused, `problem` says why."""

    key: ProfileKey
    uid: str
    generation: int
    created: datetime  # with its zone
    spec: Spec | None
    problem: str = ""  # why nothing of it is traced; with a spec: what it needs is not to be had
    reason: str = ""
    pending: bool = False  # what it needs (Secrets) is not known yet: nothing is said of it, and nothing sent
    document: bytes = b""  # the spec as JSON, keys sorted; what a plan carries
    status: Status | None = None  # what the object said of itself when it was read; None: nothing, or nothing readable

    def expires(self) -> float | None:
        """Seconds since the epoch; None: never."""
        return None if self.spec is None else expires(self.spec, self.created)

    def is_expired(self, now_seconds: float) -> bool:
        """By the API server's clock, which also made `created`."""
        expires = self.expires()
        return expires is not None and now_seconds >= expires

    def selects_node(self, labels: Mapping[str, str]) -> bool:
        """Whether its nodeSelector allows a node with these labels."""
        assert self.spec is not None
        return selects_node(self.spec, labels)

    def is_wanted(self, now_seconds: float) -> bool:
        """Whether anything is to be traced for it."""
        if self.spec is None or self.problem or self.pending:
            return False
        return not self.spec.paused and not self.is_expired(now_seconds)


Body = dict[str, Any]
