# SPDX-License-Identifier: Apache-2.0
"""How long a pod ran before the first of its processes was traced: what nobody can see of it.

Counted from the exec of its program where that was seen, else from the start of the process (known in steps of 10 ms), or
from when a profile that selects it was first in a plan here, whichever is later: what a pod did before anybody asked is
not missing. What it did before the plan came that has it is, where its profile was in effect here already: the operator
may have been slow, or away. A profile that is new to this node counts from its first plan, since nobody says from when on
it has been asked for elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernelspan_api.control.control_pb2 import NodePlan, PodPlan

MAX_PROFILES = 4096  # that are remembered, in the plan or not: one is in effect also while it has no pod here
BOUNDS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
_log = logging.getLogger(__name__)


class Unobserved:
    """Of every pod that was traced here, once. Read by other threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, int] = {}  # pod uid to when it was first asked for here, CLOCK_BOOTTIME
        self._asked: dict[tuple[str, int], int] = {}  # uid and generation of a profile to when it was first in a plan
        self._known: set[str] = set()
        self._buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self._sum_seconds = 0.0

    def planned(self, plan: NodePlan) -> None:
        """A plan has come."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        asked = {one.uid: self._asked.setdefault((one.uid, one.generation), now) for one in plan.profiles}
        while len(self._asked) > max(MAX_PROFILES, len(asked)):
            del self._asked[next(iter(self._asked))]
        since = {}
        for pod in plan.pods:
            if (first := self._since.get(pod.uid)) is None:
                first = min((asked.get(match.profile_uid, now) for match in pod.matches), default=now)
            since[pod.uid] = first
        self._since = since
        self._known &= since.keys()

    def began(self, pod: PodPlan, began_ns: int, now_ns: int) -> None:
        """A process of the pod, begun at `began_ns`, is traced from `now_ns` on (both CLOCK_BOOTTIME)."""
        if pod.uid in self._known or pod.uid not in self._since:
            return
        self._known.add(pod.uid)
        seconds = max(0, now_ns - max(began_ns, self._since[pod.uid])) / 1e9
        with self._lock:
            self._buckets[sum(seconds > bound for bound in BOUNDS_SECONDS)] += 1
            self._sum_seconds += seconds
        _log.info("pod.traced pod=%s unobserved_ms=%d", f"{pod.namespace}/{pod.name}", round(seconds * 1000))

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets by their upper bound, and the sum of all, in seconds."""
        with self._lock:
            total, found = 0, []
            for bound, count in zip((*map(str, BOUNDS_SECONDS), "+Inf"), self._buckets, strict=True):
                total += count
                found.append((bound, float(total)))
            return found, self._sum_seconds
