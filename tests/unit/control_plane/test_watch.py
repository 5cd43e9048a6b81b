# SPDX-License-Identifier: Apache-2.0
"""List and watch: whatever ends a watch, what was told adds up to what the server holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kernelspan_api.objects import Metadata
from kernelspan_operator.services import watch
from kernelspan_operator.services.watch import Collection, Delete, Synced, Timing, Upsert, Watch
from tests.support.apiserver import ApiServer, api_server, until

PATH = "/api/v1/namespaces/shop/pods"
FAST = Timing(watch=60, silence=0.3, backoff=(0.01, 0.05))


def pod(name: str, uid: str = "", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": uid or f"uid-{name}", "labels": labels}}


class Told:
    """What a consumer makes of what it is told."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.changes: list[object] = []
        self.synced = 0

    def __call__(self, change: Upsert[Metadata] | Delete | Synced) -> None:
        self.changes.append(change)
        if isinstance(change, Upsert):
            self.held[change.object.metadata.uid] = change.object.metadata.resource_version
        elif isinstance(change, Delete):
            del self.held[change.uid]  # never of what was not told
        else:
            self.synced += 1


def held(server: ApiServer) -> dict[str, str]:
    return {one["metadata"]["uid"]: one["metadata"]["resourceVersion"] for one in server.objects[PATH].values()}


def run(test: Callable[[ApiServer, Told], Awaitable[None]], selector: str = "") -> None:
    async def main() -> None:
        async with api_server() as (server, kube):
            server.put(PATH, pod("a", app="x"))
            told = Told()
            collection = Collection(PATH, Metadata, label_selector=selector)
            task = asyncio.ensure_future(Watch(kube, collection, told, FAST).run())
            await until(lambda: told.synced and server.clients)
            await test(server, told)
            assert not task.done()
            task.cancel()

    asyncio.run(main())


def test_changes_are_told() -> None:
    """Made, changed, deleted; a change out of the selector is a deletion."""

    async def test(server: ApiServer, told: Told) -> None:
        server.put(PATH, pod("b", app="x"))
        server.put(PATH, pod("c", app="y"))
        await until(lambda: "uid-b" in told.held)
        server.put(PATH, pod("a", app="y"))
        server.delete(PATH, "b")
        await until(lambda: not told.held)
        assert server.count("list") == 1

    run(test, "app=x")


def test_a_forgotten_place_leads_to_a_list_that_yields_deletions() -> None:
    """410 as an event and as a status; what went away meanwhile is told as gone, what stayed is not told again."""

    async def test(server: ApiServer, told: Told) -> None:
        server.put(PATH, pod("b"))
        await until(lambda: "uid-b" in told.held)
        server.silence()  # what happens now is on no watch
        server.delete(PATH, "a")
        server.put(PATH, pod("c"))
        before, asked = len(told.changes), len(server.requests)
        server.forget()
        await until(lambda: told.synced == 2 and told.held == held(server))
        assert server.requests[asked][0] == "list"  # the event was enough: no watch was tried in vain
        assert [type(one).__name__ for one in told.changes[before:]] == ["Upsert", "Delete", "Synced"]

    run(test)


def test_a_dropped_watch_goes_on_where_it_was() -> None:
    """Without a list, however often, and misses nothing."""

    async def test(server: ApiServer, told: Told) -> None:
        for number in range(5):
            server.drop()
            server.put(PATH, pod(f"n{number}"))
            await until(lambda: told.held == held(server))
        assert server.count("list") == 1

    run(test)


def test_a_silent_watch_is_given_up() -> None:
    """The connection stands, nothing comes: what happened meanwhile is known after the time-out."""

    async def test(server: ApiServer, told: Told) -> None:
        server.silence()
        server.put(PATH, pod("late"))
        server.delete(PATH, "a")
        await until(lambda: told.held == held(server))
        assert server.count("watch") >= 2

    run(test)


