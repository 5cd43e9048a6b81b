# SPDX-License-Identifier: Apache-2.0
"""A web application as it is: Sinatra on puma of Debian's, forked workers, asked by clients. Whatever it does says in whose code."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from kernelspan_agent.targets import select
from tests.support import rubies, ruby_runs, truth
from tests.support.ports import PortReservation
from tests.support.require import require

pytestmark = pytest.mark.root
PROFILE = truth.PROFILE.replace("files: {operations: [Read, Stat]}", "files: {}\n  network: {}")
REQUESTS = 15


def _ask(port: int, answers: list[bytes]) -> None:
    for number in range(REQUESTS):
        for path, data in ((f"/item/{number}", None), ("/list", None), ("/item", str(number).encode())):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=30) as answer:
                answers.append(answer.read())


def test_every_operation_of_a_request_has_an_owner(tmp_path: Path) -> None:
    """An App frame wherever the application asked for it; gems with the versions that RubyGems lists; nothing lost."""
    try:
        ruby = rubies.web()
    except rubies.RubiesError as error:
        require("kernel", False, str(error))
        raise
    with PortReservation(1) as held:
        (port,) = held.ports
    with ruby_runs.folder_in(ruby) as (_, inside):
        assert ruby.root is not None
        command = ("/usr/bin/puma", "-w", "2", "-t", "2:4", "-b", f"tcp://127.0.0.1:{port}", f"{inside}/web.ru")
        with ruby.running(*command) as program, truth.open_app(tmp_path / "spans.jsonl", PROFILE) as app:
            _wait(port)
            for process in [select.by_pid(program.pid), *select.descendants([program.pid])]:
                app.select(process.pid, "puma")
            ruby_runs.wait_for_walker(app)
            answers: list[bytes] = []
            clients = [threading.Thread(target=_ask, args=(port, answers)) for _ in range(3)]
            for client in clients:
                client.start()
            truth.run_until(app, lambda: not any(client.is_alive() for client in clients))
            app.end(10.0)
            frames, accounting = dict(app.tables.stacks.frames), app.accounting().as_json()
        listed = {
            f"{folder.name}" for folder in ruby.root.glob("usr/**/rubygems-integration/*/gems/*") if folder.is_dir()
        }
    assert len(answers) == 3 * 3 * REQUESTS
    assert set(frames) <= {"resolved", "truncated"}, frames
    assert (accounting["unaccounted"], accounting["dropped"]) == (0, {})
    spans = truth.read_spans(tmp_path / "spans.jsonl")
    shop = [span for span in spans if str(span.attributes.get("file.path", "")).startswith("/shop/")]
    assert len(shop) == 2 * 3 * REQUESTS
    asked = [span for span in shop if span.attributes.get("file.path") != "/shop/page"]
    assert {span.attributes.get("code.function.name") for span in asked} == {"block in <class:Shop>"}
    assert all(str(span.attributes.get("code.file.path")).endswith("/web.rb") for span in asked)
    libraries = Counter(str(span.attributes.get("kernelspan.library.name")) for span in spans)
    versions = {
        "-".join(str(span.attributes[f"kernelspan.library.{each}"]) for each in ("name", "version"))
        for span in spans
        if "kernelspan.library.version" in span.attributes
    }
    assert libraries["puma"] > REQUESTS
    assert {each for each in versions if each.startswith(("puma-", "sinatra-", "rack-", "nio4r-"))} <= listed


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30.0
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/list", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
