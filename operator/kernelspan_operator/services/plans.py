# SPDX-License-Identifier: Apache-2.0
"""What each node must do: a NodePlan made of the profiles and pods as they are, and its hash.

A plan is made when it is asked for and not kept, only its hash is: 5,000 plans would weigh more than all they are made
of. A change touches nodes; 50 ms after the first touch the hashes of the touched nodes are made anew, a few nodes at a
time, and who listens is told of those that differ and may `take` the plan that was made for it. Until `open` nothing is told: a plan of half the profiles would stop the others' tracing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from kernelspan_operator.models.profiles import Profile, ProfileKey
from kernelspan_operator.models.spans import Spans, no_spans
from kernelspan_operator.models.watched import WatchKey

from .making import Batch, Plan
from .nodes import Nodes
from .pods import Pods
from .profiles import Profiles
from .secrets import Secrets

DEBOUNCE_SECONDS = 0.05
NODES_AT_ONCE = (
    16  # plans made before the loop goes on: a change of 5,000 nodes must hold up neither health nor reports
)
BUSY_SECONDS = 0.002
FRESH_PLANS = 64  # made for their hash and kept until a stream takes them, a few turns of the loop later
# Making plans takes no more than a quarter of the time: while profiles come by the hundred, each would be made hundreds
# of times, and nothing else would be done.
PAUSE, MAX_PAUSE_SECONDS = 3.0, 1.0


class Change(msgspec.Struct, frozen=True):
    """Since when a plan is another: `since` is monotonic; `ns` is when that was found out, by the epoch."""

    since: float
    ns: int
    parent: object  # of Spans


class _Told(msgspec.Struct, frozen=True):
    """What is known of a plan: its hash, and the profiles that it is about."""

    hash: str
    uids: frozenset[str]
    left_out: frozenset[str]


class _Difference(msgspec.Struct, frozen=True):
    """What is otherwise than before: the plan itself, and profiles that have come or gone or found no room."""

    plan: bool
    uids: frozenset[str]


_NOTHING = _Told("", frozenset(), frozenset())


class Plans:
    """The plans of all nodes. `changed(node, uids)` is told where one is another than before; `uids` are those of profiles
    that have come or gone, or found no room.
    """

    def __init__(
        self,
        profiles: Profiles,
        pods: Pods,
        nodes: Nodes,
        secrets: Secrets,
        changed: Callable[[str, frozenset[str]], object],
        now: Callable[[], float],
        debounce_seconds: float = DEBOUNCE_SECONDS,
        spans: Spans = no_spans,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`busy`: whether plans that were made have yet to be sent."""
        self._profiles, self._pods, self._nodes = profiles, pods, nodes
        self._secrets = secrets
        self._changed, self._now, self._debounce_seconds = changed, now, debounce_seconds
        self._told: dict[str, _Told] = {}
        self._dirty: set[str] = set()
        self._fresh: dict[str, Plan] = {}  # of nodes that nothing has touched since
        self._touched: tuple[float, int] | None = None  # when the first of them was: monotonic s, ns since the epoch
        self._left_out: dict[str, frozenset[str]] = {}  # by node: profiles' uids
        self._changes: dict[str, Change] = {}  # of nodes whose plan has changed and was not sent since
        self._timer: asyncio.TimerHandle | None = None
        self._parts: Iterator[int] = iter(())  # what is left of a flush
        self._rested = 0.0  # when the next plans may be made, by the loop's clock
        self._is_open = False
        self._spans, self._busy = spans, busy
        self.built = 0  # plans made, for tests and metrics

    @property
    def is_open(self) -> bool:
        """Whether all profiles and pods are known, so that a plan is a whole one."""
        return self._is_open

    def open(self) -> None:
        """From now on plans are given: everything has been seen once."""
        self._is_open = True
        self._schedule()

    def touch(self, nodes: Iterable[str]) -> None:
        """Something that their plans are made of has changed."""
        touched = set(nodes)
        if touched and not self._dirty:
            self._touched = time.monotonic(), time.time_ns()
        self._dirty |= touched
        for node in touched & self._fresh.keys():
            del self._fresh[node]
        self._schedule()

    def touch_profile(self, key: ProfileKey) -> None:
        """Something of the profile has changed."""
        self.touch(self._pods.nodes_of(key))

    def _schedule(self) -> None:
        if self._is_open and self._dirty and self._timer is None:
            loop = asyncio.get_running_loop()
            delay = max(self._debounce_seconds, min(self._rested - loop.time(), MAX_PAUSE_SECONDS))
            self._timer = loop.call_later(delay, self._begin)

    def flush(self) -> None:
        """Makes the touched plans' hashes anew, and tells of those that differ; at once."""
        self.close()
        for parts in (self._parts, self._flushing()):
            for _ in parts:
                pass

    def _begin(self) -> None:
        """A flush in parts, with the loop's other work between them. What is touched meanwhile is the next one's."""
        self._parts = self._flushing()
        self._go_on()

    def _go_on(self) -> None:
        self._timer = None
        if self._busy():
            self._timer = asyncio.get_running_loop().call_later(BUSY_SECONDS, self._go_on)
        elif next(self._parts, None) is not None:
            self._timer = asyncio.get_running_loop().call_later(0, self._go_on)
        else:
            self._schedule()

    def _flushing(self) -> Iterator[int]:
        """Gives the number of nodes that it has done so far, after each few."""
        dirty, self._dirty = sorted(self._dirty), set()
        since, since_ns = self._touched or (time.monotonic(), time.time_ns())
        parent: object = None
        seconds = 0.0
        for start in range(0, len(dirty), NODES_AT_ONCE):
            began, batch = time.monotonic(), self._batch()
            for node in dirty[start : start + NODES_AT_ONCE]:
                if (found := self._differs(node, batch)) is None:
                    continue
                if found.plan:
                    found_ns = time.time_ns()
                    if parent is None:
                        parent = self._spans("plans.change", since_ns, found_ns, {"kernelspan.nodes": len(dirty)})
                    self._changes.setdefault(node, Change(since, found_ns, parent))
                self._changed(node, found.uids)
            seconds += time.monotonic() - began
            self._rested = time.monotonic() + PAUSE * seconds
            yield start

    def _differs(self, node: str, batch: Batch) -> _Difference | None:
        """Makes the node's hash anew; None: all is as before."""
        plan = self._plan(node, batch)
        old = self._told.pop(node, _NOTHING)
        out = self._left_out.get(node, frozenset())
        new = _Told(plan.hash, plan.uids, out)
        if plan.uids or out:
            self._told[node] = new
        if (new.hash, new.left_out) == (old.hash, old.left_out):
            return None
        if node not in self._dirty:
            self._fresh[node] = plan
            if len(self._fresh) > FRESH_PLANS:
                del self._fresh[next(iter(self._fresh))]
        return _Difference(new.hash != old.hash, (old.uids ^ new.uids) | (old.left_out ^ new.left_out))

    def take(self, node: str) -> Plan:
        """The whole plan of a node: the one that was made for its hash, if that is not long ago, or a new one."""
        return self._fresh.pop(node, None) or self.plan(node)

    def take_change(self, node: str) -> Change | None:
        """The change that a plan of the node was not sent for yet; from now on it was."""
        return self._changes.pop(node, None)

    def close(self) -> None:
        """No flush is to come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def plan(self, node: str) -> Plan:
        """The whole plan of a node as of now; one without pods where there is nothing to do."""
        return self._plan(node, self._batch())

    def _batch(self) -> Batch:
        """For plans that are made now, in one go."""
        now = self._now()

        def profiles_of(keys: frozenset[WatchKey]) -> list[Profile]:
            return self._profiles.wanted(self._pods.profiles_of(keys), now)

        return Batch(profiles_of, self._secrets.of)

    def _plan(self, node: str, batch: Batch) -> Plan:
        self.built += 1
        plan = batch.plan(node, self._nodes.labels(node), self._pods.on_node(node))
        self._left_out.pop(node, None)
        if plan.left_out:
            self._left_out[node] = plan.left_out
        return plan

    def leaves_out(self, node: str, uid: str) -> bool:
        """Whether the node's plan would have been too large with that profile."""
        return uid in self._left_out.get(node, ())
