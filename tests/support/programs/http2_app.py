# SPDX-License-Identifier: Apache-2.0
"""Hypercorn asked by httpx over HTTP/2 in plain text, from tasks that share a connection: http2_app.py PORT TASKS EACH SIZE.

Each in a process of its own. Prints, as JSON, what came of each request: number, method, status. By themselves both wait for each other
for ever at times, on one CPU: threads that share a connection in 18 of 54 runs with SIZE 60,000 and 5 of 40 with 30,000; tasks in 2 of 17
and none of 40. Why is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI: twice as many bytes as it is sent."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    number = int(scope["path"].split("/")[2])
    await send({"type": "http.response.start", "status": 503 if number % 10 == 7 else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"r" * (2 * size)})


async def ask(client: httpx.AsyncClient, number: int, size: int) -> tuple[int, str, int]:
    method = "POST" if number % 2 else "GET"
    body = b"b" * (number % 7 * size // 6) if number % 2 else None
    headers = {"authorization": "s3cret", "x-more": "m" * (number % 5 * 100)}
    answer = await client.request(method, f"/job/{number}/x?token=s3cret", content=body, headers=headers)
    return number, method, answer.status_code


async def ask_all(port: int, tasks: int, count: int, size: int) -> list[tuple[int, str, int]]:
    """All requests, as many at once as there are tasks."""
    numbers = iter(range(1, count + 1))

    async def work() -> list[tuple[int, str, int]]:
        return [await ask(client, number, size) for number in numbers]

    async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        found = await asyncio.gather(*(work() for _ in range(tasks)))
    return [each for some in found for each in some]


def main(port: int, tasks: int, each: int, size: int) -> None:
    command = [sys.executable, "-m", "hypercorn", "-w", "0", "-b", f"127.0.0.1:{port}", "http2_app:app"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        found = asyncio.run(ask_all(port, tasks, tasks * each, size))
        server.kill()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
