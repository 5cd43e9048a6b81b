# SPDX-License-Identifier: Apache-2.0
"""A server of gRPC and its client, on one channel: calls side by side, with bodies from nothing to many frames.

`server PORT` serves until it is ended; `both` does both, each in a process of its own. `client PORT THREADS EACH SIZE` makes calls from threads and prints, as JSON, what came
of each: number, method, status. SIZE: of the largest bodies. With `wait` behind it makes a call, says so, and goes on when a
line comes in.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

CODES = [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED]
KINDS = ("Get", "List", "Put", "Chat")


def _fails(context: grpc.ServicerContext, number: int) -> None:
    if number % 11 == 0:
        context.abort(CODES[number % len(CODES)], "s3cret refused")


def _number(request: bytes) -> int:
    return int(request.split(b" ", 1)[0])


def get(request: bytes, context: grpc.ServicerContext) -> bytes:
    _fails(context, _number(request))
    return b"r" * len(request)


def list_(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(3):
        yield b"r" * len(request)
    _fails(context, _number(request))


def put(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    count = [_number(each) for each in requests]
    _fails(context, count[0])
    return b"done"


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for each in requests:
        _fails(context, _number(each))
        yield each


METHODS = {
    "/shop.Orders/Get": grpc.unary_unary_rpc_method_handler(get),
    "/shop.Orders/List": grpc.unary_stream_rpc_method_handler(list_),
    "/shop.Orders/Put": grpc.stream_unary_rpc_method_handler(put),
    "/shop.Orders/Chat": grpc.stream_stream_rpc_method_handler(chat),
}


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return METHODS.get(details.method)


def serve(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(channel: grpc.Channel, number: int, size: int) -> tuple[int, str, str]:
    kind = KINDS[number % len(KINDS)]
    path = "/shop.Orders/None" if number % 17 == 0 else f"/shop.Orders/{kind}"
    body = f"{number} ".encode() + b" " * (number % 7 * size // 6)
    metadata = [("x-number", str(number)), ("authorization", "s3cret"), ("x-more", "m" * (number % 5 * 100))]
    try:
        if kind == "Get":
            channel.unary_unary(path)(body, metadata=metadata, timeout=60)
        elif kind == "List":
            list(channel.unary_stream(path)(body, metadata=metadata, timeout=60))
        elif kind == "Put":
            channel.stream_unary(path)(iter([body] * 3), metadata=metadata, timeout=60)
        else:
            list(channel.stream_stream(path)(iter([body] * 3), metadata=metadata, timeout=60))
    except grpc.RpcError as error:
        return number, path, error.code().name
    return number, path, "OK"


def ask(port: int, threads: int, each: int, size: int, *, wait: bool) -> None:
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel, ThreadPoolExecutor(threads) as pool:
        grpc.channel_ready_future(channel).result(timeout=60)
        if wait:
            call(channel, 4, 0)
            print("waiting", flush=True)
            sys.stdin.readline()
        found = list(pool.map(lambda number: call(channel, number, size), range(1, threads * each + 1)))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
    elif sys.argv[1] == "both":
        with subprocess.Popen([sys.executable, __file__, "server", sys.argv[2]]) as server:
            ask(*map(int, sys.argv[2:6]), wait=False)
            server.terminate()
    else:
        ask(*map(int, sys.argv[2:6]), wait="wait" in sys.argv)
