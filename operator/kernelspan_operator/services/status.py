# SPDX-License-Identifier: Apache-2.0
"""Writes statuses: only what has changed, at most one a second an object, counters at most once a minute.

Who touches a profile asks for nothing but that its status be looked at. The write replaces the whole status of that very
object (its uid is tested): one that was deleted and made anew meanwhile is left alone. A write that fails is tried
again, later each time. Nothing is written before each node of the profile has reported or had the time to: after a
restart of the operator the object says what it said.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import msgspec

from kernelspan_api.resource import API_VERSION
from kernelspan_api.status import Events as Counted
from kernelspan_api.status import Status
from kernelspan_operator.errors import ApiError
from kernelspan_operator.models.profiles import CLUSTER_KIND, Profile, ProfileKey

from .agents import Agents, is_outdated
from .aggregate import OnNode, status_of
from .events import Events
from .kube import Kube
from .nodes import Nodes
from .plans import Plans
from .pods import Pods
from .profiles import Profiles

WRITE_SECONDS = 1.0
COUNTERS_SECONDS = 60.0
RETRY_SECONDS = (2.0, 60.0)
WRITES_AT_ONCE = 8
# After each look the loop is left alone for so many times as long as it took: of a cluster whose agents all come back at
# once, hundreds of statuses are made of thousands of nodes, and plans go first.
PAUSE_FACTOR = 3.0
_JSON_PATCH = {"Content-Type": "application/json-patch+json"}
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Written:
    """What the API server holds of a profile, as far as we know."""

    status: Status | None = None
    at: float = float("-inf")
    counters_at: float = float("-inf")
    failures: int = 0
    busy: bool = False
    queued: bool = False  # it is among those that are looked at next
    timer: asyncio.TimerHandle | None = None


class Statuses:
    """The statuses of all profiles. `clock` is monotonic, `now` seconds since the epoch by the API server."""

    def __init__(
        self,
        kube: Kube,
        profiles: Profiles,
        pods: Pods,
        nodes: Nodes,
        plans: Plans,
        agents: Agents,
        now: Callable[[], float],
        events: Events,
    ) -> None:
        self._told = events
        self._kube, self._profiles, self._pods, self._nodes = kube, profiles, pods, nodes
        self._plans, self._agents, self._now = plans, agents, now
        self._written: dict[ProfileKey, _Written] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.writes: dict[str, int] = {}  # by what came of them
        self._at_once = asyncio.Semaphore(WRITES_AT_ONCE)
        self._queue: deque[tuple[ProfileKey, _Written]] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._free_at = 0.0

    # --- what others say ----------------------------------------------------------------------------------------------

    def touch(self, keys: Iterable[ProfileKey]) -> None:
        """Something that these statuses are made of may have changed."""
        for key in keys:
            if (profile := self._profiles.get(key)) is not None:
                written = self._written.get(key)
                if written is None:
                    written = self._written[key] = _Written(profile.status)
                self._schedule(key, written, max(written.at + WRITE_SECONDS - self._clock(), 0.05))

    def touch_node(self, node: str, uids: AbstractSet[str] | None = None) -> None:
        """Something of the node's agent has changed: for the profiles with these uids, or for all."""
        found = [profile for key in self._pods.profiles_on(node) if (profile := self._profiles.get(key)) is not None]
        self.touch(one.key for one in found if uids is None or one.uid in uids)

    def remove(self, key: ProfileKey) -> None:
        """The profile is gone, or is another object now."""
        if (written := self._written.pop(key, None)) is not None and written.timer is not None:
            written.timer.cancel()

    async def close(self) -> None:
        """Ends what is going on."""
        if self._looking is not None:
            self._looking.cancel()
        for written in self._written.values():
            if written.timer is not None:
                written.timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one status ---------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _schedule(self, key: ProfileKey, written: _Written, seconds: float) -> None:
        """Looks at it in so many seconds, or sooner where that was planned."""
        if written.queued:
            return
        due = self._clock() + seconds
        if written.timer is not None:
            if written.timer.when() <= due:
                return
            written.timer.cancel()
        written.timer = asyncio.get_running_loop().call_later(seconds, self._enqueue, key, written)

    def _enqueue(self, key: ProfileKey, written: _Written) -> None:
        """It is due, and is looked at once those before it have been."""
        written.timer, written.queued = None, True
        self._queue.append((key, written))
        self._look_on()

    def _look_on(self) -> None:
        if self._queue and self._looking is None:
            pause = max(self._free_at - self._clock(), 0.0)
            self._looking = asyncio.get_running_loop().call_later(pause, self._look_next)

    def _look_next(self) -> None:
        self._looking = None
        key, written = self._queue.popleft()
        written.queued = False
        began = self._clock()
        try:
            self._look(key, written)
        finally:
            ended = self._clock()
            self._free_at = ended + (ended - began) * PAUSE_FACTOR
            self._look_on()

    def _look(self, key: ProfileKey, written: _Written) -> None:
        profile = self._profiles.get(key)
        if profile is None or self._written.get(key) is not written or not self._plans.is_open:
            return
        if written.busy:
            self._schedule(key, written, WRITE_SECONDS)
            return
        if profile.pending:
            self._schedule(key, written, WRITE_SECONDS)
            return
        nodes = self._nodes_of(profile)
        if not self._pods.knows(key) and profile.spec is not None:
            self._schedule(key, written, WRITE_SECONDS)
            return
        if not all(self._agents.is_settled(node) for node in nodes):
            self._schedule(key, written, WRITE_SECONDS)
            # The nodes that have answered are shown all the same, unless the object has been spoken of before.
            if written.status is not None and written.status.observed_generation == profile.generation:
                return
        status = self._status(profile, nodes, written)
        if (due := self._counters_due(status, written)) > 0:
            self._schedule(key, written, due)
            status = msgspec.structs.replace(status, events=written.status.events if written.status else Counted())
        if status != written.status:
            written.busy = True
            task = asyncio.ensure_future(self._write(profile, status, written))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _counters_due(self, status: Status, written: _Written) -> float:
        """In how many seconds moved counters may be written; 0: now, or they have not moved."""
        if written.status is not None and status.events != written.status.events:
            return max(written.counters_at + COUNTERS_SECONDS - self._clock(), 0.0)
        return 0.0

    def _nodes_of(self, profile: Profile) -> list[str]:
        if not profile.is_wanted(self._now()):
            return []
        names = sorted(self._pods.nodes_of(profile.key))
        return [name for name in names if profile.selects_node(self._nodes.labels(name))]

    def _status(self, profile: Profile, nodes: list[str], written: _Written) -> Status:
        found = []
        for name in nodes:
            reported = self._agents.reported(name)
            unreachable = self._agents.is_unreachable(name)
            left_out = self._plans.leaves_out(name, profile.uid)
            if not unreachable and (reported is None or not reported.connected):
                self._schedule(profile.key, written, WRITE_SECONDS * 10)  # its grace ends without an event
            if reported is None:
                found.append(OnNode(name, unreachable, left_out=left_out))
                continue
            hello, state = reported.hello, reported.profile(profile.uid)
            outdated = is_outdated(hello)
            found.append(OnNode(name, unreachable, outdated, left_out, hello.kernel, hello.agent_version, state))
        pods = len(self._pods.uids_of(profile.key))
        return status_of(profile, pods, found, written.status, self._now())

    async def _write(self, profile: Profile, status: Status, written: _Written) -> None:
        moved = written.status is None or status.events != written.status.events
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": profile.uid},
            {"op": "add", "path": "/status", "value": plain(status)},
        ]
        path = status_path(profile.key)
        try:
            async with self._at_once:
                await self._kube.request("patch", "PATCH", path, body=patch, headers=_JSON_PATCH)
        except ApiError as error:
            self._count("Gone" if error.status == 404 else "Failed")
            self._failed(profile.key, written, error)
            return
        finally:
            written.busy = False
            written.at = self._clock()
        self._count("Written")
        before, written.status, written.failures = written.status, status, 0
        if moved:
            written.counters_at = written.at
        async with self._at_once:
            await self._told.tell(profile, before, status)

    def _count(self, what: str) -> None:
        self.writes[what] = self.writes.get(what, 0) + 1

    def _failed(self, key: ProfileKey, written: _Written, error: ApiError) -> None:
        if error.status == 404:  # the object is gone; the event that says so is on its way
            return
        written.failures += 1
        lowest, highest = RETRY_SECONDS
        _log.warning("status.failed namespace=%s name=%s message=%s", key.namespace, key.name, error)
        self._schedule(key, written, min(highest, lowest * 2 ** min(written.failures - 1, 10)))


def status_path(key: ProfileKey) -> str:
    """Where the status of an object is written."""
    name = quote(key.name, safe="")
    if key.kind == CLUSTER_KIND:
        return f"/apis/{API_VERSION}/clustertraceprofiles/{name}/status"
    return f"/apis/{API_VERSION}/namespaces/{quote(key.namespace, safe='')}/traceprofiles/{name}/status"


@cache
def _names(kind: type[msgspec.Struct]) -> list[tuple[str, str]]:
    return [(one.name, one.encode_name) for one in msgspec.structs.fields(kind)]


def plain(part: object) -> Any:
    """A status as JSON with its zeros, which the columns of `kubectl get` show; only what is None or empty is left out."""
    if isinstance(part, msgspec.Struct):
        values = {wire: plain(getattr(part, name)) for name, wire in _names(type(part))}
        return {name: value for name, value in values.items() if value is not None and value not in ("", [])}
    if isinstance(part, tuple):
        return [plain(one) for one in part]
    return msgspec.to_builtins(part)
