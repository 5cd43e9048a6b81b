# SPDX-License-Identifier: Apache-2.0
"""A wiki as it is: DokuWiki of Debian's behind fpm, asked for its pages. Whatever it does says in whose code."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import pytest

from kernelspan_agent.targets import select
from tests.support import fastcgi, php_runs, phps, truth
from tests.support.pythons import Interpreter
from tests.support.require import require
from tests.support.runs import operation_of

pytestmark = pytest.mark.root
PROFILE = truth.PROFILE.replace("files: {operations: [Read, Stat]}", "files: {}\n  network: {}")
FOLDER = "/usr/share/dokuwiki"
SCRIPT = f"{FOLDER}/doku.php"
PAGES = (
    {"id": "start"},
    {"do": "index"},
    {"do": "search", "q": "wiki"},
    {"id": "wiki:syntax"},
    {"do": "login"},
    {"do": "recent"},
    {"id": "start", "do": "edit"},
    {"id": "wiki:syntax", "do": "export_xhtml"},
)


def _ask(server: php_runs.Fpm, answers: list[fastcgi.Answer]) -> None:
    for page in PAGES:
        query = urlencode(page)
        more = {
            "SCRIPT_NAME": "/doku.php",
            "REQUEST_URI": f"/doku.php?{query}",
            "HTTP_HOST": "wiki",
            "REMOTE_ADDR": "::1",
        }
        answers.append(fastcgi.request(server.socket, SCRIPT, query, {**more, "DOCUMENT_ROOT": FOLDER}))


def test_every_operation_of_a_request_has_an_owner(tmp_path: Path) -> None:
    """An App or Library frame, but for what fpm does before the script begins; nothing is lost or unresolved."""
    try:
        php = Interpreter("wiki-8.2", 2, "/usr/sbin/php-fpm8.2", phps.wiki())
    except phps.PhpsError as error:
        require("kernel", False, str(error))
        raise
    settings = [f"extension={each}.so" for each in ("xml", "dom", "mbstring")]
    answers: list[fastcgi.Answer] = []
    with (
        php_runs.fpm(php, workers=2, requests=5, settings=settings) as server,
        truth.open_app(tmp_path / "spans.jsonl", PROFILE) as app,
    ):
        master = server.program.pid
        for process in [select.by_pid(master), *select.descendants([master])]:
            app.select(process.pid, "fpm")
        php_runs.wait_for_walker(app)
        clients = [threading.Thread(target=_ask, args=(server, answers)) for _ in range(2)]
        for client in clients:
            client.start()
        truth.run_until(app, lambda: not any(client.is_alive() for client in clients))
        app.end(10.0)
        frames, accounting = dict(app.tables.stacks.frames), app.accounting().as_json()
    assert len(answers) == 2 * len(PAGES)
    assert all("dokuwiki" in answer.body.decode(errors="replace").lower() for answer in answers)
    assert not [answer.errors for answer in answers if answer.errors]
    assert set(frames) == {"resolved"}
    assert (accounting["unaccounted"], accounting["dropped"]) == (0, {})
    files = [
        span
        for span in truth.read_spans(tmp_path / "spans.jsonl")
        if span.name.startswith("file.") and operation_of(span)
    ]
    owned = Counter("code.function.name" in span.attributes for span in files)
    assert owned[True] > 10_000
    ownerless = Counter(
        str(span.attributes.get("file.path")) for span in files if "code.stacktrace" not in span.attributes
    )
    assert owned[False] == ownerless.total()  # whoever has frames has an App one among them
    # What fpm does itself: where the script is, which settings its folder has, its own log.
    parents = {str(folder) for folder in Path(SCRIPT).parents}
    assert set(ownerless) - parents <= {SCRIPT, f"{FOLDER}/.user.ini", f"{server.inside}/fpm.log"}
