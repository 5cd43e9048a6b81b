# SPDX-License-Identifier: Apache-2.0
"""What the operator uses and asks for, seen from outside: /proc, its own /metrics, the API server's audit log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.machine import cpu_seconds
from bench.processes import BenchError
from tests.support.cluster import Cluster
from tests.support.operators import OPERATOR, OWN, Operator

_LOOK_SECONDS, _PATIENCE_SECONDS = 0.2, 120.0

USERNAME = f"system:serviceaccount:{OWN}:{OPERATOR}"
_READS = {"get", "list", "watch"}
Calls = Counter[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the operator's process so far."""

    cpu_seconds: float
    resident_mb: float
    most_resident_mb: float


def usage(operator: Operator) -> Usage:
    """Now. MB are 10^6 bytes."""
    pid = operator.process.pid
    sizes = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    resident, most = (int(sizes[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return Usage(cpu_seconds(pid), resident, most)


def calls(cluster: Cluster) -> Calls:
    """The operator's calls so far by verb and resource, as the API server noted them."""
    found: Calls = Counter()
    # A watch is noted when it begins and when it ends, under one id.
    for event in {one["auditID"]: one for one in cluster.audited(USERNAME)}.values():
        what: dict[str, Any] = event.get("objectRef") or {}
        name = what.get("resource", event["requestURI"])
        found[f"{event['verb']} {name}" + (f"/{what['subresource']}" if what.get("subresource") else "")] += 1
    return found


def writes(made: Calls) -> int:
    """Calls that change something that is stored: all but reads, and reviews, which store nothing."""
    return sum(count for name, count in made.items() if name.split()[0] not in _READS and not name.endswith("reviews"))


def by_verb(made: Calls) -> dict[str, int]:
    """The same without the resources."""
    found: Counter[str] = Counter()
    for name, count in made.items():
        found[name.split()[0]] += count
    return dict(sorted(found.items()))


class Health:
    """How long the operator lets /healthz wait, which says how long its loop did nothing else. `most` since `reset`."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self.most = operator, 0.0

    def reset(self) -> None:
        """A phase begins."""
        self.most = 0.0

    async def run(self) -> None:
        """Until cancelled. An operator that is being started anew is not asked."""
        async with aiohttp.ClientSession() as session:
            while True:
                began = time.monotonic()
                try:
                    async with session.get(f"http://127.0.0.1:{self._operator.http_port}/healthz") as answer:
                        await answer.read()
                    self.most = max(self.most, time.monotonic() - began)
                except (aiohttp.ClientError, OSError):
                    pass
                await asyncio.sleep(_LOOK_SECONDS)


async def metric(operator: Operator, name: str) -> float:
    """One of the operator's own, even where it has much else to do. Raises BenchError."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await asyncio.to_thread(operator.metric, name)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"the operator's /metrics does not answer within {_PATIENCE_SECONDS:g} s") from error
