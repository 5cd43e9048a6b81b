# SPDX-License-Identifier: Apache-2.0
"""A small web shop as one would write it: Flask, SQLite, a template, a file cache, another service, threads, asyncio.

Nothing in it knows of tracing. SHOP_DATA names its folder, SHOP_PRICES the price service's host:port.
"""

import asyncio
import csv
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import requests
from cachelib import FileSystemCache
from flask import Flask, abort, render_template

DATA = Path(os.environ["SHOP_DATA"])
PRICES = os.environ["SHOP_PRICES"]

app = Flask(__name__)
app.config["TEMPLATES_AUTO_RELOAD"] = True
cache = FileSystemCache(str(DATA / "cache"), default_timeout=5)
pool = ThreadPoolExecutor(max_workers=3, thread_name_prefix="report")


class Orders:
    """The orders in the database."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create_table(self) -> None:
        """Make an empty database."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS items (number INTEGER, name TEXT)")

    def load(self, number: int) -> list[str]:
        """The names of an order's items."""
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT name FROM items WHERE number = ?", (number,))
            return [name for (name,) in rows]

    def add(self, number: int, names: Sequence[str]) -> None:
        """Store an order."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany("INSERT INTO items VALUES (?, ?)", [(number, name) for name in names])


orders = Orders(DATA / "shop.db")
orders.create_table()


def price_of(name: str) -> int:
    """A price in cents: from the cache, else from the price service."""
    cents = cache.get(name)
    if cents is None:
        cents = requests.get(f"http://{PRICES}/price/{name}", timeout=5).json()["cents"]
        cache.set(name, cents)
    return int(cents)


@app.post("/orders/<int:number>")
def place_order(number: int) -> str:
    """Store a new order."""
    orders.add(number, ["tea", "biscuits"])
    return "stored\n"


@app.get("/orders/<int:number>")
def show_order(number: int) -> str:
    """Show an order as a page."""
    names = orders.load(number) or abort(404)
    return render_template("order.html", number=number, items=[(name, price_of(name)) for name in names])


def write_report(name: str) -> None:
    """Write one sheet of the report."""
    with (DATA / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[number, name] for number in range(500)])


@app.post("/report")
def report() -> str:
    """Write the sheets of a report side by side, in a pool of threads."""
    list(pool.map(write_report, ["sales", "stock", "tax"]))
    return "written\n"


async def ask(name: str) -> int:
    """How many bytes the price service says of an item."""
    host, port = PRICES.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /price/{name} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return len(answer)


async def ask_all(names: Sequence[str]) -> list[int]:
    """The same of several, side by side."""
    return await asyncio.gather(*map(ask, names))


@app.get("/compare")
def compare() -> str:
    """Ask for two prices at once, in coroutines."""
    return f"{asyncio.run(ask_all(['tea', 'coffee']))}\n"


@app.get("/invoices/<int:number>")
def invoice(number: int) -> bytes:
    """An invoice, if it has been written."""
    try:
        return (DATA / f"invoice-{number}.pdf").read_bytes()
    except FileNotFoundError:
        abort(404)
