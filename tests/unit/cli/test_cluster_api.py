# SPDX-License-Identifier: Apache-2.0
"""Reading from an API server: pages, its clock, and answers that no API server should give."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kernelspan_agent.cli.cluster import api as module
from kernelspan_agent.cli.cluster.api import Api, RefusedError
from kernelspan_agent.cli.cluster.kubeconfig import Access
from kernelspan_agent.errors import MachineError
from kernelspan_api.objects import Metadata

Answer = tuple[int, bytes, dict[str, str]]
WHEN, WHEN_SECONDS = "Thu, 01 Jan 2026 00:00:10 GMT", 1_767_225_610


@contextmanager
def served(answers: Callable[[str], Answer]) -> Iterator[tuple[Api, list[tuple[str, str | None]]]]:
    """A server on loopback that answers so, and what it was asked: path and token."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            status, body, headers = answers(self.path)
            self.send_response_only(status)
            for name, value in ({"Date": WHEN, "Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Api(Access(url, "test", ssl.create_default_context(), token="secret")), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pages_and_clock() -> None:
    """All of them are read, with the token; the time is the server's."""

    def answers(path: str) -> Answer:
        last = "continue=next%2Fpage" in path
        meta = {} if last else {"continue": "next/page"}
        items = [{"metadata": {"name": "b" if last else "a"}}]
        return 200, json.dumps({"metadata": meta, "items": items}).encode(), {}

    with served(answers) as (api, asked):
        found = api.items("/x", Metadata, fieldSelector="metadata.name=a")
        assert [one.metadata.name for one in found] == ["a", "b"]
        assert api.now_seconds == WHEN_SECONDS
    assert [token for _, token in asked] == ["Bearer secret"] * 2
    assert all("fieldSelector=metadata.name%3Da&limit=500" in path for path, _ in asked)


def test_redirect_is_not_followed() -> None:
    """Nor is the token sent to where it points."""
    with (
        served(lambda _: (200, b"{}", {})) as (there, other),
        served(lambda _: (302, b"", {"Location": f"{there.server}/y"})) as (api, asked),
    ):
        with pytest.raises(RefusedError, match="302"):
            api.one("/x", Metadata)
        assert len(asked) == 1
    assert other == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((200, b"<html>", {}), MachineError, "answers as no API server does"),
        ((200, b"[]", {}), MachineError, "answers as no API server does"),
        ((200, b'{"metadata": {"name": 1}}', {}), MachineError, "answers as no API server does"),
        ((200, b"x" * 65, {}), RefusedError, "more than 64 bytes"),
        ((200, b"{", {"Content-Length": "9"}), MachineError, "answers as no API server does"),
        ((401, b'{"message": "who?"}', {}), MachineError, "does not know us: who"),
        ((403, b'{"message": "no rights"}', {}), RefusedError, "no rights"),
        ((500, b"<html>", {}), RefusedError, "500"),
    ],
)  # fmt: skip
def test_answer_that_is_none(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, kind: type[Exception], words: str
) -> None:
    """An error that says so, never a half-read object."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 64)
    with served(lambda _: answer) as (api, _), pytest.raises(kind, match=words):
        api.one("/x", Metadata)


def test_list_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are bounded."""
    monkeypatch.setattr(module, "_MAX_PAGES", 3)
    body = json.dumps({"metadata": {"continue": "more"}, "items": []}).encode()
    with served(lambda _: (200, body, {})) as (api, asked):
        with pytest.raises(RefusedError, match="more than 1500 objects"):
            api.items("/x", Metadata)
        assert len(asked) == 3
