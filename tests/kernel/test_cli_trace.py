# SPDX-License-Identifier: Apache-2.0
"""`kernelspan trace` on a real server: a line for each request, what they come to by route, and the slowest ones whole."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import runs, venvs
from tests.support.ports import PortReservation

pytestmark = pytest.mark.root
NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8]  # the seventh fails; each waits for N % 3 ms three times
LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3}  (\d{3})  (\S+ \S+)  (/job/(\d+)/\d)  (?:(\S+)  )?(?:gunicorn [\d.]+  )?gunicorn \[\d+\] +([\d.]+ \S+)"
)


def ask(port: int, numbers: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in numbers:
        connection.request("GET", f"/job/{number}/6?token=s3cret")
        connection.getresponse().read()
    connection.close()


def traced(folder: Path, *options: str) -> list[str]:
    """What it prints of a gunicorn that answers `ask`, once a request has been seen to be a thread's."""
    with PortReservation(1) as reserved:
        (port,) = reserved.ports
        server = [venvs.library_venv() / "bin" / "python", "-m", "gunicorn", "-w", "1", "-k", "sync"]
        command = [runs.KERNELSPAN, "trace", *options, "--", *server, "-b", f"127.0.0.1:{port}", "requests_app:wsgi"]
        output, wide = folder / "output", {**os.environ, "COLUMNS": "200"}
        with (
            output.open("wb") as file,
            subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, cwd=runs.PROGRAMS, env=wide) as started,
        ):
            try:
                wait_until(lambda: warm(port) and "requests_app" in output.read_text(), "answering")
                ask(port, NUMBERS)
                wait_until(lambda: "/job/8/6" in output.read_text(), "the last one was told")
                started.send_signal(signal.SIGINT)
                assert started.wait(30) == 0
            finally:
                started.kill()
        return output.read_text().splitlines()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + runs.TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def warm(port: int) -> bool:
    try:
        ask(port, [0])
    except OSError:
        return False
    return True


def test_lines_table_and_trees(tmp_path: Path) -> None:
    """Each request once, with its status and the function that took its time; a token in a query is nowhere."""
    said = traced(tmp_path, "--slowest", "2")
    found = [matched for line in said if (matched := LINE.fullmatch(line)) and matched[4] != "0"]
    assert [int(each[4]) for each in found] == NUMBERS
    assert [each[1] for each in found] == ["500" if number == 7 else "200" for number in NUMBERS]
    assert {each[2] for each in found} == {"GET /job/{id}/{id}"}
    assert {each[5] for each in found} <= {"requests_app.touch", "requests_app.wsgi"}
    head = next(at for at, line in enumerate(said) if line.startswith("service "))
    service, method, route, count, failed, *_ = said[head + 1].split()
    assert (service, method, route, failed) == ("gunicorn", "GET", "/job/{id}/{id}", "1")
    assert (said[head].split()[-2:], said[head + 1][-1]) == (["on", "CPU"], "%")
    assert int(count) == len(NUMBERS) + sum(line.count("/job/0/") for line in said[:head])
    trees = [line for line in said[head:] if line.startswith("GET /job/")]
    assert len(trees) == 2
    assert sum("file.stat  /kernelspan-request/" in line for line in said[head:]) == 12
    assert "s3cret" not in "\n".join(said)


def test_who_is_to_be_traced() -> None:
    """Nothing by itself: what to do is said."""
    done = subprocess.run([runs.KERNELSPAN, "trace"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing to trace" in done.stderr