def test_bookmarks_keep_the_place_fresh() -> None:
    """A quiet watch that was told of newer versions does not list after the server has forgotten the older ones."""

    async def test(server: ApiServer, told: Told) -> None:
        server.put("/api/v1/nodes", {"metadata": {"name": "other", "uid": "o"}})
        server.bookmark()
        server.drop()
        await until(lambda: server.count("watch") == 2)
        last = [query for verb, _, query, _ in server.requests if verb == "watch"][-1]
        assert last["resourceVersion"] == str(server.version)
        assert last["allowWatchBookmarks"] == "true"
        assert told.synced == 1

    run(test)


def test_a_server_that_refuses_is_asked_again() -> None:
    """500, 403, then good again; the backoff has an end."""

    async def test(server: ApiServer, told: Told) -> None:
        answers = iter([500, 403, 429, 500])
        server.refuse = lambda _verb, _path: next(answers, 0)
        server.drop()
        server.put(PATH, pod("b"))
        await until(lambda: told.held == held(server))

    run(test)


@pytest.mark.parametrize(("status", "why"), [(403, "Refused"), (404, "Refused"), (429, "Failed"), (500, "Failed")])
def test_a_busy_server_is_told_apart_from_a_refusal(status: int, why: str) -> None:
    """The one passes, the other takes somebody who gives a right: an alert can ask for it."""

    async def main() -> None:
        async with api_server() as (server, kube):
            server.put(PATH, pod("a"))
            answers = iter([status])
            server.refuse = lambda verb, _path: next(answers, 0) if verb == "watch" else 0
            why_again: list[str] = []
            told = Told()
            made = Watch(kube, Collection(PATH, Metadata), told, FAST)
            made.restarted = why_again.append
            task = asyncio.ensure_future(made.run())
            await until(lambda: why_again and server.clients)
            assert why_again == [why]
            task.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    "line", [b"not json\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":3}\n', b"\xff\xfe\n"]
)
def test_nonsense_on_a_watch_ends_that_watch_only(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one tells all."""

    async def test(server: ApiServer, told: Told) -> None:
        real, given = watch.msgspec.json.decode, []

        def decode(data: Any, **options: Any) -> Any:
            if options.get("type") is watch._Event and not given:
                given.append(data)
                data = line
            return real(data, **options)

        monkeypatch.setattr(watch.msgspec.json, "decode", decode)
        server.put(PATH, pod("b"))
        await until(lambda: told.held == held(server))
        assert given

    run(test)


def test_pages_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them; one that is forgotten in the middle begins anew."""
    monkeypatch.setattr(watch, "PAGE", 3)

    async def main() -> None:
        async with api_server() as (server, kube):
            for number in range(10):
                server.put(PATH, pod(f"p{number}"))
            refused = iter([0, 0, 410])
            server.refuse = lambda verb, _path: next(refused, 0) if verb == "list" else 0
            told = Told()
            task = asyncio.ensure_future(Watch(kube, Collection(PATH, Metadata), told, FAST).run())
            await until(lambda: told.synced == 1)
            assert told.held == held(server)
            task.cancel()

    asyncio.run(main())


def test_whatever_happens_it_adds_up() -> None:
    """A hundred random changes among drops, silences and forgotten places."""

    async def test(server: ApiServer, told: Told) -> None:
        dice = random.Random(7)
        for step in range(100):
            name = f"p{dice.randrange(12)}"
            if name in server.objects[PATH] and dice.random() < 0.4:
                server.delete(PATH, name)
            else:
                server.put(PATH, pod(name, uid=f"uid-{name}-{step}" if name not in server.objects[PATH] else
                                     server.objects[PATH][name]["metadata"]["uid"]))  # fmt: skip
            act = dice.randrange(12)
            if act < 3:
                (server.drop, server.forget, server.bookmark)[act]()
            if act == 4 and step % 3 == 0:
                server.silence()
            await asyncio.sleep(dice.random() * 0.01)
        await until(lambda: told.held == held(server))

    run(test)
