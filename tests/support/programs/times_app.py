# SPDX-License-Identifier: Apache-2.0
"""Answers `/job/N`: computes and sleeps for some milliseconds that depend on N, and says how long, in ns, it did either."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

MS = 1_000_000


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    number = int(environ["PATH_INFO"].rpartition("/")[2])
    began = time.thread_time_ns()
    while time.thread_time_ns() - began < number % 4 * MS:
        pass
    fell_asleep = time.monotonic_ns()
    for _ in range(number % 3):
        time.sleep(0.002)
    slept = time.monotonic_ns() - fell_asleep if number % 3 else 0
    answer = f"{number} {time.thread_time_ns() - began} {slept}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
