# SPDX-License-Identifier: Apache-2.0
"""What requests_loops does, as an application of FastAPI's: `app`."""

from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from requests_app import asgi
from requests_loops import KINDS, also, behave, in_thread, read_twice, stream, way

threads = FastAPI()


async def whole(request: Request) -> bytes:
    return await request.body()  # else the next request may begin in the middle of a call


@threads.api_route("/job/{number}/{count}", methods=["GET", "POST"])
def job(number: str, count: str, _: Annotated[bytes, Depends(whole)]) -> PlainTextResponse:
    return PlainTextResponse(read_twice(number, count))


adverse = FastAPI()


@adverse.api_route("/job/{number}/{count}", methods=["GET", "POST"])
async def anything(number: str, count: str, request: Request, after: BackgroundTasks) -> object:
    await request.body()
    if int(number) % KINDS == 6:
        return StreamingResponse(stream(number, count))
    if int(number) % KINDS == 7:
        after.add_task(also, number, "after", 5)
    if int(number) % KINDS == 8:
        after.add_task(in_thread, number, "after")
    return PlainTextResponse(await behave(number, count))


async def app(scope: Any, receive: Any, send: Any) -> None:
    number = scope["path"].split("/")[2] if scope["type"] == "http" else "0"
    await (asgi, adverse, threads)[way(number)](scope, receive, send)
