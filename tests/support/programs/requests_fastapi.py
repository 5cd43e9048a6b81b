# SPDX-License-Identifier: Apache-2.0
"""requests_app as an application of FastAPI."""

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from requests_app import steps

app = FastAPI()


@app.api_route("/job/{number}/{count}", methods=["GET", "POST"])
async def job(number: str, count: str, request: Request) -> PlainTextResponse:
    await request.body()  # else the next request may begin in the middle of a call
    return PlainTextResponse(await steps(number, count))
