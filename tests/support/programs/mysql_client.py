# SPDX-License-Identifier: Apache-2.0
"""Asks a MariaDB from several threads, and says what each asked, in its order, and what error it was answered.

mysql_client.py PORT|SOCKET CLIENT[,CLIENT] THREADS ROUNDS [wait]: so many threads for each client. Each statement bears its thread's number and its own. With `wait`:
each connection is used, and then waits until something is said on the standard input.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

DATABASES = ["first", "second"]


class Asker:
    """One thread's statements. `asked`: the text as it is sent, the error's number; the function that sent it; the database."""

    Error: type[Exception]

    def __init__(self, where: str, number: int) -> None:
        self.where, self.number, self.count = where, number, 0
        self.database = DATABASES[number % 2]
        self.asked: list[tuple[str, str, str, str]] = []
        self.options: dict[str, Any] = {"user": "shop", "password": "s3cret"}
        self.options |= {"host": "127.0.0.1", "port": int(where)} if where.isdecimal() else {"unix_socket": where}
        self.connect()

    def connect(self) -> None:
        raise NotImplementedError

    def one_round(self, *, is_first: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.client.close()

    def mark(self) -> str:
        self.count += 1
        return f"'mark:{self.number}:{self.count}'"

    def say(self, text: str, error: str = "") -> None:
        self.asked.append((text, error, sys._getframe(1).f_code.co_name, self.database))

    def refused(self, caught: Exception, expected: str) -> None:
        number = str(getattr(caught, "errno", None) or caught.args[0])
        assert number == expected, (caught, expected)

    def execute(self, text: str, parameters: tuple[Any, ...] | None) -> Any:
        cursor = self.client.cursor()
        cursor.execute(text, parameters)
        found = cursor.fetchall() if cursor.description else []
        cursor.close()
        return found

    def ask(self, text: str, *, error: str = "") -> Any:
        """A statement as it is."""
        found = None
        try:
            found = self.execute(text, None)
        except self.Error as caught:
            self.refused(caught, error)
        else:
            assert not error, text
        self.say(text, error)
        return found

    def use(self) -> None:
        """Another database, and back."""
        for name in (DATABASES[1 - self.number % 2], DATABASES[self.number % 2]):
            self.ask(f"USE `{name}`")
            self.database = name
            self.where_it_is()
        self.ask("USE nosuch", error="1049")
        self.ask(f"SELECT {self.mark()}")

    def where_it_is(self) -> None:
        """Asks the server, too."""
        found = self.ask(f"SELECT {self.mark()}, database()")
        assert found[0][1] == self.database, found

    def transaction(self) -> None:
        self.ask("START TRANSACTION")
        self.ask(f"INSERT INTO items{self.number} (name) VALUES ({self.mark()})")
        self.ask(f"SELECT {self.mark()} FROM nosuch", error="1146")
        self.ask(f"INSERT INTO items{self.number} (name) VALUES ({self.mark()})")
        self.ask("ROLLBACK")

    def values(self) -> None:
        """Long ones, and such as look like packets."""
        self.ask(f"SELECT {self.mark()}, repeat('v', 1000) FROM seq_1_to_200")
        self.ask(f"SELECT {self.mark()}, repeat('v', 300000)")
        self.ask(
            f"SELECT {self.mark()}, repeat('v', 1000), (SELECT 1 UNION SELECT seq FROM seq_190_to_200 WHERE seq < s.seq) FROM seq_1_to_200 s",
            error="1242",
        )
        for packet in ("fe000002", "ff7a04233432303030", "00000002000000", "0364656600"):
            size = f"{len(packet) // 2:02x}000001"
            self.ask(f"SELECT {self.mark()}, repeat(x'{size}{packet}', 2000), x'{size}{packet}'")
            self.ask(f"SELECT {self.mark()}, repeat(x'{size}{packet}', 5) FROM seq_1_to_9")
        self.ask(f"SELECT {self.mark()} /* {'long ' * 1000} */")
        self.ask(f"SELECT {self.mark()}, length('{'p' * 70_000}')")
        inner = "\\0\\0\\0\\x03SELECT"
        self.ask(f"SELECT {self.mark()}, length('{inner * 3000}')")

    def run(self, rounds: int) -> None:
        self.ask(f"DROP TABLE IF EXISTS items{self.number}")
        self.ask(f"CREATE TABLE items{self.number} (id int AUTO_INCREMENT PRIMARY KEY, name text, k int UNIQUE)")
        for step in range(rounds):
            self.ask(f"SELECT {self.mark()}, name FROM items{self.number} WHERE k = 5")
            self.ask(f"SELEC {self.mark()}", error="1064")
            self.ask(f"SELECT {self.mark()} FROM nosuch", error="1146")
            self.ask(f"SELECT {self.mark()}, 'it''s', \"a\", `name` FROM items{self.number} # 'comment")
            self.transaction()
            self.values()
            self.use()
            self.one_round(is_first=step == 0)
            if step % 3 == 2:
                self.close()
                self.connect()
        self.close()


class PyMySQL(Asker):
    """The text protocol, END in its old form."""

    def connect(self) -> None:
        import pymysql

        self.module, self.Error = pymysql, pymysql.MySQLError
        flag = pymysql.constants.CLIENT.MULTI_STATEMENTS
        self.client = pymysql.connect(
            database=self.database, autocommit=True, local_infile=True, client_flag=flag, **self.options
        )

    def several(self) -> None:
        text = f"SELECT {self.mark()}; UPDATE items{self.number} SET name = name; SELECT repeat('v', 9000), 2"
        cursor = self.client.cursor()
        cursor.execute(text)
        while cursor.nextset():
            pass
        self.say(text)
        text = f"SELECT {self.mark()}; SELECT 1 FROM nosuch; SELECT 3"
        cursor.execute(text)
        try:
            cursor.nextset()
        except self.Error as caught:
            self.refused(caught, "1146")
        self.say(text, "1146")
        text = f"CALL two{self.number}({self.mark()})"
        cursor.execute(text)
        while cursor.nextset():
            pass
        self.say(text)

    def load(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("".join(f"{'x' * 60}{number}\n" for number in range(300)) + "\0\0\0\3SELECT 1\n" * 5000)
            file.flush()
            text = f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE items{self.number} (@a) SET name = {self.mark()}"
            self.execute(text, None)
            self.say(text)
            Path(file.name).write_text("")
            text = f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE nosuch (@a) SET name = {self.mark()}"
            self.ask(text, error="1146")
            self.ask(f"DELETE FROM items{self.number} WHERE name <> {self.mark()}")

    def commands(self) -> None:
        self.client.ping(reconnect=False)
        self.client.select_db(DATABASES[1])
        self.database = DATABASES[1]
        self.where_it_is()
        self.client.select_db(DATABASES[self.number % 2])
        self.database = DATABASES[self.number % 2]
        try:
            self.client.select_db("nosuch")
        except self.Error as caught:
            self.refused(caught, "1049")
        self.where_it_is()

    def one_round(self, *, is_first: bool) -> None:
        self.execute(f"CREATE OR REPLACE PROCEDURE two{self.number}(IN a text) BEGIN SELECT a; SELECT 2; END", None)
        self.several()
        self.load()
        self.commands()
        cursor = self.client.cursor(self.module.cursors.SSCursor)  # rows are read as they come
        text = f"SELECT {self.mark()}, repeat('v', 100) FROM seq_1_to_2000"
        cursor.execute(text)
        while cursor.fetchmany(100):
            pass
        cursor.close()
        self.say(text)
        if is_first:
            text = f"SELECT {self.mark()}, length('{'g' * (17 << 20)}')"
            assert self.execute(text, None)[0][1] == 17 << 20
            self.say(text)
            text = f"SELECT {self.mark()}, repeat('g', {17 << 20})"
            self.execute(text, None)
            self.say(text)
            self.ask(f"SELECT {self.mark()}")


class Connector(Asker):
    """MySQL's own: prepared statements, commands for a session."""

    pure = True

    def connect(self) -> None:
        import mysql.connector

        self.Error = mysql.connector.Error
        self.client = mysql.connector.connect(
            database=self.database, autocommit=True, use_pure=self.pure, ssl_disabled=True, **self.options
        )

    def prepared(self) -> None:
        text = f"INSERT INTO items{self.number} (name, k) VALUES (concat({self.mark()}, %s), %s)"
        cursor = self.client.cursor(prepared=True)
        for number in (self.count * 10, self.count * 10 + 1, self.count * 10):
            try:
                cursor.execute(text, ("s\0x" * 50, number))
                error = ""
            except self.Error as caught:
                self.refused(caught, error := "1062")
            self.say(text.replace("%s", "?"), error)
        cursor.close()
        cursor = self.client.cursor(prepared=True)
        for size in (3, 90_000):
            text = f"SELECT {self.mark()}, %s, length(%s) FROM seq_1_to_3"
            cursor.execute(text, ("v" * size, "w"))
            assert len(cursor.fetchall()) == 3
            self.say(text.replace("%s", "?"))
        cursor.close()
        cursor = self.client.cursor(prepared=True)
        text = f"SELECT {self.mark()}, %s FROM nosuch"
        try:
            cursor.execute(text, (1,))
        except self.Error as caught:
            self.refused(caught, "1146")
        self.say(text.replace("%s", "?"), "1146")
        cursor.close()

    def commands(self) -> None:
        self.client.ping()
        self.client.cmd_statistics()
        self.client.reset_session()
        self.where_it_is()
        other = DATABASES[1 - self.number % 2]
        for name in (other, self.database):
            self.client.cmd_change_user("shop", "s3cret", name)
            self.database = name
            self.where_it_is()

    def one_round(self, *, is_first: bool) -> None:  # noqa: ARG002
        self.prepared()
        self.commands()


