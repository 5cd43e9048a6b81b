# SPDX-License-Identifier: Apache-2.0
"""The administrator's hand on the API server: many calls at once, over a few connections."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import yaml

from bench.processes import BenchError

T = TypeVar("T")
_AT_ONCE = 24


class Api:
    """Calls of the API server; use with `async with`."""

    def __init__(self, kubeconfig: Path) -> None:
        """By an administrator's client certificate."""
        config = yaml.safe_load(kubeconfig.read_text("utf-8"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server = cluster["server"]
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self._session: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """The body of an answer that must be 2xx; one that is there already is left as it is. Raises BenchError."""
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self._server + path, data=data, headers={"Content-Type": kind}
        ) as answer:
            found = await answer.read()
            if answer.status >= 300 and not (answer.status == 409 and method == "POST"):
                raise BenchError(f"{method} {path}: {answer.status}: {found[:300].decode(errors='replace')}")
            return json.loads(found)

    async def merge(self, path: str, body: object) -> Any:
        """A merge patch."""
        return await self.call("PATCH", path, body, "application/merge-patch+json")

    async def each(self, items: Iterable[T], do: Callable[[T], Awaitable[object]]) -> None:
        """`do` with each, some at once. Raises what the first that fails raises."""
        waiting = iter(items)

        async def work() -> None:
            for item in waiting:
                await do(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=_AT_ONCE)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
