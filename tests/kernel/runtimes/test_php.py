# SPDX-License-Identifier: Apache-2.0
"""What spans say of PHP code is what the program itself said: function, file and line, of every frame.

With opcache and both kinds of JIT; functions, closures, classes and files that are made and dropped; workers of fpm behind a
FastCGI client. Nothing may be wrong.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest

from kernelspan_agent.runtimes.php.symbolise import PhpSymboliser
from kernelspan_agent.targets import select
from tests.support import fastcgi, php_runs, truth
from tests.support.php_runs import FUNCTION_JIT, OPCACHE, TRACING_JIT, Outcome, needed, wanted_phps
from tests.support.truth import judge

pytestmark = pytest.mark.root
JIT_SINCE = "8.0"
SETTINGS = {"plain": (), "opcache": OPCACHE, "function JIT": FUNCTION_JIT, "tracing JIT": TRACING_JIT}


def with_every_php(*settings: str) -> list[tuple[str, str]]:
    """Labels and settings, of a JIT where there is one."""
    versions = {label: label.rpartition("-")[2] for label in wanted_phps()}
    return [
        (label, each)
        for label, version in versions.items()
        for each in settings
        if "JIT" not in each or version >= JIT_SINCE
    ]


def assert_all_right(outcome: Outcome, at_least: int, truncated: int = 0) -> None:
    """Nothing is wrong, nothing missing, and enough was said for that to mean something."""
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said >= at_least, verdict
    assert verdict.right == verdict.said, verdict
    assert verdict.truncated == truncated, verdict
    assert outcome.accounting["unaccounted"] == 0
    assert not outcome.accounting["dropped"]


@pytest.mark.parametrize(("label", "settings"), with_every_php(*SETTINGS))
def test_every_frame_is_true(label: str, settings: str) -> None:
    """Methods, closures, generators that delegate, fibers, magic methods, destructors, includes, eval, call-backs, exceptions:
    thousands of operations of two programs at once.
    """
    outcome = php_runs.traced(needed(label), "kinds", "40", settings=SETTINGS[settings], at_once=2)
    assert (outcome.opcache, outcome.jit) == (settings != "plain", "JIT" in settings)
    assert_all_right(outcome, 9000, truncated=2)


@pytest.mark.parametrize(("label", "settings"), with_every_php("plain", "opcache"))
def test_functions_that_are_made_and_dropped(label: str, settings: str) -> None:
    """Whatever had an address before, a frame's name is that of the function that ran."""
    outcome = php_runs.traced(needed(label), "dropped", "1000", settings=SETTINGS[settings], at_once=2)
    assert_all_right(outcome, 10_000)


@pytest.mark.parametrize(("label", "settings"), with_every_php("plain", "opcache", "tracing JIT"))
def test_workers_of_fpm(label: str, settings: str) -> None:
    """Two workers at once, each ended and begun anew all the time, and one script whose functions are other ones each time."""
    with (
        tempfile.TemporaryDirectory() as made,
        php_runs.fpm(needed(label, "/usr/sbin/php-fpm"), workers=2, requests=30, settings=SETTINGS[settings]) as server,
    ):
        output = Path(made) / "spans.jsonl"
        with truth.open_app(output) as app:
            master = server.program.pid
            for process in [select.by_pid(master), *select.descendants([master])]:
                app.select(process.pid, "fpm")
            php_runs.wait_for_walker(app)
            problems: list[str] = []
            clients = [threading.Thread(target=_ask, args=(server, start, 150, problems)) for start in (0, 1000)]
            for client in clients:
                client.start()
            truth.run_until(app, lambda: not any(client.is_alive() for client in clients))
            app.end(10.0)
            accounting = app.accounting().as_json()
            runtimes = dict(app.processes.runtimes)
        assert not problems, (problems[:3], server.log())
        outcome = php_runs.outcome([server.folder / "said"], output, accounting)
    assert_all_right(outcome, 3000)
    pids = {each.pid for each in outcome.said}
    assert len(pids) >= 6, pids
    assert sum(runtimes.values()) > len(pids)


def _ask(server: php_runs.Fpm, start: int, count: int, problems: list[str]) -> None:
    for number in range(start, start + count):
        query = urlencode({"out": f"{server.inside}/said", "number": number, "rows": number % 5 + 1})
        answer = fastcgi.request(server.socket, f"{server.inside}/request.php", query)
        if f'"number":{number}' not in answer.body.decode(errors="replace") or answer.errors:
            problems.append(f"{answer}")


