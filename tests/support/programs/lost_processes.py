# SPDX-License-Identifier: Apache-2.0
"""python lost_processes.py FOLDER COUNT STORM: begins processes while nobody reads what is told of them.

Files in the folder say how far it is, and what to do next: it makes `ready`, waits for `go`, looks at STORM files, begins a
fork of itself and another program, makes `begun`, looks at /mark/awake until there is `work`. Then both, a child of each and
the program itself each look COUNT times at /mark/WHO/NUMBER, by a function that is called as they are, and wait for `end`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE, COUNT, STORM = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def look(name: str) -> None:
    with contextlib.suppress(OSError):
        os.stat("/mark/" + name)  # noqa: PTH116 - one call and no more


def itself() -> None:
    for number in range(COUNT):
        look(f"itself/{number}")


def forked() -> None:
    for number in range(COUNT):
        look(f"forked/{number}")


def forked_later() -> None:
    for number in range(COUNT):
        look(f"forked_later/{number}")


def execed() -> None:
    for number in range(COUNT):
        look(f"execed/{number}")


def execed_later() -> None:
    for number in range(COUNT):
        look(f"execed_later/{number}")


def is_there(name: str) -> bool:
    return name in os.listdir(HERE)  # noqa: PTH208 - looks at no file


def wait_for(name: str) -> None:
    while not is_there(name):
        time.sleep(0.01)


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        work()
        wait_for("end")
        os._exit(0)
    return child


def work_and_fork(work: Callable[[], None], later: Callable[[], None]) -> None:
    """Once it is told to; a child of its own works after it."""
    wait_for("work")
    work()
    os.waitpid(fork(later), 0)


def main() -> None:
    (HERE / "ready").touch()
    wait_for("go")
    for number in range(STORM):
        look(f"storm/{number}")
    child = fork(lambda: work_and_fork(forked, forked_later))
    other = subprocess.Popen([sys.executable, "-S", __file__, *sys.argv[1:4], "other"])
    (HERE / "begun").touch()
    while not is_there("work"):
        look("awake")
        time.sleep(0.01)
    itself()
    os.waitpid(child, 0)
    other.wait()


if __name__ == "__main__":
    if sys.argv[4:]:
        work_and_fork(execed, execed_later)
    else:
        main()
