# SPDX-License-Identifier: Apache-2.0
"""Answers `/job/N/COUNT`: does COUNT operations on files named after N, waits in between, and says what it was asked.

As WSGI (`wsgi`) and as ASGI (`asgi`).
"""

from __future__ import annotations

import asyncio
import contextlib
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


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    _, _, number, count = scope["path"].split("/")
    for step in range(int(count)):
        touch(number, step)
        if step % 2:
            await asyncio.sleep(0.001 * (int(number) % 3))
    answer = number.encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(answer)).encode())]}
    )
    await send({"type": "http.response.body", "body": answer})
