# SPDX-License-Identifier: Apache-2.0
"""The simulated agents of all nodes, a few processes of `bench.scale.fleet`, asked as one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine import cpu_seconds
from bench.processes import HERE, BenchError

_IN_ONE_PROCESS = 2500  # agents: one Python process takes that many plans in a second or two


class Fleets:
    """All agents; use with `async with`. They dial from the beginning, and again whenever they lose the operator."""

    def __init__(self, port: int, authority: bytes, tokens: Mapping[str, str], folder: Path) -> None:
        self._port, self._authority, self._tokens, self._folder = port, authority, dict(tokens), folder
        self._processes: list[asyncio.subprocess.Process] = []

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [one.pid for one in self._processes]

    def cpu_seconds(self) -> float:
        """Of all of them."""
        return sum(map(cpu_seconds, self.pids))

    async def until(self, count: int, seconds: float, **wanted: Any) -> list[float]:
        """When each of `count` agents got a plan that holds what is wanted (see fleet.py), sorted. Raises BenchError.

        Each process is told to wait for as many as there are in all, until there are enough.
        """
        if len(self._processes) == 1 or count == len(self._tokens):
            each = [count] if len(self._processes) == 1 else [len(part) for part in self._parts()]
            answers = await self._ask_all([wanted | {"count": one, "seconds": seconds} for one in each])
        else:
            answers = await self._some(count, seconds, wanted)
        times = sorted(time for answer in answers for time in answer["times"])
        if len(times) < count:
            raise BenchError(
                f"after {seconds:g} s {len(times):,} of {count:,} agents hold {wanted}: {await self.state()}"
            )
        return times

    async def _some(self, count: int, seconds: float, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Where it is not known how many of a process will: looks again and again. Times are when plans came all the same."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            answers = await self._ask_all([wanted | {"count": count, "seconds": 0.2}] * len(self._processes))
            if sum(len(one["times"]) for one in answers) >= count or asyncio.get_running_loop().time() > deadline:
                return answers

    async def met(self, seconds: float) -> float:
        """When all agents had been told who they are to others. Raises BenchError."""
        parts = self._parts()
        answers = await self._ask_all([{"met": True, "count": len(part), "seconds": seconds} for part in parts])
        times = [time for answer in answers for time in answer["times"]]
        if len(times) < len(self._tokens):
            raise BenchError(
                f"after {seconds:g} s {len(times):,} of {len(self._tokens):,} have met: {await self.state()}"
            )
        return max(times)

    async def ask(self, addresses: int, nodes: int, pods: int, seconds: float) -> tuple[float, int, int]:
        """Each agent about so many addresses: when the last was told, how many all were told of, how many wrongly."""
        command = {"ask": addresses, "nodes": nodes, "pods": pods, "seconds": seconds}
        answers = await self._ask_all([command] * len(self._processes))
        return max(one["ended"] for one in answers), *(sum(one[key] for one in answers) for key in ("told", "wrong"))

    async def forget(self) -> None:
        """Every agent ends its stream and holds no plan any more."""
        await self._ask_all([{"forget": True}] * len(self._processes))

    async def state(self) -> dict[str, Any]:
        """Streams, counts and failures of all."""
        answers = await self._ask_all([{"state": True}] * len(self._processes))
        counts: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        for one in answers:
            counts.update(one["counts"])
            failed.update(one["failed"])
        return {"streams": sum(one["streams"] for one in answers), "counts": dict(counts), "failed": dict(failed)}

    # --- the processes ------------------------------------------------------------------------------------------------

    def _parts(self) -> list[dict[str, str]]:
        nodes = sorted(self._tokens)
        return [
            {node: self._tokens[node] for node in nodes[start : start + _IN_ONE_PROCESS]}
            for start in range(0, len(nodes), _IN_ONE_PROCESS)
        ]

    async def _ask_all(self, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*map(self._ask, self._processes, commands)))

    async def _ask(self, process: asyncio.subprocess.Process, command: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._line(process)

    async def _line(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise BenchError(
                f"the agents' process ended with {await process.wait()}; see {self._folder / 'agents.log'}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def __aenter__(self) -> Self:
        with (self._folder / "agents.log").open("ab") as log:
            for index, part in enumerate(self._parts()):
                path = self._folder / f"agents-{index}.json"
                path.touch(0o600)
                told = {
                    "address": f"localhost:{self._port}", "authority": self._authority.decode(), "tokens": part
                }  # fmt: skip
                path.write_text(json.dumps(told))
                self._processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "bench.scale.fleet", str(path), cwd=HERE.parent,
                        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                        env=dict(os.environ), limit=1 << 24,
                    )
                )  # fmt: skip
        for process in self._processes:
            await self._line(process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self._processes:
            await process.wait()
