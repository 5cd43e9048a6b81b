# SPDX-License-Identifier: Apache-2.0
"""A real server as a child process: started, waited for until it says that it is healthy, stopped by its own pid.

Its output goes to a log file, whose end is part of every error here and of the report of every test that fails while
the server runs.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_SECONDS = 60.0  # ready in 0.1 s alone; the rest is for machines that do much else
_STOP_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.02
_HTTP_TIMEOUT_SECONDS = 10.0
_BODY_LIMIT_BYTES = 256 << 20
_LOG_TAIL_BYTES = 8_000
_INHERITED = ("PATH", "HOME", "TMPDIR")  # not OTEL_*, proxies or GO*: a test's server is the same on every machine

_running: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


class ServerError(AssertionError):
    """A server did not start, did not answer, or did not get what it should have: the message holds its log's end."""


class ServerProcess:
    """One command that serves until it is stopped; may be started again after `stop` or `kill`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        healthy: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        """`healthy` is asked until it is true; an OSError or HTTP error from it means not yet.

        The child's environment is `environment` and PATH, HOME and TMPDIR of ours, and where a Python crashes its log says so.
        """
        self.name = name
        self.log = log
        self._environment = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "PYTHONFAULTHANDLER": "1",
            **(environment or {}),
        }
        self._command = [str(part) for part in command]
        self._healthy, self._start_seconds = healthy, start_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id. Raises ServerError while none runs."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts and waits until healthy. Raises ServerError, with nothing left running, if that does not come."""
        if self._process is not None:
            raise ServerError(f"{self.name} already runs as {self._process.pid}")
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops this in order
            )
        _running.add(self)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL for one that does not end; its exit status, negative for a signal; None if none ran."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int | None:
        """SIGKILL, and the process is gone on return."""
        return self._end(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last few kilobytes of what it wrote, over all its starts."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as source:
            source.seek(max(0, os.fstat(source.fileno()).st_size - _LOG_TAIL_BYTES))
            return source.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")
        return ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if not self.running:
                status = self._process.returncode if self._process else None
                raise ServerError(f"{self.name} ended with {status} instead of starting:\n{self.log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._healthy():
                    return
            time.sleep(_POLL_SECONDS)
        raise ServerError(f"{self.name} is not healthy after {self._start_seconds:g} s:\n{self.log_tail()}")

    def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        _running.discard(self)
        if process is None:
            return None
        process.send_signal(how)
        try:
            return process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def running_servers() -> list[ServerProcess]:
    """Every server that was started and not stopped, by name: for the report of a failing test."""
    return sorted(_running, key=lambda server: server.name)


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body (at most 256 MiB) of a GET at 127.0.0.1. Raises OSError or http.client.HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HTTP_TIMEOUT_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_BODY_LIMIT_BYTES)


def answers_ok(port: int, path: str) -> bool:
    """Whether a GET at 127.0.0.1 gives 200. Raises as `http_get`."""
    return http_get(port, path)[0] == http.HTTPStatus.OK
