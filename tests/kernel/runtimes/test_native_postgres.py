# SPDX-License-Identifier: Apache-2.0
"""A real program: Debian's PostgreSQL, stripped, without frame pointers, a process forked for each connection.

Every operation on files and on the network is to have frames down to where the process began, and one in the program's own code.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernelspan_agent.runtimes.native.detect import NUMBER
from kernelspan_api import semconv
from tests.support import databases, runs, truth
from tools import postgresql

pytestmark = pytest.mark.root
PROFILE = truth.PROFILE.replace(
    "files: {operations: [Read, Stat]}",
    "files: {operations: [Open, Read, Write, Stat]}\n  network: {operations: [Send, Receive, Accept]}",
)
STATEMENTS = """
CREATE TABLE things (id int PRIMARY KEY, name text);
INSERT INTO things SELECT n, repeat('x', n % 100) FROM generate_series(1, 5000) n;
CHECKPOINT;
SELECT count(*) FROM things a JOIN things b ON a.id = b.id + 1;
SELECT pg_read_file('PG_VERSION');
VACUUM ANALYZE things;
DROP TABLE things;
"""


def ask(port: int, statements: str) -> None:
    """By Debian's own client."""
    inside = postgresql.command(port, "", "psql")[:4]  # without what a server is told
    options = [
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-U",
        postgresql.USER,
        "-v",
        "ON_ERROR_STOP=1",
        "-q",
        "-d",
        "postgres",
    ]
    done = subprocess.run(
        [*inside, *options],
        input=statements,
        env={**os.environ, "PGPASSWORD": postgresql.PASSWORD},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_operation_has_its_frames(tmp_path: Path) -> None:
    """Of the server and of the processes that it forks."""
    with databases.postgres_data() as data, postgresql.server(data) as port:
        server = int(Path(f"{postgresql.root()}{data}/postmaster.pid").read_text().splitlines()[0])
        with truth.open_app(tmp_path / "spans.jsonl", PROFILE) as app:
            app.select(server, "postgres")
            truth.run_until(app, lambda: app.session.walks(NUMBER) and not app.processes.has_pending)
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(lambda: [ask(port, STATEMENTS) for _ in range(4)])
                truth.run_until(app, asked.done)
                asked.result()
            app.end(10.0)
            assert app.accounting().as_json()["unaccounted"] == 0
    spans = [span for span in truth.read_spans(tmp_path / "spans.jsonl") if runs.operation_of(span)]
    why = Counter(str(span.attributes.get(semconv.CODE_MISSING, "")) for span in spans)
    functions = Counter(str(span.attributes.get(semconv.CODE_FUNCTION_NAME, "")) for span in spans)
    print(len(spans), why, functions.most_common(12))
    assert len(spans) > 500
    whole = [span for span in spans if not span.attributes.get(semconv.CODE_MISSING)]
    assert len(whole) >= 0.995 * len(spans), why
    for span in whole:
        names = [function for function, _, _ in truth.parse_stack(str(span.attributes[semconv.CODE_STACKTRACE]))]
        assert names[-1] == "_start", names
        assert "main" in names
        assert str(span.attributes[semconv.CODE_FILE_PATH]).endswith("/bin/postgres")  # static functions have no names
    below = [str(span.attributes[semconv.CODE_STACKTRACE]) for span in whole]
    assert sum("PostgresMain " in text for text in below) > 100
    assert any("standard_ExecutorRun " in text for text in below)