def test_strings_that_a_worker_has_not_touched(tmp_path: Path) -> None:
    """Names in opcache's shared memory, of which a new worker has no page yet: the agent reads them where the kernel could not."""
    count, completed = 4000, Counter[bool]()
    complete = PhpSymboliser._complete

    def counted(self: PhpSymboliser, code: int) -> Any:
        found = complete(self, code)
        completed[found is not None] += 1
        return found

    # Its closures have names of their own, and few pages are mapped ahead.
    php = needed("experimental-8.5", "/usr/sbin/php-fpm")
    with php_runs.fpm(php, workers=2, requests=8, settings=OPCACHE) as server:
        call = "(function () use ($token, $k) { file_exists('/kernelspan-truth/' . $token . '/' . $k); })();"
        cases = [f"case {number}: {call} break;" for number in range(count)]
        head = ["<?php", "$k = (int)$_GET['k'];", "$token = $_GET['token'];", "switch ($k) {"]
        (server.folder / "many.php").write_text("\n".join([*head, *cases, "}", "echo 'done';"]))
        file, token = f"{server.inside}/many.php", "00000000000a"
        asked = random.Random(1).sample(range(1, count), 200)
        fastcgi.request(server.socket, file, urlencode({"k": 0, "token": "000000000000"}))
        with (
            mock.patch.object(PhpSymboliser, "_complete", counted),
            mock.patch("kernelspan_agent.intake.IDLE_WAIT_SECONDS", 0.001),
            truth.open_app(tmp_path / "spans.jsonl") as app,
        ):
            for process in [select.by_pid(server.program.pid), *select.descendants([server.program.pid])]:
                app.select(process.pid, "fpm")
            php_runs.wait_for_walker(app)

            for number in asked:  # the agent looks at each while its worker lives, unless it was that one's last
                fastcgi.request(server.socket, file, urlencode({"k": number, "token": token}))
                truth.run_until(app, lambda: app.accounting().unaccounted == app.accounting().in_flight == 0)
            app.end(10.0)
    spans = truth.by_key(truth.read_spans(tmp_path / "spans.jsonl"))
    missing = Counter[str]()
    for number in asked:
        (span,) = spans[f"{token}/{number}"]
        stack, line = span.attributes.get("code.stacktrace"), number + 5
        if stack is None:
            missing[str(span.attributes["kernelspan.code.missing"])] += 1
            continue
        expected = [
            ("file_exists", "[internal function]", 0),
            (f"{{closure:{file}:{line}}}", file, line),
            ("{main}", file, line),
        ]
        shown = truth.parse_stack(str(stack))
        if span.attributes.get("kernelspan.code.missing") == "NotResident":  # the function itself lies in such a page
            missing["NotResident"] += 1
            expected = expected[: len(shown)]
        assert shown == expected
    assert set(missing) <= {"MemoryUnreadable", "NotResident"}  # of a worker that ended meanwhile
    assert missing.total() < len(asked) / 5, missing
    assert completed[True] > 3, completed  # else this shows nothing


def test_what_a_span_has_of_php() -> None:
    """The runtime's name and version are attributes of the resource; an internal function's frame is the runtime's."""
    php = needed(wanted_phps()[1])
    outcome = php_runs.traced(php, "kinds", "1")
    spans = [span for found in outcome.spans.values() for span in found]
    assert {span.resource["process.runtime.name"] for span in spans} == {"PHP"}
    (version,) = {str(span.resource["process.runtime.version"]) for span in spans}
    assert version.startswith(php_runs.version_of(php))
    assert {span.attributes["kernelspan.code.origin"] for span in spans} == {"Runtime"}


def test_python_is_traced_without_a_walker_for_php() -> None:
    """Who does not trace PHP does not load its walker."""
    python = truth.needed(truth.wanted_pythons()[0])
    sequence: Sequence[truth.Outcome] = truth.traced_together([truth.Launch(python, "kinds", ("1",))])
    assert sequence[0].said
    with tempfile.TemporaryDirectory() as made, truth.open_app(Path(made) / "spans.jsonl") as app:
        assert "ks_py" in app.session.programs()
        assert not any(name.startswith("ks_php") for name in app.session.programs())
