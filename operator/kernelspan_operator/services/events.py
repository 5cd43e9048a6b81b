# SPDX-License-Identifier: Apache-2.0
"""Kubernetes events of profiles: what `kubectl describe` shows below a status, and what a log of events keeps.

One for each turn of Ready: what is wrong and what to do, or that all is well again. Nothing is made while nothing turns:
a status that stays as it is, or an operator that was started anew, costs no call. What is not known yet is no event, and
what is after it as it was before it is none either. What turns back and forth is told of again only after a while. An event
is a courtesy: one that cannot be made is counted, and not tried again.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from kernelspan_api.reasons import Reason
from kernelspan_api.resource import API_VERSION
from kernelspan_api.status import Condition, ConditionStatus, Status
from kernelspan_operator.errors import ApiError
from kernelspan_operator.models.profiles import CLUSTER_KIND, Profile

from .kube import Kube

AGAIN_SECONDS = 300.0  # before the same is said of the same object once more
MAX_NOTE = 1024  # events.k8s.io/v1
MAX_NAME = 253 - 17
MAX_KNOWN = 20_000
_EXPECTED = {Reason.PAUSED.value, Reason.EXPIRED.value}  # the user's own wish
_REMEDIES = {one.value: one.remedy for one in Reason}
_K = TypeVar("_K")
_V = TypeVar("_V")
_Turn = tuple[ConditionStatus, str]
_log = logging.getLogger(__name__)


class Events:
    """Makes them. `now` is seconds since the epoch by the API server's clock; `made` counts by what came of it."""

    def __init__(self, kube: Kube, now: Callable[[], float]) -> None:
        self._kube, self._now = kube, now
        self._stands: OrderedDict[str, _Turn] = OrderedDict()  # by uid: Ready as it was known last
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()  # by uid and reason: when
        self.made: dict[str, int] = {}

    async def tell(self, profile: Profile, before: Status | None, after: Status) -> None:
        """What a status that has been written says anew. Raises nothing."""
        known = self._stands.get(profile.uid) or _turn(_ready(before))
        turn = _ready(after)
        if turn is None or turn.status is ConditionStatus.UNKNOWN:
            _keep(self._stands, profile.uid, known)
            return
        _keep(self._stands, profile.uid, _turn(turn))
        if _turn(turn) == known or not self._is_due(profile.uid, turn.reason):
            return
        namespace = profile.key.namespace or "default"  # where Kubernetes has the events of what is in no namespace
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(namespace, safe='')}/events"
        try:
            await self._kube.request("create", "POST", path, body=event_of(profile, turn, namespace, self._now()))
        except ApiError as error:  # a namespace that is being deleted takes none
            self._count("Failed")
            _log.info("event.failed namespace=%s name=%s message=%s", namespace, profile.key.name, error)
        else:
            self._count("Written")

    def _is_due(self, uid: str, reason: str) -> bool:
        now, key = self._now(), (uid, reason)
        last = self._said.get(key)
        if last is not None and 0 <= now - last < AGAIN_SECONDS:
            self._count("Repeated")
            return False
        _keep(self._said, key, now)
        return True

    def _count(self, what: str) -> None:
        self.made[what] = self.made.get(what, 0) + 1


def _keep(known: OrderedDict[_K, _V], key: _K, value: _V | None) -> None:
    """As the newest, of a bounded number."""
    if value is not None:
        known[key] = value
        known.move_to_end(key)
        if len(known) > MAX_KNOWN:
            known.popitem(last=False)


def _turn(ready: Condition | None) -> _Turn | None:
    """What counts of it; None: it is not known."""
    return None if ready is None or ready.status is ConditionStatus.UNKNOWN else (ready.status, ready.reason)


def _ready(status: Status | None) -> Condition | None:
    return next((one for one in status.conditions if one.type == "Ready"), None) if status is not None else None


def event_of(profile: Profile, turn: Condition, namespace: str, now_seconds: float) -> dict[str, Any]:
    """The object."""
    key = profile.key
    regarding = {"apiVersion": API_VERSION, "kind": key.kind, "name": key.name, "uid": profile.uid}
    if key.kind != CLUSTER_KIND:
        regarding["namespace"] = key.namespace
    is_well = turn.status is ConditionStatus.TRUE or turn.reason in _EXPECTED
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{key.name[:MAX_NAME].rstrip('.-')}.{secrets.token_hex(8)}", "namespace": namespace},
        "eventTime": datetime.fromtimestamp(now_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "kernelspan.io/operator",
        "reportingInstance": socket.gethostname()[:128],
        "action": "Trace",
        "reason": turn.reason,
        "regarding": regarding,
        "type": "Normal" if is_well else "Warning",
        "note": _note(turn),
    }


def _note(turn: Condition) -> str:
    """What is wrong, and last what to do: that is not what is cut off."""
    if turn.status is ConditionStatus.TRUE:
        return turn.message or "Every node that has pods of the profile traces them."
    remedy = _REMEDIES.get(turn.reason, "")
    if remedy in turn.message:
        return turn.message[:MAX_NOTE]
    return f"{turn.message[: MAX_NOTE - len(remedy) - 1]} {remedy}".strip()
