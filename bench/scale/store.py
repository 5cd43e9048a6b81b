# SPDX-License-Identifier: Apache-2.0
"""What the API server keeps things in: objects are put there by many at once."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import aiohttp

from bench.processes import BenchError
from bench.scale.sizes import Body

_AT_ONCE = 16


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Store:
    """etcd, by its own HTTP; use with `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession

    async def put(self, objects: Iterable[tuple[str, Body]]) -> None:
        """Each at its place below the API server's own prefix, and under a revision of its own. Raises BenchError."""
        left = iter(objects)

        async def work() -> None:
            for key, one in left:
                body = {"key": _text(f"/registry/{key}".encode()), "value": _text(json.dumps(one).encode())}
                async with self._session.post(f"{self._url}/v3/kv/put", json=body) as answer:
                    if answer.status != 200:
                        raise BenchError(f"etcd: {answer.status}: {(await answer.text())[:300]}")
                    await answer.read()

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
