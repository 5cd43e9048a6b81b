# SPDX-License-Identifier: Apache-2.0
"""stuck.py THREADS HOW: threads that wait in a receive, or in a close that lingers, until they are killed or told to end.

Says when all of them wait, then reads a byte: the process then ends without them.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

CALLS = {"receive": "45 ", "close": "3 "}  # as /proc/PID/task/TID/syscall begins on x86-64


def _receive() -> None:
    _, b = socket.socketpair()
    b.recv(1)


def _close() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.create_connection(listener.getsockname())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 100))
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        sock.setblocking(True)
    keep.append(listener)
    sock.close()


keep: list[object] = []


def _waiting(beginning: str) -> int:
    found = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "syscall").read_text().startswith(beginning)
        except OSError:
            continue
    return found


def main() -> None:
    """Waits."""
    count, how = int(sys.argv[1]), sys.argv[2]
    for _ in range(count):
        threading.Thread(target=_receive if how == "receive" else _close, daemon=True).start()
    while _waiting(CALLS[how]) < count:
        time.sleep(0.005)
    os.write(1, b"waiting\n")
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
