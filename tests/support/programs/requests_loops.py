# SPDX-License-Identifier: Apache-2.0
"""requests_app on aiohttp's server (`python requests_loops.py PORT`), and what handlers may do of all that an onlooker may take for
another request's.

How a request is answered is said by the thousands of its number: 0 plainly, 1 with all of that, 2 by a function of FastAPI's that
is not async (requests_fast), 3 by one that never waits.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

from aiohttp import web
from requests_app import steps, touch

PLAIN, ADVERSE, THREADS, AT_ONCE = range(4)
KINDS = 10
later: set[asyncio.Task[None]] = set()


def read_twice(number: str, count: str) -> str:
    for step in range(int(count)):
        touch(number, step)
        if step % 2:
            time.sleep(0.001 * (int(number) % 3))
    return number


def way(number: str) -> int:
    return int(number) // 1000 % 10


async def also(number: str, name: str, times: int) -> None:
    for step in range(times):
        touch(number, f"{name}{step}")
        await asyncio.sleep(0.001 * (step % 2))


def in_thread(number: str, name: str) -> None:
    for step in range(3):
        touch(number, f"{name}{step}")
        time.sleep(0.001)


async def behave(number: str, count: str) -> str:
    """What the handler of a request does, with all that it begins."""
    kind = int(number) % KINDS
    if kind == 1:
        await asyncio.gather(also(number, "gathered", 3), steps(number, count), also(number, "gathered2", 3))
        return number
    if kind == 2:
        task = asyncio.create_task(also(number, "later", 20))
        later.add(task)
        task.add_done_callback(later.discard)
    if kind == 3:
        await asyncio.to_thread(in_thread, number, "thread")
    if kind == 4:
        asyncio.get_running_loop().run_in_executor(None, in_thread, number, "executor")
    await steps(number, count)
    if kind == 5:
        raise RuntimeError(number)
    return number


async def stream(number: str, count: str) -> AsyncIterator[bytes]:
    yield f"{number} ".encode()
    await steps(number, count)
    yield b"x" * 100_000


async def answer(request: web.Request) -> web.StreamResponse:
    number, count = request.match_info["number"], request.match_info["count"]
    await request.read()
    if way(number) != PLAIN:
        return await (at_once if way(number) == AT_ONCE else answer_anything)(request)
    return web.Response(text=await steps(number, count))


async def at_once(request: web.Request) -> web.StreamResponse:
    """Without a pause: since Python 3.12 all of it is a step of the connection's task."""
    number, count = request.match_info["number"], request.match_info["count"]
    return web.Response(text=read_twice(number, count))


async def answer_anything(request: web.Request) -> web.StreamResponse:
    number, count = request.match_info["number"], request.match_info["count"]
    if int(number) % KINDS == 6:
        response = web.StreamResponse()
        await response.prepare(request)
        async for part in stream(number, count):
            await response.write(part)
        return response
    if int(number) % KINDS == 9:
        return await at_once(request)
    return web.Response(text=await behave(number, count))


if __name__ == "__main__":
    server = web.Application()
    server.router.add_route("*", "/job/{number}/{count}", answer)
    web.run_app(server, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
