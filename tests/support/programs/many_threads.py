# SPDX-License-Identifier: Apache-2.0
"""many_threads.py COUNT: so many threads at once, each of which then asks for the state of a file once.

They begin and go on one after another: thousands that wait for the interpreter's lock wake up 200 times a second each,
and nothing else happens any more.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading

STACK_BYTES = 64 << 10

begun, gate, end = _thread.allocate_lock(), _thread.allocate_lock(), _thread.allocate_lock()
left = 0


def work() -> None:
    """What each thread does."""
    global left  # noqa: PLW0603 - guarded by the gate
    begun.release()
    with gate:
        os.stat("/proc/self")  # noqa: PTH116 - one call
        left -= 1
        if not left:
            end.release()


def main(count: int) -> None:
    """Starts them, says so, and lets them go when it is told."""
    global left  # noqa: PLW0603
    left = count
    threading.stack_size(STACK_BYTES)
    for lock in (begun, gate, end):
        lock.acquire()
    for _ in range(count):
        _thread.start_new_thread(work, ())
        begun.acquire()
    os.write(1, b"ready\n")
    os.read(0, 1)
    gate.release()
    end.acquire()


if __name__ == "__main__":
    main(int(sys.argv[1]))
