# SPDX-License-Identifier: Apache-2.0
"""Answers `/job/N/COUNT`: does COUNT operations on files named after N, waits in between, and says what it was asked.

As WSGI (`wsgi`) and as ASGI (`asgi`); `python -m requests_app PORT` is a server of tasks that are nobody's in particular: one
reads, some work, one answers them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def touch(number: str, step: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/kernelspan-request/{number}/{step}").stat()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(size) if size else b""
    _, _, number, count = environ["PATH_INFO"].split("/")
    for step in range(int(count)):
        touch(number, step)
        if step % 2:
            time.sleep(0.001 * (int(number) % 3))
    answer = f"{number} {len(body)}".encode()
    status = "500 Internal Server Error" if int(number) % 10 == 7 else "200 OK"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


async def steps(number: str, count: str) -> str:
    for step in range(int(count)):
        touch(number, step)
        if step % 2:
            await asyncio.sleep(0.001 * (int(number) % 3) or 1.2 * (int(number) % 90 == 45))
    return number


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    _, _, number, count = scope["path"].split("/")
    answer = (await steps(number, count)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(answer)).encode())]}
    )
    await send({"type": "http.response.body", "body": answer})


async def crew(port: int) -> None:
    todo: asyncio.Queue[tuple[asyncio.StreamWriter, str, str]] = asyncio.Queue()
    done: asyncio.Queue[tuple[asyncio.StreamWriter, str]] = asyncio.Queue()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""):
            size = next((int(line[15:]) for line in head.splitlines() if line[:15].lower() == b"content-length:"), 0)
            await reader.readexactly(size)
            _, _, number, count = head.split()[1].split(b"?")[0].decode().split("/")
            await todo.put((writer, number, count))

    async def work() -> None:
        while True:
            writer, number, count = await todo.get()
            await done.put((writer, await steps(number, count)))

    async def answer() -> None:
        while True:
            writer, number = await done.get()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(number)}\r\n\r\n{number}".encode())

    server = await asyncio.start_server(read, "127.0.0.1", port)
    async with server:
        await asyncio.gather(server.serve_forever(), answer(), *(work() for _ in range(4)))


if __name__ == "__main__":
    asyncio.run(crew(int(sys.argv[1])))
