# SPDX-License-Identifier: Apache-2.0
"""Asks a MongoDB from several threads, and says of each command, as the driver tells it, what was asked and what error it was answered.

mongo_client.py PORT THREADS ROUNDS [wait]. With `wait`: each connection is used, and then waits until something is said on the standard
input.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading

import pymongo
from pymongo import errors, monitoring


class Log(monitoring.CommandListener):
    """What the driver says of its commands: name, collection, database, code. It asks who the server is besides."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[str, str, str]] = {}
        self.said: list[tuple[str, str, str, str]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        named = event.command.get("collection" if event.command_name == "getMore" else event.command_name)
        collection = named if isinstance(named, str) and event.command_name != "dropUser" else ""
        self.asked[event.request_id] = event.command_name, collection, event.database_name

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        wrong = event.reply.get("writeErrors")
        self.said.append((*self.asked.pop(event.request_id), str(wrong[0]["code"]) if wrong else ""))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.said.append((*self.asked.pop(event.request_id), str(event.failure.get("code", "_OTHER"))))


def ask(client: pymongo.MongoClient, thread: int, step: int) -> None:
    """One round on a collection of its own."""
    database = client[f"shop{thread % 3}"]
    table = database[f"c{thread}_{step}"]
    table.insert_many([{"_id": each, "text": "x" * 40 * each, "collection": "other", "code": 9} for each in range(5)])
    with contextlib.suppress(errors.DuplicateKeyError):
        table.insert_one({"_id": 1})
    assert len(list(table.find({"text": {"$ne": "collection"}}, batch_size=2))) == 5
    table.update_one({"_id": 2}, {"$set": {"text": "ok", "ok": 0.0, "code": 7}})
    assert table.find_one({"_id": 2})["ok"] == 0
    with contextlib.suppress(errors.OperationFailure):
        database.command("nonsense", 1)
    with contextlib.suppress(errors.OperationFailure):
        database.command("dropUser", "s3cret")
    assert len(list(table.aggregate([{"$match": {"_id": {"$lt": 3}}}]))) == 3
    assert table.count_documents({}) == 5
    long = {"_id": 100, "text": "v" * 70_000}
    table.insert_one(long)
    table.insert_many([{"_id": 200 + each, "text": "w" * 100_000} for each in range(12)])
    assert table.find_one({"_id": 100}) == long
    assert len(list(table.find({"_id": {"$gte": 200}}))) == 12
    table.drop()


def main() -> None:
    """See above."""
    port, threads, rounds = map(int, sys.argv[1:4])
    log = Log()
    client: pymongo.MongoClient = pymongo.MongoClient("127.0.0.1", port, event_listeners=[log], directConnection=True)
    gate, ready = threading.Event(), threading.Barrier(threads + 1)

    def work(thread: int) -> None:
        if sys.argv[4:]:
            client.admin.command("ping")
        ready.wait()
        gate.wait()
        for step in range(rounds):
            ask(client, thread, step)

    workers = [threading.Thread(target=work, args=(each,)) for each in range(threads)]
    for each in workers:
        each.start()
    ready.wait()
    if sys.argv[4:]:
        log.said.clear()
        print("waiting", flush=True)
        sys.stdin.readline()
    gate.set()
    for each in workers:
        each.join()
    print(json.dumps(log.said), flush=True)


main()
