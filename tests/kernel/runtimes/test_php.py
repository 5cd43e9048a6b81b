# SPDX-License-Identifier: Apache-2.0
"""What spans say of PHP code is what the program itself said: function, file and line, of every frame.

With opcache and both kinds of JIT; functions, closures, classes and files that are made and dropped; workers of fpm behind a
FastCGI client. Nothing may be wrong.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest

from kernelspan_agent.targets import select
from tests.support import fastcgi, php_runs, truth
from tests.support.php_runs import FUNCTION_JIT, OPCACHE, TRACING_JIT, Outcome, needed, wanted_phps
from tests.support.truth import judge

pytestmark = pytest.mark.root
JIT_SINCE = "8.0"
SETTINGS = {"plain": (), "opcache": OPCACHE, "function JIT": FUNCTION_JIT, "tracing JIT": TRACING_JIT}


def assert_all_right(outcome: Outcome, at_least: int, truncated: int = 0) -> None:
    """Nothing is wrong, nothing missing, and enough was said for that to mean something."""
    verdict = judge(outcome.said, outcome.spans, allow_outer_missing=True)
    assert verdict.said >= at_least, verdict
    assert verdict.right == verdict.said, verdict
    assert verdict.truncated == truncated, verdict
    assert outcome.accounting["unaccounted"] == 0
    assert not outcome.accounting["dropped"]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("label", wanted_phps())
def test_every_frame_is_true(label: str, settings: str) -> None:
    """Methods, closures, generators that delegate, fibers, magic methods, destructors, includes, eval, call-backs, exceptions:
    thousands of operations of two programs at once.
    """
    php = needed(label)
    if "JIT" in settings and php_runs.version_of(php) < JIT_SINCE:
        pytest.skip("it has no JIT")
    outcome = php_runs.traced(php, "kinds", "40", settings=SETTINGS[settings], at_once=2)
    assert (outcome.opcache, outcome.jit) == (settings != "plain", "JIT" in settings)
    assert_all_right(outcome, 9000, truncated=2)


@pytest.mark.parametrize("settings", ["plain", "opcache"])
@pytest.mark.parametrize("label", wanted_phps())
def test_functions_that_are_made_and_dropped(label: str, settings: str) -> None:
    """Whatever had an address before, a frame's name is that of the function that ran."""
    outcome = php_runs.traced(needed(label), "dropped", "1000", settings=SETTINGS[settings], at_once=2)
    assert_all_right(outcome, 10_000)


@pytest.mark.parametrize("settings", ["plain", "opcache", "tracing JIT"])
@pytest.mark.parametrize("label", wanted_phps())
def test_workers_of_fpm(label: str, settings: str) -> None:
    """Two workers at once, each ended and begun anew all the time, and one script whose functions are other ones each time."""
    if "JIT" in settings and label.rpartition("-")[2] < JIT_SINCE:
        pytest.skip("it has no JIT")
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
