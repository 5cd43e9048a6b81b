# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm.sleepers COUNT: so many threads that are asleep at once, each of which lives on until all have slept."""

from __future__ import annotations

import sys
import threading
import time

SECONDS = 1.0  # emulated: all have gone to sleep before the first wakes up


def main(count: int) -> None:
    """Everything."""
    slept = threading.Barrier(count)

    def sleep() -> None:
        time.sleep(SECONDS)
        slept.wait()

    threads = [threading.Thread(target=sleep) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