class ConnectorC(Connector):
    """The same on MySQL's C library."""

    pure = False


class MariaDB(Asker):
    """MariaDB's own, on Python alone: the binary protocol, prepared and executed at once, in bulk."""

    part = "python"

    def connect(self) -> None:
        os.environ["MARIADB_PYTHON_CONNECTOR"] = self.part
        import mariadb

        self.Error = mariadb.Error
        self.client = mariadb.connect(database=self.database, autocommit=True, **self.options)

    def binary(self) -> None:
        text = f"INSERT INTO items{self.number} (name, k) VALUES (concat({self.mark()}, ?), ?)"
        cursor = self.client.cursor(binary=True)
        for number in (self.count * 10, self.count * 10 + 1, self.count * 10):
            try:
                cursor.execute(text, ("s\0x" * 50, number))
                error = ""
            except self.Error as caught:
                self.refused(caught, error := "1062")
            self.say(text, error)
        for size in (3, 90_000):
            text = f"SELECT {self.mark()}, ?, length(?) FROM seq_1_to_3"
            cursor.execute(text, ("v" * size, "w"))
            assert len(cursor.fetchall()) == 3
            self.say(text)
        cursor.close()

    def bulk(self) -> None:
        rows = [("b" * 100 + str(number),) for number in range(200)]
        for binary in (False, True):
            text = f"INSERT INTO items{self.number} (name) VALUES (concat({self.mark()}, ?))"
            cursor = self.client.cursor(binary=binary)
            cursor.executemany(text, rows)
            cursor.close()
            if self.part != "python":
                self.say(text)
                continue
            for (value,) in rows:  # all at once, each by itself
                self.say(text if binary else text.replace("?", f"'{value}'"))

    def one_round(self, *, is_first: bool) -> None:  # noqa: ARG002
        self.binary()
        self.bulk()
        self.client.ping()
        self.client.reset()
        self.where_it_is()


class MariaDBC(MariaDB):
    """The same on MariaDB's C library."""

    part = "binary"


CLIENTS = {
    "pymysql": PyMySQL,
    "connector": Connector,
    "connector-c": ConnectorC,
    "mariadb": MariaDB,
    "mariadb-c": MariaDBC,
}


def failed(what: threading.ExceptHookArgs) -> None:
    sys.__excepthook__(what.exc_type, what.exc_value or SystemExit(), what.exc_traceback)
    os._exit(1)


def main() -> None:
    threading.excepthook = failed
    where, clients, (threads, rounds) = sys.argv[1], sys.argv[2].split(","), map(int, sys.argv[3:5])
    askers = [CLIENTS[clients[number // threads]](where, number) for number in range(threads * len(clients))]
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
