# SPDX-License-Identifier: Apache-2.0
"""Asks a PostgreSQL from several threads, and says what each asked, in its order, and what error it was answered.

postgres_client.py PORT|FOLDER CLIENT THREADS ROUNDS [wait]. Each statement bears its thread's number and its own. With
`wait`: each connection is used, and then waits until something is said on the standard input.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pg8000.native
import psycopg

DATABASES = ["postgres", "template1"]


class Asker:
    """One thread's statements. `asked`: the text as it is sent, SQLSTATE; and the function that sent it."""

    def __init__(self, where: str, number: int) -> None:
        self.where, self.number, self.count = where, number, 0
        self.asked: list[tuple[str, str, str]] = []
        self.connect()

    def connect(self) -> None:
        raise NotImplementedError

    def run(self, rounds: int) -> None:
        raise NotImplementedError

    def mark(self) -> str:
        self.count += 1
        return f"'mark:{self.number}:{self.count}'"

    def refused(self, code: str | None, expected: str) -> None:
        assert code == expected, (code, expected)

    def say(self, text: str, error: str = "") -> None:
        self.asked.append((text, error, sys._getframe(1).f_code.co_name))


class Psycopg(Asker):
    def connect(self) -> None:
        host, port = ("127.0.0.1", self.where) if self.where.isdecimal() else self.where.rsplit(":", 1)
        self.client = psycopg.connect(
            host=host, port=port, user="postgres", password="s3cret", dbname=DATABASES[self.number % 2], autocommit=True
        )

    def ask(self, text: str, *parameters: Any, error: str = "", prepare: bool | None = None) -> list[Any]:
        sent = text
        for number in range(1, len(parameters) + 1):
            sent = sent.replace("%s", f"${number}", 1)
        found = []
        try:
            cursor = self.client.execute(text, parameters or None, prepare=prepare)
            found = cursor.fetchall() if cursor.description else []
        except psycopg.Error as caught:
            self.refused(caught.sqlstate, error)
        self.say(sent, error)
        return found

    def copy(self) -> None:
        text = f"COPY items{self.number} (name) FROM STDIN WHERE name <> {self.mark()}"
        with self.client.cursor().copy(text) as copy:
            for number in range(300):
                copy.write_row([f"{number} " + "c" * 60])
        self.say(text)
        text = f"COPY (SELECT name, {self.mark()} FROM items{self.number}) TO STDOUT"
        with self.client.cursor().copy(text) as copy:
            assert len(list(copy.rows())) >= 300
        self.say(text)

    def pipeline(self) -> None:
        with self.client.pipeline():
            for number in range(6):
                text = f"SELECT {self.mark()}, %s::int"
                self.client.execute(text, [number])
                self.say(text.replace("%s", "$1"))
        text = f"SELECT {self.mark()}, %s::text"
        self.client.cursor().executemany(text, [(str(number),) for number in range(4)], returning=True)
        for _ in range(4):
            self.say(text.replace("%s", "$1"))

    def transaction(self) -> None:
        with self.client.transaction():
            self.ask(f"SELECT {self.mark()}")
        with self.client.transaction(force_rollback=True):
            self.ask(f"SELECT {self.mark()} FROM nosuch", error="42P01")
            self.ask(f"SELECT {self.mark()}", error="25P02")

    def run(self, rounds: int) -> None:
        self.ask(f"DROP TABLE IF EXISTS items{self.number}")
        self.ask(f"CREATE TABLE items{self.number} (name text, key int UNIQUE)")
        for step in range(rounds):
            self.ask(f"SELECT {self.mark()}, name FROM items{self.number} WHERE key = 5")
            self.ask(f"SELECT {self.mark()}, %s::int", step)
            prepared = f"INSERT INTO items{self.number} VALUES ({self.mark()} || %s, %s)"
            for number in range(3):
                self.ask(prepared, "x", step * 10 + number, prepare=True)
            self.ask(prepared, "x", step * 10, prepare=True, error="23505")
            self.ask(f"SELECT {self.mark()}, 1 / 0", error="22012")
            self.ask(f"SELEC {self.mark()}", error="42601")
            self.ask(f"SELECT {self.mark()}, %s::int FROM nosuch", 1, error="42P01")
            self.ask(f"SELECT {self.mark()}; UPDATE items{self.number} SET name = name; SELECT 2")
            self.transaction()
            rows = self.ask(f"SELECT {self.mark()}, repeat('v', 1000) FROM generate_series(1, 200)")
            assert len(rows) == 200
            text = f"SELECT {self.mark()}, repeat('v', 1000), 1 / (150 - n) FROM generate_series(1, 200) n"
            self.ask(text, error="22012")
            self.ask(f"SELECT {self.mark()}, length(%s)", "p" * 70_000)
            self.ask(f"SELECT {self.mark()} /* {'long ' * 1000} */")
            self.pipeline()
            self.copy()
            if step % 3 == 2:
                self.client.close()
                self.connect()
        self.client.close()


class Pg8000(Asker):
    def connect(self) -> None:
        self.client = pg8000.native.Connection(
            "postgres", "127.0.0.1", DATABASES[self.number % 2], int(self.where), "s3cret"
        )

    def ask(self, text: str, *, error: str = "", **parameters: Any) -> None:
        sent = text
        for number, name in enumerate(parameters, 1):
            sent = sent.replace(f":{name}", f"${number}")
        self.said(lambda: self.client.run(text, **parameters), sent, error)

    def said(self, call: Callable[[], Any], sent: str, error: str) -> None:
        try:
            call()
        except pg8000.native.DatabaseError as caught:
            self.refused(caught.args[0]["C"], error)
        self.asked.append((sent, error, "said"))

    def run(self, rounds: int) -> None:
        for step in range(rounds):
            self.ask(f"SELECT {self.mark()}")
            self.ask(f"SELECT {self.mark()}, CAST(:a AS int)", a=step)
            self.ask(f"SELECT {self.mark()}, 1 / CAST(:a AS int)", a=0, error="22012")
            self.ask(f"SELECT {self.mark()} FROM nosuch", error="42P01")
            self.ask(f"SELECT {self.mark()}, repeat('v', 1000) FROM generate_series(1, 100)")
            text = f"SELECT {self.mark()}, CAST($1 AS int)"
            statement = self.client.prepare(text.replace("$1", ":a"))
            for number in range(3):
                self.said(lambda: statement.run(a=number), text, "")  # noqa: B023
            statement.close()
        self.client.close()


def main() -> None:
    where, client, (threads, rounds) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:5])
    made = {"psycopg": Psycopg, "pg8000": Pg8000}[client]
    askers = [made(where, number) for number in range(threads)]
    if "wait" in sys.argv:
        for asker in askers:
            asker.ask("SELECT 'before'")
            asker.asked.clear()
        print("waiting", flush=True)
        sys.stdin.readline()
    running = [threading.Thread(target=asker.run, args=(rounds,)) for asker in askers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(json.dumps([asker.asked for asker in askers]))


if __name__ == "__main__":
    main()
