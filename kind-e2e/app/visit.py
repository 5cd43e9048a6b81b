# SPDX-License-Identifier: Apache-2.0
"""Somebody who visits the shop for ever, a few times a second: visit.py HOST:PORT."""

import http.client
import itertools
import sys
import time

REQUESTS = (
    ("POST", "/orders/{number}"),
    ("GET", "/orders/{number}"),
    ("POST", "/report"),
    ("GET", "/compare"),
    ("GET", "/invoices/7"),
)
PAUSE_SECONDS = 0.2


def visit(address: str, method: str, path: str) -> int:
    """One request over a connection of its own, so that a Service gives it to any of its pods."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    for number in itertools.count(1):
        for method, form in REQUESTS:
            path = form.format(number=number)
            try:
                print(method, path, visit(sys.argv[1], method, path))
            except (OSError, http.client.HTTPException) as error:
                print(method, path, repr(error))
            time.sleep(PAUSE_SECONDS)
