# SPDX-License-Identifier: Apache-2.0
"""What the API server keeps things in: objects are put there by many at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import Self

import aiohttp

from bench.processes import BenchError
from bench.scale.sizes import Body

_IN_ONE = 100  # etcd takes 128 operations and 1.5 MiB at once


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Store:
    """etcd, by its own HTTP; use with `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession

    async def put(self, objects: Iterable[tuple[str, Body]]) -> None:
        """Each at its place below the API server's own prefix. Raises BenchError."""
        left = iter(objects)
        while some := list(islice(left, _IN_ONE)):
            puts = [
                {"requestPut": {"key": _text(f"/registry/{key}".encode()), "value": _text(json.dumps(one).encode())}}
                for key, one in some
            ]
            async with self._session.post(f"{self._url}/v3/kv/txn", json={"success": puts}) as answer:
                if answer.status != 200 or not (await answer.json()).get("succeeded"):
                    raise BenchError(f"etcd: {answer.status}: {(await answer.text())[:300]}")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
