# SPDX-License-Identifier: Apache-2.0
"""Asks a Redis from several threads, and says what each asked, in its order, and what error it was answered.

redis_client.py PORT|SOCKET PROTOCOL THREADS ROUNDS [wait]. Each command bears its thread's number and its own in a value.
With `wait`: each connection is used, and then waits until something is said on the standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import redis


class Asker:
    """One thread's commands. `asked`: command with its arguments, the error's class; and the function that sent it."""

    def __init__(self, where: str, protocol: int, number: int) -> None:
        self.number, self.count = number, 0
        self.asked: list[tuple[list[str], str, str]] = []
        self.client = connect(where, protocol=protocol, db=number % 3)

    def mark(self) -> str:
        self.count += 1
        return f"mark:{self.number}:{self.count}"

    def plain(self, *command: str) -> Any:
        answer, error = None, ""
        try:
            answer = self.client.execute_command(*command)
        except redis.ResponseError as caught:
            error = str(caught).split()[0] if str(caught)[:5].isupper() else "ERR"
        self.asked.append((list(command), error, "plain"))
        return answer

    def pipelined(self, *, transaction: bool) -> None:
        pipeline = self.client.pipeline(transaction=transaction)
        commands = [["SET", self.mark(), "x" * (step * 40)] for step in range(5)]
        commands.append(["LPUSH", commands[0][1], self.mark()])  # to a string: an error between answers
        commands += [["GET", self.mark()], ["MGET", *(command[1] for command in commands[:5])]]
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute(raise_on_error=False)
        errors = ["WRONGTYPE" if command[0] == "LPUSH" and not transaction else "" for command in commands]
        self.asked += [(command, error, "pipelined") for command, error in zip(commands, errors, strict=True)]

    def large(self) -> None:
        value = "v" * 70_000
        key = self.mark()
        assert self.plain("SET", key, value) is not None
        assert len(self.plain("GET", key)) == len(value)
        names = [self.mark() for _ in range(3)]
        for name in names:
            self.plain("SET", name, "*1\r\n$4\r\nPING\r\n" * 200)
        self.plain("MGET", *names)

    def run(self, rounds: int) -> None:
        for step in range(rounds):
            key = self.mark()
            self.plain("SET", key, f"{self.number} {step}")
            self.plain("GET", key)
            self.plain("LPUSH", key, self.mark())
            self.plain("nosuch", self.mark())
            self.plain("HSET", self.mark(), "field", "value")
            self.pipelined(transaction=False)
            self.pipelined(transaction=True)
            if step % 5 == 2:
                self.large()
            if step % 4 == 3:
                self.client.connection_pool.disconnect()
        self.client.close()


def connect(where: str, **options: int) -> redis.Redis:
    if where.isdecimal():
        return redis.Redis("127.0.0.1", int(where), password="s3cret", **options)
    return redis.Redis(unix_socket_path=where, password="s3cret", **options)


def listen(where: str, protocol: int, ready: threading.Event, heard: list[str]) -> None:
    with connect(where, protocol=protocol).pubsub() as subscriber:
        subscriber.subscribe("news", "other")
        for message in subscriber.listen():
            if message["type"] == "subscribe":
                ready.set()
            if message["type"] == "message":
                heard.append(message["data"].decode())
                if message["data"] == b"end":
                    return


def main() -> None:
    where, (protocol, threads, rounds) = sys.argv[1], map(int, sys.argv[2:5])
    ready, heard = threading.Event(), list[str]()
    listener = threading.Thread(target=listen, args=(where, protocol, ready, heard))
    listener.start()
    ready.wait()
    askers = [Asker(where, protocol, number) for number in range(threads)]
    if "wait" in sys.argv:
        for asker in askers:
            asker.plain("GET", "before")
        print("waiting", flush=True)
        sys.stdin.readline()
    running = [threading.Thread(target=asker.run, args=(rounds,)) for asker in askers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for _ in range(20):
        askers[0].plain("PUBLISH", "news", askers[0].mark())
    askers[0].plain("PUBLISH", "news", "end")
    listener.join()
    assert len(heard) == 21
    print(json.dumps([asker.asked for asker in askers]))


if __name__ == "__main__":
    main()
