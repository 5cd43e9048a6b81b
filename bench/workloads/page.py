# SPDX-License-Identifier: Apache-2.0
"""A web page as the lines on applications mean it: Flask, a query, three file operations, a template, about 1 ms of work.

PAGE_DATA names a folder of its own.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from flask import Flask, render_template_string

DATA = Path(os.environ["PAGE_DATA"])
TEMPLATE = """<html><body><h1>{{ title }}</h1><table>
{% for row in rows %}<tr><td>{{ row.name | title }}</td><td>{{ "%.2f" | format(row.cents / 100) }}</td></tr>
{% endfor %}</table></body></html>"""

app = Flask(__name__)
database = sqlite3.connect(DATA / "page.db", check_same_thread=False)
database.execute("CREATE TABLE IF NOT EXISTS items (number INTEGER, name TEXT, cents INTEGER)")
database.executemany("INSERT INTO items VALUES (?, ?, ?)", [(at % 100, f"item {at}", at) for at in range(500)])
database.commit()
(DATA / "title.txt").write_text("A page\n")


@app.get("/page/<int:number>")
def page(number: int) -> str:
    """The page of a number."""
    title = (DATA / "title.txt").read_text()
    found = database.execute("SELECT name, cents FROM items WHERE number = ?", (number,)).fetchall()
    rows = [{"name": name, "cents": cents} for name, cents in found]
    (DATA / "seen.txt").write_text(str(number))
    if not (DATA / "closed").exists():
        return render_template_string(TEMPLATE, title=title, rows=rows)
    return "closed"
