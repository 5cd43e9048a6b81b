# SPDX-License-Identifier: Apache-2.0
"""An API server in small, in the test's own process: lists, watches, and the ways in which they fail.

It stores what it is told, filters by equality selectors, numbers versions, and can be made to forget (410), to drop or
to silence the watches that are open, and to refuse. What real servers do beyond that is tests/cluster's affair.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from kernelspan_operator.services.kube import Connection, Kube

Object = dict[str, Any]


@dataclass
class _Client:
    """An open watch."""

    path: str
    selector: dict[str, str]
    queue: asyncio.Queue[Object | None] = field(default_factory=asyncio.Queue)
    silent: bool = False


class ApiServer:
    """Collections by path. Everything a test does to it is a method; `requests` lists what was asked."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = 0  # a watch from before this is gone
        self.objects: dict[str, dict[str, Object]] = {}  # path to name to object
        self.history: list[tuple[int, str, str, Object, Object | None]] = []
        self.clients: list[_Client] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.refuse: Callable[[str, str], int] = lambda _method, _path: 0  # a status to answer with
        self.answers: dict[tuple[str, str], Callable[[Any], tuple[int, Any]]] = {}
        self.page_hook: Callable[[], None] = lambda: None

    # --- what a test does ---------------------------------------------------------------------------------------------

    def put(self, path: str, obj: Object) -> Object:
        """Makes or changes an object; its watches are told."""
        self.version += 1
        obj = json.loads(json.dumps(obj))
        obj["metadata"]["resourceVersion"] = str(self.version)
        before = self.objects.setdefault(path, {}).get(obj["metadata"]["name"])
        self.objects[path][obj["metadata"]["name"]] = obj
        self._tell(path, "MODIFIED" if before else "ADDED", obj, before)
        return obj

    def delete(self, path: str, name: str) -> None:
        """Deletes an object; its watches are told."""
        self.version += 1
        obj = self.objects[path].pop(name)
        last = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(self.version)}}
        self._tell(path, "DELETED", last, obj)

    def forget(self) -> None:
        """Whoever goes on from before now is told 410; open watches end with it."""
        self.oldest = self.version + 1
        self.version += 1
        for client in self.clients:
            client.queue.put_nowait(
                {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
            )
            client.queue.put_nowait(None)

    def drop(self) -> None:
        """Every open watch ends."""
        for client in self.clients:
            client.queue.put_nowait(None)

    def silence(self) -> None:
        """Open watches say nothing more, and do not end."""
        for client in self.clients:
            client.silent = True

    def bookmark(self) -> None:
        """To every open watch."""
        for client in self.clients:
            client.queue.put_nowait(
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
            )

    def count(self, verb: str, path: str = "") -> int:
        """How often it was asked: list, watch, or an HTTP method."""
        return sum(one[0] == verb and one[1].startswith(path) for one in self.requests)

    # --- what it answers ----------------------------------------------------------------------------------------------

    def _tell(self, path: str, kind: str, obj: Object, before: Object | None) -> None:
        self.history.append((self.version, path, kind, obj, before))
        for client in self.clients:
            if not client.silent and (event := _seen(client, path, kind, obj, before)):
                client.queue.put_nowait(event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        query = dict(request.query)
        body = await request.json() if request.can_read_body else None
        verb = request.method
        if verb == "GET":
            verb = "watch" if query.get("watch") else "list" if request.path in self.objects else "GET"
        self.requests.append((verb, request.path, query, body))
        if status := self.refuse(verb, request.path):
            return web.json_response({"kind": "Status", "code": status, "message": "refused"}, status=status)
        if (answer := self.answers.get((request.method, request.path))) is not None:
            status, found = answer(body)
            return web.json_response(found, status=status)
        if verb == "watch":
            return await self._watch(request, query)
        if request.method == "GET":
            return self._get(request.path, query)
        return self._write(request, body)

    def _get(self, path: str, query: dict[str, str]) -> web.Response:
        folder, _, name = path.rpartition("/")
        if path not in self.objects and name in self.objects.get(folder, {}):
            return web.json_response(self.objects[folder][name])
        if path not in self.objects and not path.endswith(("s", "/")):
            return web.json_response({"message": "not found"}, status=404)
        if path not in self.objects and folder in self.objects:
            return web.json_response({"message": "not found"}, status=404)
        client = _Client(path, _selector(query))
        found = [one for where, all_ in self.objects.items() for one in all_.values() if _member(client, where, one)]
        start = int(query.get("continue") or 0)
        limit = int(query.get("limit") or 500)
        page = found[start : start + limit]
        following = str(start + limit) if start + limit < len(found) else ""
        version = str(self.version)
        if following:
            self.page_hook()
        return web.json_response({"metadata": {"resourceVersion": version, "continue": following}, "items": page})

    def _write(self, request: web.Request, body: Any) -> web.Response:
        if request.method == "POST":
            self.put(request.path, body)
            return web.json_response(body, status=201)
        folder, _, name = request.path.removesuffix("/status").rpartition("/")
        obj = self.objects.get(folder, {}).get(name)
        if obj is None:
            return web.json_response({"message": "not found"}, status=404)
        if request.method == "PUT":
            self.put(folder, body)
            return web.json_response(body)
        for step in body:
            if step["op"] == "test" and obj["metadata"].get("uid") != step["value"]:
                return web.json_response({"message": "test failed"}, status=422)
            if step["op"] == "add":
                self.put(folder, obj | {step["path"].strip("/"): step["value"]})
        return web.json_response({})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        start = int(query["resourceVersion"])
        if start < self.oldest:
            return web.json_response({"kind": "Status", "code": 410, "message": "too old"}, status=410)
        client = _Client(request.path, _selector(query))
        for version, path, kind, obj, before in self.history:
            if version > start and (event := _seen(client, path, kind, obj, before)):
                client.queue.put_nowait(event)
        self.clients.append(client)
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        try:
            while (event := await client.queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        except (ConnectionResetError, asyncio.CancelledError):
            pass
        finally:
            self.clients.remove(client)
        return response


def _selector(query: dict[str, str]) -> dict[str, str]:
    parts = [part for part in query.get("labelSelector", "").split(",") if part]
    fields = query.get("fieldSelector", "").removeprefix("metadata.name=")
    return dict(part.split("=", 1) for part in parts) | ({"#name": fields} if fields else {})


def _member(client: _Client, path: str, obj: Object) -> bool:
    group, _, rest = path.partition("/namespaces/")
    everywhere = f"{group}/{rest.partition('/')[2]}"  # of all namespaces
    if client.path not in (path, everywhere):
        return False
    labels = (obj["metadata"].get("labels") or {}) | {"#name": obj["metadata"]["name"]}
    return all(labels.get(key) == value for key, value in client.selector.items())


def _seen(client: _Client, path: str, kind: str, obj: Object, before: Object | None) -> Object | None:
    """What a change is to one watch: leaving the selector is a deletion, as with a real server."""
    now = kind != "DELETED" and _member(client, path, obj)
    then = before is not None and _member(client, path, before)
    if not now and not then:
        return None
    return {"type": "DELETED" if not now else "MODIFIED" if then else "ADDED", "object": obj}


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[ApiServer, Kube]]:
    """One on a free port of loopback, and a session with it."""
    server = ApiServer()
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    try:
        await site.start()
        port = runner.addresses[0][1]
        async with Kube(Connection(f"http://127.0.0.1:{port}")) as kube:
            yield server, kube
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for something to hold; AssertionError where it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - whatever it asks knows nothing of an event of ours
            await asyncio.sleep(0.005)
